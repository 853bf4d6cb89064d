"""``doorward grant``: access that an operator gives somebody for a while. What a kind opens stands in the configuration."""

import getpass
import json
import re
import secrets
import time

from rich.table import Table

from doorward.cli.access import Access
from doorward.cli.operate import end_record, print_table, with_records
from doorward.config.words import NAME, parse_duration
from doorward.errors import ConfigurationError
from doorward.identity import user as users
from doorward.identity.address import canonical_email
from doorward.identity.grant import RECORD_TYPE, Grant, grant_id
from doorward.policy.written_facts import read_time
from doorward.records.client import RecordClient
from doorward.records.record import Record, Write

_REASON_LIMIT = 500
_ID = re.compile(r"[0-9a-f]{32}\Z", re.ASCII)


def add_grant(
    access: Access, name: str, user: str, life: str, starts: str | None, reason: str, *, as_json: bool
) -> int:
    """Give somebody a grant; it counts on every authorizer a moment later.

    Raises:
        ConfigurationError: something about it cannot be.
    """
    if not re.match(NAME, name):
        raise ConfigurationError([f"NAME: error: `{name}` cannot be the name of a kind of grant"])
    if not reason.strip() or len(reason) > _REASON_LIMIT or not reason.isprintable():
        raise ConfigurationError([f"--reason: error: expected 1 to {_REASON_LIMIT} printable characters"])
    try:
        seconds = parse_duration(life)
        starts_at = time.time() if starts is None else read_time(starts)
    except ValueError as error:
        raise ConfigurationError([f"--for, --from: error: {error}"]) from None
    if starts_at + seconds <= time.time():
        raise ConfigurationError(["--from: error: it would have ended already"])
    _check_kind(access, name, seconds)

    async def body(client: RecordClient) -> tuple[str, Grant]:
        grant = Grant(
            user_id=await user_id_of(client, user),
            name=name,
            reason=reason,
            given_by=getpass.getuser(),
            created_at=time.time(),
            starts_at=starts_at,
            ends_at=starts_at + seconds,
        )
        record_id = grant_id(grant.user_id, secrets.token_hex(16))
        record = Record(
            type=RECORD_TYPE,
            id=record_id,
            data=grant.to_bytes(),
            expires_at=grant.ends_at,
            indexes={"user_id": (grant.user_id,)},
        )
        await client.put([Write(record=record, absent=True)])
        return record_id, grant

    record_id, grant = with_records(access, body)
    print(json.dumps(_summary(record_id, grant)) if as_json else f"{record_id} until {_time(grant.ends_at)}")
    return 0


def list_grants(access: Access, *, as_json: bool) -> int:
    """Print the grants that have not ended, the first to end first."""

    async def body(client: RecordClient) -> list[tuple[str, Grant]]:
        return [(record.id, Grant.from_bytes(record.data)) async for record in client.list(RECORD_TYPE)]

    found = sorted(with_records(access, body), key=lambda item: item[1].ends_at)
    if as_json:
        for record_id, grant in found:
            print(json.dumps(_summary(record_id, grant)))
        return 0
    table = Table("id", "kind", "from", "until", "given by", "reason")
    for record_id, grant in found:
        table.add_row(record_id, grant.name, _time(grant.starts_at), _time(grant.ends_at), grant.given_by, grant.reason)
    print_table(table)
    return 0


def end_grant(access: Access, record_id: str) -> int:
    """End a grant; 1 when there is none. Streams that it held open are cut."""
    return end_record(access, RECORD_TYPE, record_id, "grant")


def _check_kind(access: Access, name: str, seconds: float) -> None:
    """With a configuration at hand, what it would not let count is said now instead of at the door."""
    if access.config is None:
        return
    from doorward.config.load import load_settings  # noqa: PLC0415  # as in access.py: most commands have no file
    from doorward.config.references import no_secret  # noqa: PLC0415

    kinds = {kind.name: kind for kind in load_settings(access.config, secrets=no_secret).grants}
    kind = kinds.get(name)
    if kind is None:
        raise ConfigurationError([f"NAME: error: `{name}` is no kind of grant; known are {', '.join(kinds) or 'none'}"])
    if seconds > kind.longest_seconds:
        raise ConfigurationError([f"--for: error: `{name}` lasts {kind.longest_seconds:.0f} s at the most"])


async def user_id_of(client: RecordClient, user: str, option: str = "--user") -> str:
    """The person with this id, or the only one with this address.

    Raises:
        ConfigurationError: there is no such person, or more than one.
    """
    if _ID.match(user):
        return user
    address = canonical_email(user)
    if address is None:
        raise ConfigurationError([f"{option}: error: `{user}` is neither an address nor a user id"])
    found = [record.id async for record in client.query(users.RECORD_TYPE, "email", address)]
    if len(found) != 1:
        count = "nobody" if not found else f"{len(found)} people"
        raise ConfigurationError(
            [f"{option}: error: {count} with the address `{address}` ever signed in; name the user id"]
        )
    return found[0]


def _summary(record_id: str, grant: Grant) -> dict[str, object]:
    return {
        "id": record_id,
        "name": grant.name,
        "user_id": grant.user_id,
        "reason": grant.reason,
        "given_by": grant.given_by,
        "created_at": grant.created_at,
        "starts_at": grant.starts_at,
        "ends_at": grant.ends_at,
    }


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
