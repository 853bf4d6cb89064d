"""The reference implementation: the port's meaning in plain Python, for tests and comparison; not for deployment."""

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import replace

from doorward.clock import Clock
from doorward.errors import ConflictError, DataCorruptedError, NotFoundError, WatchExpiredError
from doorward.records.record import NO_VERSION, Damaged, Fence, Record, RecordVersion, Write, record_message
from doorward_databroker.store.codec import Codec, decode
from doorward_databroker.store.indexing import under
from doorward_databroker.store.port import Beat, Expired, FeedEntry, Page, Position, SnapshotPage
from doorward_databroker.store.types import PAGE_BYTES, check_batch, check_index, type_of

_EPOCH = 1


class MemoryStore:
    """Everything in dictionaries; values go through the codec as they would in a real store."""

    def __init__(self, clock: Clock, codec: Codec) -> None:
        self._clock = clock
        self._codec = codec
        self._records: dict[tuple[str, str], tuple[RecordVersion, bytes]] = {}
        self._feed: list[tuple[float, FeedEntry]] = []
        self._head = Position(RecordVersion(_EPOCH, 0), b"begin")
        self._trimmed = self._head
        self._chain: dict[RecordVersion, bytes] = {}
        self._results: dict[str, tuple[RecordVersion, ...]] = {}
        self._leases: dict[str, tuple[str, float]] = {}
        self._fences: dict[str, tuple[int, str]] = {}
        self._holds: dict[str, float] = {}
        self._peers: dict[str, bytes] = {}
        self._changed = asyncio.Condition()
        self.lost = asyncio.Event()

    async def close(self) -> None:
        """Nothing to close."""

    async def get(self, record_type: str, record_id: str) -> Record:
        """See ``RecordStore.get``."""
        type_of(record_type)
        record = self._stored(record_type, record_id)
        if record is None or not record.is_live(self._clock.now()):
            raise NotFoundError(f"no `{record_type}` of this id")
        return record

    async def stored_version(self, record_type: str, record_id: str) -> tuple[RecordVersion, bool] | None:
        """See ``RecordStore.stored_version``."""
        found = self._records.get((record_type, record_id))
        if found is None:
            return None
        try:
            return found[0], decode(self._codec, record_type, record_id, *found).deleted
        except DataCorruptedError:
            return found[0], False

    async def page(self, record_type: str, after_id: str, limit: int) -> Page:
        """See ``RecordStore.page``."""
        type_of(record_type)
        ids = sorted(record_id for kind, record_id in self._records if kind == record_type and record_id > after_id)
        now = self._clock.now()
        live: list[Record] = []
        damaged: list[Damaged] = []
        shown = ids[: self._room(record_type, ids[:limit])]
        for record_id in shown:
            try:
                record = self._stored(record_type, record_id)
            except DataCorruptedError as error:
                damaged.append(Damaged(record_type, record_id, self._records[record_type, record_id][0], str(error)))
                continue
            if record is not None and record.is_live(now):
                live.append(record)
        return Page(tuple(live), shown[-1] if len(ids) > len(shown) else "", tuple(damaged))

    def _room(self, record_type: str, ids: Sequence[str]) -> int:
        """How many of ``ids`` a page holds."""
        size = 0
        for count, record_id in enumerate(ids, 1):
            size += len(self._records[record_type, record_id][1])
            if size >= PAGE_BYTES:
                return count
        return len(ids)

    async def snapshot(self, record_type: str, limit: int) -> AsyncGenerator[SnapshotPage, None]:
        """See ``RecordStore.snapshot``."""
        page = await self.page(record_type, "", limit)
        while True:
            records = tuple(record_message(record).SerializeToString() for record in page.records)
            yield SnapshotPage(records, page.damaged)
            if not page.next_id:
                return
            page = await self.page(record_type, page.next_id, limit)

    async def query(self, record_type: str, index: str, value: str, after_id: str, limit: int) -> Page:
        """See ``RecordStore.query``."""
        check_index(record_type, index)
        return under(await self.page(record_type, after_id, limit), index, {value})

    async def found(
        self, record_type: str, index: str, values: Collection[str], limit: int
    ) -> AsyncGenerator[Page, None]:
        """See ``RecordStore.found``."""
        check_index(record_type, index)
        page = await self.page(record_type, "", limit)
        while True:
            yield under(page, index, values)
            if not page.next_id:
                return
            page = await self.page(record_type, page.next_id, limit)

    async def expired(self, record_type: str, before: float, limit: int) -> list[Expired]:
        """See ``RecordStore.expired``."""
        type_of(record_type)
        found = [self._stored(kind, record_id) for kind, record_id in self._records if kind == record_type]
        ended = [r for r in found if r is not None and not r.deleted and not r.is_live(before)]
        return [Expired(r.id, r.version) for r in sorted(ended, key=lambda r: r.expires_at or 0.0)][:limit]

    async def put(
        self, writes: Sequence[Write], request_id: str, fence: Fence | None = None
    ) -> tuple[RecordVersion, ...]:
        """See ``RecordStore.put``."""
        check_batch(writes)
        if request_id in self._results:
            return self._results[request_id]
        if fence is not None and self._fences.get(fence.lease) != (fence.number, fence.holder):
            raise ConflictError("the lease has been taken by somebody else since")
        now = self._clock.now()
        self._check_preconditions(writes, now)
        changed: list[Record] = []
        versions: list[RecordVersion] = []
        number = self._head.version.number
        for write in writes:
            in_feed = type_of(write.record.type).in_feed
            number += in_feed
            version = RecordVersion(self._head.version.epoch, number) if in_feed else NO_VERSION
            record = replace(write.record, version=version, modified_at=now)
            if record.deleted:
                record = replace(record, data=b"", indexes={}, expires_at=None)
            versions.append(version if in_feed else RecordVersion(self._head.version.epoch, 0))
            if in_feed:
                changed.append(record)
            elif record.deleted:
                self._records.pop((record.type, record.id), None)
                continue
            self._records[record.type, record.id] = (version, self._codec.encode(record))
        self._results[request_id] = tuple(versions)
        if changed:
            self._head = Position(changed[-1].version, b"%d" % number)
            self._chain[self._head.version] = self._head.tag
            self._feed.append((now, FeedEntry(self._head.version, tuple(changed), self._head.tag)))
        async with self._changed:
            self._changed.notify_all()
        return tuple(versions)

    def _check_preconditions(self, writes: Sequence[Write], now: float) -> None:
        for write in writes:
            found = self._records.get((write.record.type, write.record.id))
            if write.absent and found is not None and self._counts(write.record, now):
                raise ConflictError(f"there is such a `{write.record.type}` already")
            if write.expected is not None and (found is None or found[0] != write.expected):
                raise ConflictError(f"the `{write.record.type}` has another version")

    def _counts(self, record: Record, now: float) -> bool:
        """Whether what is stored is live; what does not open may be."""
        try:
            stored = self._stored(record.type, record.id)
        except DataCorruptedError:
            return True
        return stored is not None and stored.is_live(now)

    async def beat(self, databroker_id: str, report: bytes) -> Beat:
        """See ``RecordStore.beat``."""
        if report:
            self._peers[databroker_id] = report
        return Beat(self._head, self._clock.now(), dict(self._peers))

    async def head(self) -> Position:
        """See ``RecordStore.head``."""
        return self._head

    async def changes(self, after: Position, limit: int, wait_seconds: float) -> list[FeedEntry]:
        """See ``RecordStore.changes``."""
        known = {entry.version: entry.tag for _, entry in self._feed} | {self._trimmed.version: self._trimmed.tag}
        is_other_epoch = after.version.epoch != self._head.version.epoch
        if is_other_epoch or after.version not in known or after.tag not in {b"", known[after.version]}:
            raise WatchExpiredError(f"`{after.version}` is not in the retained history")
        async with self._changed:
            if self._head.version <= after.version:
                try:
                    await asyncio.wait_for(
                        self._changed.wait_for(lambda: self._head.version > after.version), wait_seconds
                    )
                except TimeoutError:
                    return []
        return [entry for _, entry in self._feed if entry.version > after.version][:limit]

    def unread(self, after: RecordVersion) -> Sequence[FeedEntry]:
        """See ``RecordStore.unread``; this store loses nothing."""
        del after
        return ()

    async def oldest(self) -> RecordVersion | None:
        """See ``RecordStore.oldest``."""
        return self._feed[0][1].version if self._feed else None

    async def contains(self, position: Position) -> bool:
        """See ``RecordStore.contains``."""
        return position.tag != b"" and self._chain.get(position.version) == position.tag

    async def recover(self, lost: RecordVersion) -> Position:
        """See ``RecordStore.recover``."""
        if self._head.version.epoch <= lost.epoch:
            self._head = self._trimmed = Position(RecordVersion(lost.epoch + 1, 0), b"epoch")
        return self._head

    def begin(self, epoch: int, common: RecordVersion | None) -> None:
        """See ``RecordStore.begin``; nobody else writes to this store."""

    async def hold(self, name: str, seconds: float) -> None:
        """See ``RecordStore.hold``."""
        self._holds[name] = self._clock.now() + seconds

    async def release(self, name: str) -> None:
        """See ``RecordStore.release``."""
        self._holds.pop(name, None)

    async def trim(self, count: int, age_seconds: float) -> int:
        """See ``RecordStore.trim``."""
        now = self._clock.now()
        self._holds = {name: until for name, until in self._holds.items() if until > now}
        before = len(self._feed)
        while not self._holds and len(self._feed) > 1:
            if len(self._feed) <= count and self._feed[0][0] >= now - age_seconds:
                break
            self._trimmed = self._feed.pop(0)[1].position
        return before - len(self._feed)

    async def acquire_lease(self, name: str, holder: str, seconds: float) -> int | None:
        """See ``RecordStore.acquire_lease``."""
        now = self._clock.monotonic()
        held = self._leases.get(name)
        if held is not None and held[1] > now and held[0] != holder:
            return None
        number = max(self._fences.get(name, (0, ""))[0], self._head.version.epoch * 2**32) + 1
        self._leases[name] = (holder, now + seconds)
        self._fences[name] = (number, holder)
        return number

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
        return None if found is None else decode(self._codec, record_type, record_id, *found)
