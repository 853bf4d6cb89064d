"""``doorward session``: who is signed in, and ending it."""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Collection
from typing import Any

from rich.table import Column, Table

from doorward.cli.access import Access
from doorward.cli.grants import user_id_of
from doorward.cli.operate import print_table, with_records
from doorward.cli.store import report_damaged
from doorward.cli.terminal import add_row, shown
from doorward.errors import DataCorruptedError, DoorwardError, NotFoundError
from doorward.identity import activity as activities
from doorward.identity import session as sessions
from doorward.identity import user as users
from doorward.identity.activity import Activity
from doorward.identity.session import Session
from doorward.identity.user import User
from doorward.records.client import RecordClient, Revoked
from doorward.records.record import Damaged

_PENDING_STATUS = 3
_ONE_BY_ONE = 50
"""More people than this are cheaper to read by pages."""


def list_sessions(access: Access, user: str | None, provider: str | None, *, as_json: bool) -> int:
    """Print the live sessions, newest first; 1 when some of them do not open."""
    damaged: list[Damaged] = []

    async def body(client: RecordClient) -> list[tuple[Session, User | None]]:
        now = time.time()
        if user is not None:
            user_id = await user_id_of(client, user)
            records = client.query(sessions.RECORD_TYPE, "user_id", user_id, damaged)
        elif provider is not None:
            records = client.query(sessions.RECORD_TYPE, "identity_provider_id", provider, damaged)
        else:
            records = client.list(sessions.RECORD_TYPE, damaged)
        found: list[Session] = []
        async for record in records:
            try:
                found.append(Session.from_bytes(record.data))
            except DataCorruptedError as error:
                damaged.append(Damaged(record.type, record.id, record.version, str(error)))
        live = sorted((s for s in found if not s.is_expired(now)), key=lambda s: s.issued_at, reverse=True)
        if provider is not None:
            live = [session for session in live if session.identity_provider_id == provider]
        people = await _users(client, {session.user_id for session in live})
        return [(session, people.get(session.user_id)) for session in live]

    rows = with_records(access, body)
    if as_json:
        for session, person in rows:
            print(json.dumps(_summary(session, person)))
        return report_damaged(damaged)
    # On a narrow terminal an id goes on in the next line; cut off it would be of no use.
    ids = [Column(name, overflow="fold") for name in ("session", "user")]
    table = Table(*ids, "e-mail", "provider", "signed in", "ends")
    for session, person in rows:
        add_row(
            table,
            session.id,
            session.user_id,
            person.email if person else "unknown",
            session.identity_provider_id,
            _time(session.issued_at),
            _time(session.expires_at),
        )
    print_table(table)
    return report_damaged(damaged)


def show_session(session_id: str, access: Access, *, as_json: bool) -> int:
    """Print all that is known of one session, tokens excepted; 1 when there is none."""

    async def body(client: RecordClient) -> dict[str, Any] | None:
        try:
            record = await client.get(sessions.RECORD_TYPE, session_id)
        except NotFoundError:
            return None
        session = Session.from_bytes(record.data)
        if session.is_expired(time.time()):
            return None
        user = await _user(client, session.user_id)
        groups = None if user is None or user.groups is None else sorted(user.groups)
        return {
            **_summary(session, user),
            "name": user.name if user else None,
            "groups": groups,
            "authenticated_at": session.authenticated_at,
            "methods": list(session.methods),
            "context_class": session.context_class,
            "last_seen_at": await _last_seen(client, session_id),
            "claims": json.loads(session.claims_json) if session.claims_json else None,
        }

    found = with_records(access, body)
    if found is None:
        print(f"error: no live session `{shown(session_id[:64])}`", file=sys.stderr)
        return 1
    if as_json:
        print(json.dumps(found))
        return 0
    for name, value in found.items():
        text = _time(value) if name.endswith("_at") and value is not None else value
        print(f"{name}: {'unknown' if text is None else shown(text)}")
    return 0


def revoke_sessions(
    session_id: str | None,
    user_id: str | None,
    provider: str | None,
    group: str | None,
    access: Access,
    *,
    everything: bool,
    as_json: bool,
) -> int:
    """End sessions; 0 when every authorizer has applied it, 3 when it is stored and some have not."""
    if sum((*(name is not None for name in (session_id, user_id, provider, group)), everything)) != 1:
        print("error: name one session, or one of --user, --provider, --group, --all", file=sys.stderr)
        return 2

    async def body(client: RecordClient) -> tuple[Revoked, str | None]:
        wanted = None if user_id is None else await user_id_of(client, user_id)
        unknown = await _unknown(client, session_id, wanted)
        # Sent all the same: who ends sessions must not depend on what could be read before.
        result = await client.revoke(
            session_id=session_id, user_id=wanted, identity_provider_id=provider, group=group, all_sessions=everything
        )
        if provider is not None and not result.revoked:
            unknown = f"no live session from the identity provider `{provider}`"
        return result, unknown

    try:
        result, unknown = with_records(access, body)
    except NotFoundError as error:
        print(f"error: {error}; nothing was ended", file=sys.stderr)
        return 1
    if unknown is not None and (session_id is not None or not result.revoked):
        print(f"error: {unknown}; nothing was ended", file=sys.stderr)
        return 1
    state = "applied" if result.applied else "pending"
    if as_json:
        print(json.dumps({"state": state, "revoked": result.revoked, "pending": list(result.pending)}))
    elif result.applied:
        print(f"ended {result.revoked} session{'' if result.revoked == 1 else 's'}; applied everywhere")
    else:
        print(f"ended {result.revoked}; stored, not yet confirmed by {', '.join(result.pending)}")
    return 0 if result.applied else _PENDING_STATUS


def _summary(session: Session, user: User | None) -> dict[str, Any]:
    return {
        "id": session.id,
        "user_id": session.user_id,
        "email": user.email if user else None,
        "identity_provider": session.identity_provider_id,
        "issued_at": session.issued_at,
        "expires_at": session.expires_at,
    }


async def _unknown(client: RecordClient, session_id: str | None, user_id: str | None) -> str | None:
    """What is wrong with the name of a session or a user; ``None`` when it is one, or may be."""
    place = (sessions.RECORD_TYPE, session_id) if session_id is not None else (users.RECORD_TYPE, user_id)
    if place[1] is None:
        return None
    try:
        await client.get(place[0], place[1])
    except NotFoundError:
        return (
            f"no live session `{session_id[:256]}`" if session_id is not None else f"no user `{user_id}` ever signed in"
        )
    except DataCorruptedError:
        pass
    return None


async def _users(client: RecordClient, user_ids: Collection[str]) -> dict[str, User]:
    """Those of them that can be read: a few are asked for side by side, for many everybody is read by pages."""
    found: dict[str, User] = {}
    if len(user_ids) > _ONE_BY_ONE:
        async for record in client.list(users.RECORD_TYPE, []):
            if record.id in user_ids:
                with contextlib.suppress(DataCorruptedError):
                    found[record.id] = User.from_bytes(record.data)
        return found
    people = await asyncio.gather(*(_user(client, name) for name in user_ids))
    return {person.id: person for person in people if person is not None}


async def _user(client: RecordClient, user_id: str) -> User | None:
    try:
        return User.from_bytes((await client.get(users.RECORD_TYPE, user_id)).data)
    except DoorwardError:
        return None  # the list is about sessions; a missing user must not hide one


async def _last_seen(client: RecordClient, session_id: str) -> float | None:
    try:
        return Activity.from_bytes((await client.get(activities.RECORD_TYPE, session_id)).data).seen_at
    except DoorwardError:
        return None  # nothing is written without an idle timeout


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
