"""Whose sessions end when a group's do: members by a directory, and people whose ID token names the group.

    name ─► groups called so ─► entries in them ─► users who are those entries ┐
      └───────────────────────────────────────────► users whose token says so ─┴─► user ids

Only what the indexes name is read. Nested groups count, for the directory has written them out.
"""

from collections.abc import AsyncIterator, Collection
from contextlib import aclosing

from doorward.errors import DataCorruptedError, InvalidArgumentError, NotFoundError
from doorward.identity import user as users
from doorward.identity.directory import GROUP_TYPE, USER_TYPE
from doorward.records.record import Record
from doorward_databroker.store.port import RecordStore

_PAGE = 500


async def users_of_group(store: RecordStore, name: str) -> list[str]:
    """The ids of the users who are in a group, named by its id, name or e-mail address.

    Raises:
        NotFoundError: no directory has such a group, and nobody's ID token names it.
        DataCorruptedError: a record does not open, so that somebody could be missed.
    """
    if not name:
        raise InvalidArgumentError("name a group")
    groups = [group.id async for group in _found(store, GROUP_TYPE, "calling", [name])]
    entries = [entry.id async for entry in _found(store, USER_TYPE, "group", groups)]
    members = [user.id async for user in _found(store, users.RECORD_TYPE, "directory_user", entries)]
    members += [user.id async for user in _found(store, users.RECORD_TYPE, "group", [name])]
    if not groups and not members:
        raise NotFoundError(f"no group is called `{name[:256]}`, in no directory and in nobody's ID token")
    return list(dict.fromkeys(members))


async def _found(store: RecordStore, record_type: str, index: str, values: Collection[str]) -> AsyncIterator[Record]:
    """Every live record under any of ``values``."""
    async with aclosing(store.found(record_type, index, values, _PAGE)) as pages:
        async for page in pages:
            if page.damaged:
                raise DataCorruptedError(f"a stored `{record_type}` does not open; nobody may be missed")
            for record in page.records:
                yield record
