"""``doorward service-account``: programs with an identity of their own. A token is shown once, when it is made."""

import json
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from rich.table import Table

from doorward.cli.access import Access
from doorward.cli.grants import trusted_user_id
from doorward.cli.operate import end_record, print_table, with_records
from doorward.cli.terminal import add_row
from doorward.config.words import parse_duration
from doorward.errors import ConfigurationError
from doorward.identity.service_account import ID_PREFIX, RECORD_TYPE, ServiceAccount
from doorward.keys.service_token import SECRET_BYTES, TokenHasher, new_token
from doorward.keys.store import KeyStore, Purpose
from doorward.records.client import RecordClient
from doorward.records.record import Record, Write

_NUMBER_BYTES = 16
_NAME_LIMIT = 200


def create_account(
    access: Access, name: str, groups: Sequence[str], life: str, owner: str | None, *, as_json: bool
) -> int:
    """Make an account and print its token.

    Raises:
        ConfigurationError: the name, the life or the owner is not usable, or the key that hashes tokens is not here.
    """
    if not name.strip() or len(name) > _NAME_LIMIT or not name.isprintable():
        raise ConfigurationError([f"NAME: error: expected 1 to {_NAME_LIMIT} printable characters"])
    try:
        seconds = parse_duration(life)
    except ValueError as error:
        raise ConfigurationError([f"--life: error: `{life}`: {error}"]) from None
    if seconds < 1:
        raise ConfigurationError([f"--life: error: `{life}` has ended before anybody can use the token"])
    if any(not group.strip() or len(group) > _NAME_LIMIT or not group.isprintable() for group in groups):
        raise ConfigurationError([f"--group: error: expected 1 to {_NAME_LIMIT} printable characters"])
    number, secret = secrets.token_bytes(_NUMBER_BYTES), secrets.token_bytes(SECRET_BYTES)
    hasher = TokenHasher(KeyStore(access.data / "keys").keyring(Purpose.SERVICE_ACCOUNT))
    now = time.time()
    account = ServiceAccount(
        id=ID_PREFIX + number.hex(),
        name=name,
        groups=frozenset(groups),
        token_hash=hasher.hash(number.hex(), secret),
        created_at=now,
        expires_at=now + seconds,
    )

    async def body(client: RecordClient) -> ServiceAccount:
        made = account
        if owner is not None:
            made = replace(account, owner_id=await trusted_user_id(client, owner, "--owner", access.config))
        record = Record(type=RECORD_TYPE, id=made.id, data=made.to_bytes(), expires_at=made.expires_at)
        await client.put([Write(record=record, absent=True)])
        return made

    account = with_records(access, body)
    token = new_token(number, secret)
    if as_json:
        print(json.dumps({**_summary(account), "token": token}))
    else:
        print(token)
        print(f"{account.id} until {_time(account.expires_at)}; the token is shown this once", file=sys.stderr)
    return 0


def list_accounts(access: Access, *, as_json: bool) -> int:
    """Print the live accounts, oldest first."""

    async def body(client: RecordClient) -> list[ServiceAccount]:
        return [ServiceAccount.from_bytes(record.data) async for record in client.list(RECORD_TYPE)]

    accounts = sorted(with_records(access, body), key=lambda account: account.created_at)
    if as_json:
        for account in accounts:
            print(json.dumps(_summary(account)))
        return 0
    table = Table("id", "name", "groups", "owner", "made", "ends")
    for account in accounts:
        groups = ", ".join(sorted(account.groups))
        times = _time(account.created_at), _time(account.expires_at)
        add_row(table, account.id, account.name, groups, account.owner_id, *times)
    print_table(table)
    return 0


def revoke_account(access: Access, account_id: str) -> int:
    """End an account; 1 when there is none. Authorizers hear of it as they do of every record."""
    return end_record(access, RECORD_TYPE, account_id, "service account")


def _summary(account: ServiceAccount) -> dict[str, object]:
    return {
        "id": account.id,
        "name": account.name,
        "groups": sorted(account.groups),
        "owner_id": account.owner_id or None,
        "created_at": account.created_at,
        "expires_at": account.expires_at,
    }


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
