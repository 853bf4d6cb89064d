"""What this process has put and has not read back yet. A failover that loses it finds no other witness."""

from collections import deque
from collections.abc import Sequence

from doorward.records.record import RecordVersion
from doorward_databroker.store.port import FeedEntry

LIMIT_ENTRIES = 10_000
LIMIT_BYTES = 16 * 1024 * 1024


class Unread:
    """Acknowledged puts, oldest first; bounded, for a feed that cannot be read while puts go on."""

    def __init__(self) -> None:
        self._entries: deque[FeedEntry] = deque()
        self._bytes = 0

    def add(self, entry: FeedEntry) -> None:
        """Remember a put that the store has confirmed."""
        self._entries.append(entry)
        self._bytes += _size(entry)
        while len(self._entries) > LIMIT_ENTRIES or self._bytes > LIMIT_BYTES:
            self._forget_oldest()

    def forget(self, until: RecordVersion) -> None:
        """Everything up to ``until`` has been read back."""
        while self._entries and self._entries[0].version <= until:
            self._forget_oldest()

    def after(self, version: RecordVersion) -> list[FeedEntry]:
        """What was put after ``version``, in its epoch: what is of a newer one was put when the loss was known."""
        return [one for one in self._entries if one.version > version and one.version.epoch == version.epoch]

    def is_missing_in(self, after: RecordVersion, read: Sequence[FeedEntry]) -> bool:
        """Whether the feed's entries after ``after`` lack one of ours, or have another one in its place."""
        if not self._entries or self._entries[0].version > read[-1].version:
            return False  # nearly always
        tags = {one.version: one.tag for one in read}
        return any(tags.get(one.version) != one.tag for one in self._entries if after < one.version <= read[-1].version)

    def _forget_oldest(self) -> None:
        self._bytes -= _size(self._entries.popleft())


def _size(entry: FeedEntry) -> int:
    return sum(len(record.data) + 300 for record in entry.records)
