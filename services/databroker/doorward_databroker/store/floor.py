"""The newest versions that this process has read in the feed: a record that lies in the store with an older one has been put back.

The seal of an older state opens under the older version, so whoever can write to the store could undo a sign-out for all who read it
there later. What this process has heard of, it remembers; bounded, and not over its own end.

A new epoch does not end that, for whoever can write to the store can have one begun: what was read counts as far as the store's history
is still the one in which it was read. What was put back since the epoch began is read again.

Concurrency: belongs to one event loop. What was read before a question was sent is in its answer, and nothing is concluded from the rest.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeAlias

from doorward.errors import WatchExpiredError
from doorward.records.record import NO_VERSION, RecordVersion
from doorward_databroker.store.feed import readable_version
from doorward_databroker.store.port import FeedEntry

LIMIT_RECORDS = 100_000
GONE_BACK = b"gone back"
"""Stands in place of the sealed bytes of an older state, before the version that is known; what is sealed never looks so."""

Row: TypeAlias = tuple[bytes | None, ...]
"""Version, tombstone and sealed bytes, as they are stored."""


class Floor:
    """Versions below which no record may be found."""

    def __init__(self, read: Callable[[RecordVersion, RecordVersion], Awaitable[Sequence[FeedEntry]]]) -> None:
        """``read`` gives some of the feed's entries after one version and up to another."""
        self._read = read
        self._versions: dict[int, bytes] = {}
        """As they are stored. By hashes of names, for they take a third of the room."""
        self.seen = NO_VERSION
        """What has been read in the feed; to be asked before the store is."""

    def note(self, entries: Iterable[FeedEntry]) -> None:
        """Remember the changes in ``entries``, which the feed has; what does not open too, where it has a name."""
        for entry in entries:
            if entry.version <= self.seen:
                continue  # read for a watcher that resumes
            if entry.version.epoch != self.seen.epoch:
                self._versions.clear()
            self.seen = entry.version
            for record in entry.records:
                self._set(record.type, record.id, record.version)
            for one in (*entry.damaged, *entry.spoiled):
                self._set(one.type, one.id, one.version)
        while len(self._versions) > LIMIT_RECORDS:
            del self._versions[next(iter(self._versions))]

    def _set(self, record_type: str, record_id: str, version: RecordVersion) -> None:
        name = hash((record_type, record_id))
        self._versions.pop(name, None)  # the newest stand last
        self._versions[name] = b"%d.%d" % (version.epoch, version.number)

    async def follow_up(self, until: RecordVersion) -> None:
        """Remember what the feed has up to ``until``, should it be followed from there. What cannot be read is left out."""
        while self.seen.epoch == until.epoch and self.seen < until:
            try:
                entries = await self._read(self.seen, until)
            except WatchExpiredError:
                entries = []
            if not entries:
                self.seen = max(self.seen, until)
            self.note(entries)

    def begin(self, epoch: int, common: RecordVersion | None) -> None:
        """Forget what was read after ``common``, for in ``epoch`` the store's history is the one that was read only up to there."""
        until = common or NO_VERSION
        self._versions = {name: known for name, known in self._versions.items() if readable_version(known) <= until}
        self.seen = RecordVersion(epoch, 0)

    def checked(self, record_type: str, ids: Iterable[str], rows: Iterable[Row], seen: RecordVersion) -> list[Row]:
        """``rows``, of which those do not open that have gone back behind what had been ``seen`` when they were asked for."""
        if not self._versions or seen.epoch != self.seen.epoch:
            return list(rows)
        versions = self._versions
        checked = []
        for name, row in zip(ids, rows, strict=False):
            known = versions.get(hash((record_type, name)))
            # A snapshot has a hundred thousand of them, and mostly they are as they were read.
            if known is None or row[0] is None or row[0] == known:
                checked.append(row)
            else:
                checked.append(_checked(row, readable_version(known), seen))
        return checked


def _checked(row: Row, known: RecordVersion, seen: RecordVersion) -> Row:
    if known > seen or readable_version(row[0] or b"") >= known:
        return row
    return (row[0], row[1], GONE_BACK + str(known).encode())
