"""``doorward grant``: access that an operator gives somebody for a while. What a kind opens stands in the configuration."""

import getpass
import json
import re
import secrets
import sys
import time
from pathlib import Path

from rich.table import Table

from doorward.cli.access import Access
from doorward.cli.operate import end_record, print_table, with_records
from doorward.cli.terminal import add_row, shown
from doorward.config.words import LONGEST_SECONDS, NAME, parse_duration
from doorward.errors import ConfigurationError
from doorward.identity import user as users
from doorward.identity.address import canonical_email
from doorward.identity.grant import RECORD_TYPE, Grant, grant_id
from doorward.identity.user import User
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
    if starts_at + seconds > time.time() + LONGEST_SECONDS:
        raise ConfigurationError(["--for, --from: error: it would end in more than a hundred years"])
    _check_kind(access, name, seconds)

    async def body(client: RecordClient) -> tuple[str, Grant]:
        grant = Grant(
            user_id=await trusted_user_id(client, user, "--user", access.config),
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
        times = _time(grant.starts_at), _time(grant.ends_at)
        add_row(table, record_id, grant.name, *times, grant.given_by, grant.reason)
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
    """The person with this id, or the only one with this address, verified or not: for what takes something away.

    Raises:
        ConfigurationError: there is no such person, or more than one.
    """
    if _ID.match(user):
        return user
    address = _address(user, option)
    return _only([record.id async for record in client.query(users.RECORD_TYPE, "email", address)], user, option)


async def trusted_user_id(client: RecordClient, user: str, option: str, configuration: Path | None) -> str:
    """The same for what gives something: the address has to be verified, or whoever writes it into their profile would get it.

    With a configuration at hand its identity provider has to be one for that domain, as for policy. Says whom it has found.

    Raises:
        ConfigurationError: there is no such person, or more than one.
    """
    if _ID.match(user):
        return user
    domains: dict[str, frozenset[str] | None] = {}
    if configuration is not None:
        from doorward.config.load import load_settings  # noqa: PLC0415  # as in access.py: most commands have no file
        from doorward.config.references import no_secret  # noqa: PLC0415

        providers = load_settings(configuration, secrets=no_secret).identity_providers
        domains = {provider.issuer: provider.email_domains for provider in providers}
    address = _address(user, option)
    people = [User.from_bytes(record.data) async for record in client.query(users.RECORD_TYPE, "email", address)]
    trusted = {
        found.id: found.issuer
        for found in people
        if (configuration is None or found.issuer in domains)
        and found.trusted_email(domains.get(found.issuer)) is not None
    }
    found_id = _only(list(trusted), user, option, "verified address")
    print(f"note: `{user}` is {found_id} at {shown(trusted[found_id])}", file=sys.stderr)
    return found_id


def _address(user: str, option: str) -> str:
    address = canonical_email(user)
    if address is None:
        raise ConfigurationError([f"{option}: error: `{shown(user)}` is neither an address nor a user id"])
    return address


def _only(ids: list[str], user: str, option: str, what: str = "address") -> str:
    if len(ids) == 1:
        return ids[0]
    count = f"{len(ids)} people" if ids else "nobody"
    listed = f": {', '.join(sorted(ids))}" if ids else ""
    raise ConfigurationError(
        [f"{option}: error: {count} with the {what} `{user}` ever signed in; name the user id{listed}"]
    )


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
