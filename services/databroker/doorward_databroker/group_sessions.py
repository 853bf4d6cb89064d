"""Whose sessions end when a group's do: members by a directory, and people whose ID token names the group.

Everything is looked through, because no index follows groups: that costs seconds in a large directory, for something that is done
seldom. Nested groups count, for the directory has written them out.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from doorward.api.databroker.v1 import databroker_pb2 as pb
from doorward.errors import DataCorruptedError
from doorward.identity import user as users
from doorward.identity.directory import (
    GROUP_TYPE,
    USER_TYPE,
    DirectoryGroup,
    DirectoryUser,
)
from doorward.identity.user import User
from doorward_databroker.store.port import RecordStore

_PAGE = 500


@dataclass(frozen=True, slots=True)
class GroupUsers:
    """Who is in a group."""

    user_ids: list[str]
    everybody: int
    """How many users there are."""


async def users_of_group(store: RecordStore, name: str) -> GroupUsers:
    """The users who are in a group, named by its id, name or e-mail address.

    Raises:
        DataCorruptedError: a record does not open, so that somebody could be missed.
    """
    numbers: dict[str, set[int]] = {}
    async for record in _all(store, GROUP_TYPE):
        group = DirectoryGroup.from_bytes(record.data)
        if name in {group.group_id, group.name, group.email}:
            numbers.setdefault(group.directory_id, set()).add(group.number)
    entries: set[str] = set()
    if numbers:
        async for record in _all(store, USER_TYPE):
            entry = DirectoryUser.from_bytes(record.data)
            if not numbers.get(entry.directory_id, set()).isdisjoint(entry.group_numbers):
                entries.add(record.id)
    found: list[str] = []
    everybody = 0
    async for record in _all(store, users.RECORD_TYPE):
        everybody += 1
        user = User.from_bytes(record.data)
        if user.directory_user_id in entries or (user.groups is not None and name in user.groups):
            found.append(user.id)
    return GroupUsers(found, everybody)


async def _all(store: RecordStore, record_type: str) -> AsyncIterator[pb.Record]:
    """Every live record."""
    async with aclosing(store.snapshot(record_type, _PAGE)) as pages:
        async for page in pages:
            if page.damaged:
                raise DataCorruptedError(f"a stored `{record_type}` does not open; nobody may be missed")
            for record in page.records:
                yield pb.Record.FromString(record)
