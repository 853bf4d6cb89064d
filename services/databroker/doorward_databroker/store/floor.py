"""The newest versions that this process has read in the feed: a record that lies in the store with an older one has been put back.

The seal of an older state opens under the older version, so whoever can write to the store could undo a sign-out for all who read it
there later. What this process has heard of, it remembers; bounded, and not over its own end.

Concurrency: belongs to one event loop. What was read before a question was sent is in its answer, and nothing is concluded from the rest.
"""

from collections.abc import Callable, Iterable
from typing import TypeAlias

import structlog

from doorward.records.record import NO_VERSION, RecordVersion
from doorward_databroker.store.feed import readable_version
from doorward_databroker.store.port import FeedEntry

LIMIT_RECORDS = 100_000
_SPOILED = b""
"""Sealed bytes that never open."""

Row: TypeAlias = tuple[bytes | None, ...]
"""Version, tombstone and sealed bytes, as they are stored."""

_log = structlog.stdlib.get_logger(__name__)


class Floor:
    """Versions below which no record may be found; those of the current epoch, for in another one history may have been lost."""

    def __init__(self, newest: Callable[[], RecordVersion | None]) -> None:
        """``newest`` is the newest head that was ever heard of."""
        self._newest = newest
        self._numbers: dict[int, int] = {}
        """By hashes of names, for they take a third of the room; the epoch is that of ``seen``."""
        self.seen = NO_VERSION
        """What has been read in the feed; to be asked before the store is."""

    def note(self, entries: Iterable[FeedEntry]) -> None:
        """Remember the changes in ``entries``, which the feed has; what does not open too, where it has a name."""
        for entry in entries:
            if entry.version <= self.seen:
                continue  # read for a watcher that resumes
            if entry.version.epoch != self.seen.epoch:
                self._numbers.clear()
            self.seen = entry.version
            for record in entry.records:
                self._set(record.type, record.id, record.version)
            for one in entry.damaged:
                self._set(one.type, one.id, one.version)
        while len(self._numbers) > LIMIT_RECORDS:
            del self._numbers[next(iter(self._numbers))]

    def _set(self, record_type: str, record_id: str, version: RecordVersion) -> None:
        name = hash((record_type, record_id))
        self._numbers.pop(name, None)  # the newest stand last
        self._numbers[name] = version.number

    def checked(self, record_type: str, ids: Iterable[str], rows: Iterable[Row], seen: RecordVersion) -> list[Row]:
        """``rows``, of which those do not open that have gone back behind what had been ``seen`` when they were asked for."""
        newest = self._newest()
        if newest is None or not newest.epoch == self.seen.epoch == seen.epoch:
            return list(rows)
        numbers, epoch = self._numbers, seen.epoch
        checked = []
        for name, row in zip(ids, rows, strict=False):
            number = numbers.get(hash((record_type, name)))
            # A snapshot has a hundred thousand of them, and mostly they are as they were read.
            if number is None or row[0] is None or row[0] == b"%d.%d" % (epoch, number):
                checked.append(row)
            else:
                checked.append(self._checked(record_type, name, row, RecordVersion(epoch, number), seen))
        return checked

    def _checked(self, record_type: str, name: str, row: Row, known: RecordVersion, seen: RecordVersion) -> Row:
        if known > seen or readable_version(row[0] or b"") >= known:
            return row
        _log.error("a stored record has gone back", type=record_type, id=name, known=str(known))
        return (row[0], row[1], _SPOILED)
