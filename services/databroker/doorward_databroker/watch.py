"""One reader of the feed, many watchers.

    feed ─► reader ─► batch, encoded once for each set of types ─► queue of each watcher ─► its stream
                                                        heartbeat ─► lease ─┘ behind the batches that it vouches for

A snapshot is fuzzy: it notes the head, reads the records in id order, then replays the feed from the noted head; a watcher
applies by version, so a record that the snapshot showed newer than a change wins. A watcher that does not keep up is cut and
resumes by version.

Concurrency: belongs to one event loop. Within a watcher's queue order is the feed's order.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import structlog

from doorward.api.databroker.v1 import databroker_pb2 as pb
from doorward.clock import Clock
from doorward.errors import DoorwardError, UnavailableError, WatchExpiredError
from doorward.records.record import (
    NO_VERSION,
    Record,
    RecordVersion,
    Write,
    record_message,
    version_message,
)
from doorward_databroker.store.port import FeedEntry, RecordStore

BATCH_RECORDS = 500
QUEUE_LIMIT = 1_000
WINDOW = 10_000
"""Deletions remembered, to be put back should the store forget them."""
_WAIT_SECONDS = 1.0
_PAUSE_SECONDS = 0.1

_log = structlog.stdlib.get_logger(__name__)


@dataclass(eq=False)
class Watcher:
    """One stream."""

    id: str
    types: frozenset[str]
    queue: "asyncio.Queue[pb.WatchResponse | None]" = field(default_factory=asyncio.Queue)
    position: RecordVersion = NO_VERSION
    """What has been queued for it."""
    acknowledged: RecordVersion = NO_VERSION
    stamp: int | None = None
    """Its newest ping."""
    lease_sent_at: float | None = None
    """When a lease last went out, on our monotonic clock; its own lease cannot count from later."""
    cut: str | None = None
    """Why it is being cut."""

    def offer(self, response: pb.WatchResponse) -> None:
        """Queue a response, or cut the watcher when it has fallen behind."""
        if self.cut is not None:
            return
        if self.queue.qsize() >= QUEUE_LIMIT:
            self.end("fell behind")
            return
        self.queue.put_nowait(response)

    def end(self, reason: str) -> None:
        """Cut the watcher."""
        self.cut = reason
        self.queue.put_nowait(None)


class WatchHub:
    """Reads the feed once and hands it to every watcher."""

    def __init__(self, store: RecordStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._watchers: set[Watcher] = set()
        self._moved = asyncio.Condition()
        self._deleted: deque[tuple[str, str]] = deque(maxlen=WINDOW)
        self.position: RecordVersion | None = None
        """What the reader has handed out; ``None`` until the store has answered once."""
        self.acknowledged = asyncio.Condition()
        """Notified when a watcher acknowledges or goes."""

    @property
    def watchers(self) -> frozenset[Watcher]:
        """The live ones."""
        return frozenset(self._watchers)

    async def run(self) -> None:
        """Follow the feed until cancelled."""
        while True:
            try:
                if self.position is None:
                    self.position = await self._store.head()
                entries = await self._store.changes(self.position, BATCH_RECORDS, _WAIT_SECONDS)
            except WatchExpiredError as error:
                await self._start_over(str(error))
                continue
            except DoorwardError as error:
                _log.warning("the feed cannot be read", reason=str(error))
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            if entries:
                await self._hand_out(entries)

    async def _start_over(self, reason: str) -> None:
        """The store no longer continues what was handed out: begin again, in a new epoch if nobody has yet.

        Deletions that were handed out are put back: whoever was signed out stays so, whatever the store forgot.
        """
        _log.error("the store has lost history; watchers start over", reason=reason)
        lost, self.position = self.position, None
        for watcher in tuple(self._watchers):
            watcher.end("the history is gone")
        try:
            if lost is not None:
                await self._store.recover(lost)
            while self._deleted:
                batch = [self._deleted[index] for index in range(min(len(self._deleted), BATCH_RECORDS // 2))]
                writes = [Write(record=Record(type=kind, id=name, deleted=True)) for kind, name in dict.fromkeys(batch)]
                await self._store.put(writes, secrets.token_hex(16))
                for _ in batch:
                    self._deleted.popleft()
        except DoorwardError as error:
            _log.error("the store cannot be mended yet", reason=str(error))
            self.position = lost
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _hand_out(self, entries: Sequence[FeedEntry]) -> None:
        encoded: dict[frozenset[str], list[pb.WatchResponse]] = {}
        for watcher in tuple(self._watchers):
            responses = encoded.get(watcher.types)
            if responses is None:
                responses = encoded[watcher.types] = _responses(entries, watcher.types)
            for response in responses:
                if _covered(response) > watcher.position:
                    watcher.offer(response)
            watcher.position = max(watcher.position, entries[-1].version)
        self.position = entries[-1].version
        self._deleted.extend((r.type, r.id) for entry in entries for r in entry.records if r.deleted)
        async with self._moved:
            self._moved.notify_all()

    async def wait_for(self, version: RecordVersion, seconds: float) -> bool:
        """Whether everything up to ``version`` has been handed out within ``seconds``."""

        def reached() -> bool:
            return self.position is not None and self.position >= version

        async with self._moved:
            try:
                await asyncio.wait_for(self._moved.wait_for(reached), seconds)
            except TimeoutError:
                return False
        return True

    async def watch(self, watcher: Watcher, after: RecordVersion | None) -> AsyncIterator[pb.WatchResponse]:
        """Everything for ``watcher``: a snapshot unless it resumes, then changes and leases.

        Raises:
            WatchExpiredError: ``after`` cannot be resumed from.
            UnavailableError: the watcher was cut; it resumes by version.
        """
        head = await self._store.head()
        start = head if after is None else after
        # From here on the reader queues for this watcher; what the replay below covers is skipped by position.
        entered = await self._enter(watcher, start)
        try:
            if after is None:
                async for response in self._snapshot(watcher.types):
                    yield response
            async for response in self._replay(watcher.types, start, entered):
                yield response
            yield pb.WatchResponse(consistent=pb.WatchResponse.Consistent(version=version_message(entered)))
            while True:
                queued = await watcher.queue.get()
                if queued is None:
                    raise UnavailableError(f"the watch is cut: {watcher.cut}")
                yield queued
        finally:
            self._watchers.discard(watcher)
            async with self.acknowledged:
                self.acknowledged.notify_all()

    async def _enter(self, watcher: Watcher, start: RecordVersion) -> RecordVersion:
        """Admit ``watcher`` to the live feed and return the position from which it is served there."""
        if self.position is None or not await self.wait_for(start, 2.0) or self.position is None:
            if self.position is not None and start.epoch != self.position.epoch:
                raise WatchExpiredError(f"`{start}` belongs to another epoch")
            raise UnavailableError("the feed is not being read")
        if start.epoch != self.position.epoch:
            raise WatchExpiredError(f"`{start}` belongs to another epoch")
        watcher.position = self.position
        self._watchers.add(watcher)
        return self.position

    async def _snapshot(self, types: frozenset[str]) -> AsyncIterator[pb.WatchResponse]:
        for record_type in sorted(types):
            after_id = ""
            while True:
                records, after_id = await self._store.page(record_type, after_id, BATCH_RECORDS)
                if records:
                    yield _batch(records, NO_VERSION)
                if not after_id:
                    break

    async def _replay(
        self, types: frozenset[str], start: RecordVersion, until: RecordVersion
    ) -> AsyncIterator[pb.WatchResponse]:
        """The changes after ``start``, up to where the live feed takes over; checks that ``start`` is in the history."""
        position = start
        while True:
            entries = await self._store.changes(position, BATCH_RECORDS, 0.001)
            wanted = [entry for entry in entries if entry.version <= until]
            for response in _responses(wanted, types):
                yield response
            if not wanted or len(wanted) < len(entries):
                return
            position = wanted[-1].version


def _responses(entries: Sequence[FeedEntry], types: frozenset[str]) -> list[pb.WatchResponse]:
    """The entries as few messages as the bound allows; one put is never split."""
    responses: list[pb.WatchResponse] = []
    pending: list[Record] = []
    version = NO_VERSION
    for entry in entries:
        records = [record for record in entry.records if record.type in types]
        if pending and len(pending) + len(records) > BATCH_RECORDS:
            responses.append(_batch(pending, version))
            pending = []
        pending += records
        version = entry.version
    if version != NO_VERSION:
        # Also without records: the watcher's version must move on, or it would resume from too far back.
        responses.append(_batch(pending, version))
    return responses


def _batch(records: Sequence[Record], version: RecordVersion) -> pb.WatchResponse:
    return pb.WatchResponse(
        batch=pb.WatchResponse.Batch(
            records=[record_message(record) for record in records], version=version_message(version)
        )
    )


def _covered(response: pb.WatchResponse) -> RecordVersion:
    return RecordVersion(response.batch.version.epoch, response.batch.version.number)
