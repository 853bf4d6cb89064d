"""The reference implementation: the port's meaning in plain Python, for tests and comparison; not for deployment."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from doorward.clock import Clock
from doorward.errors import ConflictError, NotFoundError, WatchExpiredError
from doorward.records.record import NO_VERSION, Record, RecordVersion, Write
from doorward_databroker.store.codec import Codec
from doorward_databroker.store.port import FeedEntry
from doorward_databroker.store.types import check_record, type_of

_EPOCH = 1


class MemoryStore:
    """Everything in dictionaries; values go through the codec as they would in a real store."""

    def __init__(self, clock: Clock, codec: Codec, history: int = 10_000) -> None:
        self._clock = clock
        self._codec = codec
        self._history = history
        self._records: dict[tuple[str, str], tuple[RecordVersion, bytes]] = {}
        self._feed: list[FeedEntry] = []
        self._head = RecordVersion(_EPOCH, 0)
        self._trimmed = self._head
        self._results: dict[str, tuple[RecordVersion, ...]] = {}
        self._leases: dict[str, tuple[str, float]] = {}
        self._fences: dict[str, int] = {}
        self._changed = asyncio.Condition()

    async def get(self, record_type: str, record_id: str) -> Record:
        """See ``RecordStore.get``."""
        type_of(record_type)
        record = self._stored(record_type, record_id)
        if record is None or not record.is_live(self._clock.now()):
            raise NotFoundError(f"no `{record_type}` of this id")
        return record

    async def page(self, record_type: str, after_id: str, limit: int) -> tuple[list[Record], str]:
        """See ``RecordStore.page``."""
        type_of(record_type)
        ids = sorted(record_id for kind, record_id in self._records if kind == record_type and record_id > after_id)
        page = [self._stored(record_type, record_id) for record_id in ids[:limit]]
        now = self._clock.now()
        live = [record for record in page if record is not None and record.is_live(now)]
        return live, ids[limit - 1] if len(ids) > limit else ""

    async def query(
        self, record_type: str, index: str, value: str, after_id: str, limit: int
    ) -> tuple[list[Record], str]:
        """See ``RecordStore.query``."""
        found, next_id = await self.page(record_type, after_id, limit)
        return [record for record in found if record.indexes.get(index) == value], next_id

    async def expired(self, record_type: str, before: float, limit: int) -> list[str]:
        """See ``RecordStore.expired``."""
        type_of(record_type)
        found = [self._stored(kind, record_id) for kind, record_id in self._records if kind == record_type]
        ended = [r.id for r in found if r is not None and not r.deleted and not r.is_live(before)]
        return sorted(ended)[:limit]

    async def put(self, writes: Sequence[Write], request_id: str) -> tuple[RecordVersion, ...]:
        """See ``RecordStore.put``."""
        for write in writes:
            check_record(write.record)
        if request_id in self._results:
            return self._results[request_id]
        now = self._clock.now()
        for write in writes:
            stored = self._stored(write.record.type, write.record.id)
            live = stored is not None and stored.is_live(now)
            if write.absent and live:
                raise ConflictError(f"there is such a `{write.record.type}` already")
            if write.expected is not None and (stored is None or stored.version != write.expected):
                raise ConflictError(f"the `{write.record.type}` has another version")
        changed: list[Record] = []
        versions: list[RecordVersion] = []
        for write in writes:
            in_feed = type_of(write.record.type).in_feed
            version = RecordVersion(self._head.epoch, self._head.number + 1) if in_feed else NO_VERSION
            record = replace(write.record, version=version, modified_at=now)
            if record.deleted:
                record = replace(record, data=b"", indexes={})
            self._records[record.type, record.id] = (version, self._codec.encode(record))
            versions.append(version)
            if in_feed:
                self._head = version
                changed.append(record)
        self._results[request_id] = tuple(versions)
        if changed:
            self._feed.append(FeedEntry(self._head, tuple(changed)))
            while len(self._feed) > self._history:
                self._trimmed = self._feed.pop(0).version
        async with self._changed:
            self._changed.notify_all()
        return tuple(versions)

    async def head(self) -> RecordVersion:
        """See ``RecordStore.head``."""
        return self._head

    async def changes(self, after: RecordVersion, limit: int, wait_seconds: float) -> list[FeedEntry]:
        """See ``RecordStore.changes``."""
        known = {entry.version for entry in self._feed} | {self._trimmed}
        if after not in known:
            raise WatchExpiredError(f"`{after}` is not in the retained history")
        async with self._changed:
            if self._head <= after:
                try:
                    await asyncio.wait_for(self._changed.wait_for(lambda: self._head > after), wait_seconds)
                except TimeoutError:
                    return []
        return [entry for entry in self._feed if entry.version > after][:limit]

    async def recover(self, lost: RecordVersion) -> RecordVersion:
        """See ``RecordStore.recover``."""
        if self._head.epoch <= lost.epoch:
            self._head = self._trimmed = RecordVersion(lost.epoch + 1, 0)
            self._feed.clear()
        return self._head

    async def acquire_lease(self, name: str, holder: str, seconds: float) -> int | None:
        """See ``RecordStore.acquire_lease``."""
        now = self._clock.monotonic()
        held = self._leases.get(name)
        if held is not None and held[1] > now and held[0] != holder:
            return None
        self._leases[name] = (holder, now + seconds)
        self._fences[name] = self._fences.get(name, 0) + 1
        return self._fences[name]

    async def renew_lease(self, name: str, holder: str, seconds: float) -> bool:
        """See ``RecordStore.renew_lease``."""
        now = self._clock.monotonic()
        held = self._leases.get(name)
        if held is None or held[0] != holder or held[1] <= now:
            return False
        self._leases[name] = (holder, now + seconds)
        return True

    async def release_lease(self, name: str, holder: str) -> None:
        """See ``RecordStore.release_lease``."""
        held = self._leases.get(name)
        if held is not None and held[0] == holder:
            del self._leases[name]

    def _stored(self, record_type: str, record_id: str) -> Record | None:
        found = self._records.get((record_type, record_id))
        return None if found is None else self._codec.decode(record_type, record_id, *found)
