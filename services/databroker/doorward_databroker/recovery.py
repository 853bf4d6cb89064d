"""What is done when a store has lost history: a failover without its newest writes, a truncated file, a restore.

    window   what was handed out lately, and what was put here and has not been handed out yet
    common   the newest place in it that the store still has
    mend     raise the epoch; put back what came after the common place and is missing. A deletion always wins.

When no common place is found, writes were lost that nobody can name, and one of them may have been a sign-out. Then every record
of a type that ends with its history (sessions, grants, codes) ends.
"""

import secrets
from collections import deque
from collections.abc import Iterable, Sequence

import structlog

from doorward.clock import Clock
from doorward.errors import ConflictError
from doorward.records.record import Record, RecordVersion, Write
from doorward_databroker.store.port import FeedEntry, Position, RecordStore
from doorward_databroker.store.types import RECORD_TYPES, type_of

WINDOW_RECORDS = 10_000
WINDOW_BYTES = 16 * 1024 * 1024
_BATCH = 200

_log = structlog.stdlib.get_logger(__name__)


class Window:
    """What was handed out lately, bounded in records and bytes."""

    def __init__(self) -> None:
        self._entries: deque[FeedEntry] = deque()
        self._records = 0
        self._bytes = 0
        self.witnessed: Position | None = None
        """A place that a watcher knows and the store does not."""

    @property
    def entries(self) -> Sequence[FeedEntry]:
        """Oldest first."""
        return self._entries

    def add(self, entries: Iterable[FeedEntry]) -> None:
        """Remember ``entries``, forgetting the oldest beyond the bounds."""
        for entry in entries:
            self._entries.append(entry)
            self._records += len(entry.records)
            self._bytes += _size(entry)
        while self._records > WINDOW_RECORDS or self._bytes > WINDOW_BYTES:
            gone = self._entries.popleft()
            self._records -= len(gone.records)
            self._bytes -= _size(gone)

    def witness(self, claimed: Position) -> None:
        """Note that a watcher knows more than the store."""
        if self.witnessed is None or claimed.version > self.witnessed.version:
            self.witnessed = claimed


async def mend(store: RecordStore, window: Window, known: Position, clock: Clock) -> bool:
    """Begin a new epoch after ``known`` and put back what is missing; whether all that was lost is known.

    Idempotent: may be repeated after a failure, and by every databroker at once.

    Raises:
        DoorwardError: the store does not take it now.
    """
    lost = known.version
    if window.witnessed is not None:
        lost = max(lost, window.witnessed.version)
    head = await store.recover(lost)
    common = await _common(store, window, known)
    store.begin(head.version.epoch, common)
    # A place that only a watcher knows lies in a history of which we never heard.
    places = {entry.position for entry in window.entries}
    missing: dict[tuple[str, str], Record] = {}
    unknown: set[tuple[str, str]] = set()
    for entry in window.entries:
        if common is None or entry.version > common:
            read = {(record.type, record.id): record for record in entry.records}
            missing.update(read)
            unknown -= read.keys()
            unknown.update((one.type, one.id) for one in entry.damaged)
            unknown.update((record_type, "") for record_type in entry.unreadable)
    # What could not be read cannot be put back.
    is_complete = common is not None and not unknown and (window.witnessed is None or window.witnessed in places)
    put_back = 0
    for record in missing.values():
        if record.deleted or is_complete or not type_of(record.type).ends_with_history:
            put_back += await _put_back(store, record, common, clock)
    ended = 0 if is_complete else await _end_all(store, lost.epoch)
    _log.warning("the store is mended", complete=is_complete, put_back=put_back, ended=ended)
    return is_complete


async def _common(store: RecordStore, window: Window, known: Position) -> RecordVersion | None:
    """The newest place that the store and we agree about; what lies before a common place is common too."""
    if await store.contains(known):
        return known.version
    entries = list(window.entries)
    low, high = 0, len(entries)
    while low < high:
        middle = (low + high) // 2
        if await store.contains(entries[middle].position):
            low = middle + 1
        else:
            high = middle
    return entries[low - 1].version if low else None


async def stand_by(store: RecordStore, put: Sequence[FeedEntry], common: RecordVersion, clock: Clock) -> None:
    """Put back what was ``put`` here after ``common``, could not be read back, and is not what the store has.

    Whoever was told that it happened relies on it, and what the store has may be older: somebody put it there.

    Raises:
        DoorwardError: the store does not take it now.
    """
    newest = {(record.type, record.id): record for entry in put for record in entry.records}
    for record in newest.values():
        stored = await store.stored_version(record.type, record.id)
        if stored is not None and stored[0] >= record.version:
            continue  # should it not be what it says, it does not open
        if await _put_back(store, record, common, clock):
            _log.error("what was put here is not in the store", type=record.type, version=str(record.version))


async def _put_back(store: RecordStore, record: Record, common: RecordVersion | None, clock: Clock) -> bool:
    stored = await store.stored_version(record.type, record.id)
    if record.deleted:
        if stored is not None and stored[1]:
            return False
        write = Write(record=Record(type=record.type, id=record.id, deleted=True))
    else:
        if not record.is_live(clock.now()):
            return False
        if stored is not None and (common is None or stored[0] > common):
            return False  # another history has written it since
        plain = Record(
            type=record.type, id=record.id, data=record.data, expires_at=record.expires_at, indexes=record.indexes
        )
        write = Write(record=plain, absent=True) if stored is None else Write(record=plain, expected=stored[0])
    try:
        await store.put([write], secrets.token_hex(16))
    except ConflictError:
        return False  # somebody has written it just now
    return True


async def _end_all(store: RecordStore, epoch: int) -> int:
    """End what ends with its history and was not written since."""
    ended = 0
    for kind in RECORD_TYPES.values():
        if not kind.ends_with_history or not kind.in_feed:
            continue
        after_id = ""
        while True:
            page = await store.page(kind.name, after_id, _BATCH)
            ids = [record.id for record in page.records if record.version.epoch <= epoch]
            ids += [one.id for one in page.damaged]
            if ids:
                writes = [Write(record=Record(type=kind.name, id=name, deleted=True)) for name in ids]
                await store.put(writes, secrets.token_hex(16))
                ended += len(ids)
            after_id = page.next_id
            if not after_id:
                break
    return ended


def _size(entry: FeedEntry) -> int:
    return sum(len(record.data) + 300 for record in entry.records)
