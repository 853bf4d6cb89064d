"""What this process has put and has not read back yet. A failover that loses it finds no other witness."""

import bisect
from collections import deque
from collections.abc import Sequence

from doorward.records.record import NO_VERSION, Record, RecordVersion
from doorward_databroker.store.port import FeedEntry

LIMIT_ENTRIES = 10_000
LIMIT_BYTES = 16 * 1024 * 1024


class Unread:
    """Acknowledged puts, oldest first; bounded, for a feed that cannot be read while puts go on."""

    def __init__(self) -> None:
        self._entries: deque[FeedEntry] = deque()
        self._bytes = 0
        self._dropped: FeedEntry | None = None
        """The newest put that was too much to remember, and the types of all of them. Its records are not known any more."""
        self._read_until = NO_VERSION

    def add(self, entry: FeedEntry) -> None:
        """Remember a put that the store has confirmed; a repeat of it may tell of it again, and late."""
        if entry.version <= self._read_until:
            return
        if not self._entries or self._entries[-1].version < entry.version:
            self._entries.append(entry)  # nearly always
        else:
            place = bisect.bisect_left(self._entries, entry.version, key=lambda one: one.version)
            if self._entries[place].version == entry.version:
                return
            self._entries.insert(place, entry)
        self._bytes += _size(entry)
        while len(self._entries) > LIMIT_ENTRIES or self._bytes > LIMIT_BYTES:
            oldest = self._forget_oldest()
            types = frozenset(record.type for record in oldest.records)
            if self._dropped is not None:
                types |= self._dropped.unreadable
            self._dropped = FeedEntry(oldest.version, (), oldest.tag, unreadable=types)

    def forget(self, until: RecordVersion) -> None:
        """Everything up to ``until`` has been read back."""
        self._read_until = max(self._read_until, until)
        while self._entries and self._entries[0].version <= until:
            self._forget_oldest()
        if self._dropped is not None and self._dropped.version <= until:
            self._dropped = None

    def after(self, version: RecordVersion) -> list[FeedEntry]:
        """What was put after ``version``, in its epoch: what is of a newer one was put when the loss was known.

        What was too much to remember is one entry without records: should it be lost, nobody knows what it was.
        """
        known = self._entries if self._dropped is None else (self._dropped, *self._entries)
        return [one for one in known if one.version > version and one.version.epoch == version.epoch]

    def is_missing_in(self, after: RecordVersion, read: Sequence[FeedEntry]) -> bool:
        """Whether the feed's entries after ``after`` lack one of ours, or have another one in its place."""
        oldest = self._dropped or (self._entries[0] if self._entries else None)
        if oldest is None or oldest.version > read[-1].version:
            return False  # nearly always
        found = {one.version: one for one in read}
        return any(
            not _is_what_was_put(found.get(one.version), one)
            for one in self.after(after)
            if one.version <= read[-1].version
        )

    def _forget_oldest(self) -> FeedEntry:
        oldest = self._entries.popleft()
        self._bytes -= _size(oldest)
        return oldest


def is_same(read: Sequence[Record], put: Sequence[Record]) -> bool:
    """Whether these are the same changes, in whichever try they were written."""
    return list(map(_said, read)) == list(map(_said, put))


def _is_what_was_put(read: FeedEntry | None, put: FeedEntry) -> bool:
    """Whether the entry that was read is the one that was put.

    Also by its records: of two puts that met at one number, both were sealed for it, and somebody who can write to the store may
    have seen the one that failed. What does not open is told anyhow.
    """
    if read is None or read.tag != put.tag:
        return False
    return bool(not put.records or read.damaged or read.unreadable or is_same(read.records, put.records))


def _said(record: Record) -> tuple[str, str, bool, bytes]:
    return record.type, record.id, record.deleted, record.data


def _size(entry: FeedEntry) -> int:
    return sum(len(record.data) + 300 for record in entry.records)
