"""``doorward session``: who is signed in, and ending it."""

import json
import sys
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from doorward.cli.access import Access
from doorward.cli.operate import with_records
from doorward.errors import DoorwardError, NotFoundError
from doorward.identity import activity as activities
from doorward.identity import session as sessions
from doorward.identity import user as users
from doorward.identity.activity import Activity
from doorward.identity.session import Session
from doorward.identity.user import User
from doorward.records.client import RecordClient

_PENDING_STATUS = 3


def list_sessions(access: Access, user: str | None, provider: str | None, *, as_json: bool) -> int:
    """Print the live sessions, newest first."""

    async def body(client: RecordClient) -> list[tuple[Session, User | None]]:
        now = time.time()
        if user is not None:
            records = client.query(sessions.RECORD_TYPE, "user_id", user)
        elif provider is not None:
            records = client.query(sessions.RECORD_TYPE, "identity_provider_id", provider)
        else:
            records = client.list(sessions.RECORD_TYPE)
        found = [Session.from_bytes(record.data) async for record in records]
        live = sorted((s for s in found if not s.is_expired(now)), key=lambda s: s.issued_at, reverse=True)
        if provider is not None:
            live = [session for session in live if session.identity_provider_id == provider]
        return [(session, await _user(client, session.user_id)) for session in live]

    rows = with_records(access, body)
    if as_json:
        for session, person in rows:
            print(json.dumps(_summary(session, person)))
        return 0
    table = Table("session", "user", "e-mail", "provider", "signed in", "ends")
    for session, person in rows:
        table.add_row(
            session.id,
            session.user_id,
            person.email if person else "unknown",
            session.identity_provider_id,
            _time(session.issued_at),
            _time(session.expires_at),
        )
    Console().print(table)
    return 0


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
            "claims": json.loads(session.claims_json),
        }

    found = with_records(access, body)
    if found is None:
        print(f"error: no live session `{session_id[:64]}`", file=sys.stderr)
        return 1
    if as_json:
        print(json.dumps(found))
        return 0
    for name, value in found.items():
        text = _time(value) if name.endswith("_at") and value is not None else value
        print(f"{name}: {'unknown' if text is None else text}")
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
    result = with_records(
        access,
        lambda client: client.revoke(
            session_id=session_id, user_id=user_id, identity_provider_id=provider, group=group, all_sessions=everything
        ),
    )
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
