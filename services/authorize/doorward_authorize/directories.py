"""What a directory says of somebody: whether they still count, and which groups they are in.

Unknown is the answer whenever the directory cannot be relied on: never read, read too long ago, no entry for this person, two
entries for one, a group that has gone missing. A group counts by its id, and by name and address where those are its own.

Concurrency: belongs to one event loop; everything comes from the replica.
"""

from dataclasses import dataclass
from typing import Protocol, TypeAlias

from doorward.clock import Clock
from doorward.config.directory_settings import DirectorySettings
from doorward.errors import DataCorruptedError
from doorward.identity.directory import (
    GROUP_TYPE,
    STATE_TYPE,
    USER_TYPE,
    DirectoryGroup,
    DirectoryState,
    DirectoryUser,
    groups_of,
)
from doorward.identity.user import User

_CACHE_LIMIT = 50_000
_NEVER = float("inf")


class DirectoryRecords(Protocol):
    """The replica, as far as directories need it."""

    def get(self, record_type: str, record_id: str) -> bytes | None:
        """The payload of a live record."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a directory says of somebody."""

    is_active: bool = True
    """False when the directory has disabled or removed them."""
    groups: frozenset[str] | None = None
    """Everything that the groups are called."""
    group_ids: frozenset[str] | None = None
    group_names: frozenset[str] | None = None
    group_emails: frozenset[str] | None = None
    """Ids, names and addresses; ``None`` when they are not known."""
    good_until: float = _NEVER
    """When the directory's word becomes too old, in seconds since the Unix epoch."""


UNKNOWN = Standing()

Mark: TypeAlias = tuple[bytes | None, bytes | None, int]
"""What a standing was made from; while it is the same, so is the standing."""


class Directories:
    """Answers from the replica. ``on_record`` must hear of every change."""

    def __init__(self, records: DirectoryRecords, clock: Clock) -> None:
        self._records = records
        self._clock = clock
        self._changes = 0
        self._decoded: dict[str, tuple[bytes, DirectoryGroup]] = {}
        self._synchronised: dict[str, float] = {}

    def on_record(self, record_type: str, record_id: str) -> None:
        """A record has changed; a renamed group changes what its members are in."""
        del record_id
        if record_type == GROUP_TYPE:
            self._changes += 1

    def has_gone_back(self, directory_id: str) -> bool:
        """Whether a directory's state says less than when this was last asked: it is gone, or of an older reading.

        What was decided by it counts until a time that it no longer names.
        """
        try:
            data = self._records.get(STATE_TYPE, directory_id)
            read_at = 0.0 if data is None else DirectoryState.from_bytes(data).synchronised_at or 0.0
        except DataCorruptedError:
            read_at = -1.0  # less than nothing: who is described there is not let in at all
        before, self._synchronised[directory_id] = self._synchronised.get(directory_id, _NEVER), read_at
        return read_at < before

    def mark(self, user: User, directory: DirectorySettings) -> Mark:
        """What the standing of ``user`` would be made from."""
        return (
            self._records.get(USER_TYPE, user.directory_user_id) if user.directory_user_id else None,
            self._records.get(STATE_TYPE, directory.id),
            self._changes,
        )

    def standing(self, user: User, directory: DirectorySettings) -> Standing:
        """What ``directory`` says of ``user`` now.

        Raises:
            DataCorruptedError: a record cannot be read.
        """
        # The id carries the directory: one that a former configuration computed must not find another's entry.
        if not user.directory_user_id.startswith(f"{directory.id}/"):
            return UNKNOWN
        data = self._records.get(USER_TYPE, user.directory_user_id)
        if data is None:
            return UNKNOWN
        entry = DirectoryUser.from_bytes(data)
        if not entry.active:
            # However old that is: nobody is let back in because a directory has fallen silent.
            return Standing(is_active=False)
        state = self._records.get(STATE_TYPE, directory.id)
        good_until = 0.0 if state is None else DirectoryState.from_bytes(state).good_until(directory.stale_seconds)
        if not entry.groups_known or self._clock.now() >= good_until:
            return UNKNOWN
        groups = groups_of(entry, self._group)
        if groups is None:
            return Standing(good_until=good_until)
        return Standing(
            groups=frozenset().union(*(group.callings for group in groups)),
            group_ids=frozenset(group.group_id for group in groups),
            group_names=frozenset(group.name for group in groups if group.name),
            group_emails=frozenset(group.email for group in groups if group.email),
            good_until=good_until,
        )

    def _group(self, record_id: str) -> DirectoryGroup | None:
        data = self._records.get(GROUP_TYPE, record_id)
        if data is None:
            return None
        known = self._decoded.get(record_id)
        if known is not None and known[0] is data:
            return known[1]
        if len(self._decoded) >= _CACHE_LIMIT:
            self._decoded.clear()
        group = DirectoryGroup.from_bytes(data)
        self._decoded[record_id] = (data, group)
        return group
