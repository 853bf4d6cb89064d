"""A consistent copy of some record types in memory, fed by Watch, that knows how fresh it is.

    connect ─► snapshot ─► consistent ─► changes … ─► (lost) ─► connect, resume by version
                                                       └── history gone ─► snapshot into a new copy, then swap

Freshness is a read lease: the databroker echoes a stamp that we sent, once a write that began after it has reached the store
and everything before it has been sent to us. The lease counts from our own stamp, so a message that was read late extends
nothing. What is in memory stays there when the lease runs out; it is for the reader to refuse to decide by it.

Types that an older databroker does not know are left out, and ``knows`` says so: what is absent is then unknown and not "none".

Concurrency: belongs to one event loop. ``get`` is a plain look-up and may be called from any callback on that loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

import grpc
import grpc.aio
import structlog

from doorward.api.databroker.v1 import databroker_pb2 as pb
from doorward.api.databroker.v1.databroker_pb2_grpc import DatabrokerServiceStub
from doorward.clock import Clock
from doorward.errors import DoorwardError, UnavailableError, WatchExpiredError
from doorward.records import packing
from doorward.records.building import SLICE, Building, Copy, packed_as_it_came
from doorward.records.packing import Packer
from doorward.records.record import NO_VERSION, RecordVersion, version_message, version_of
from doorward.rpc.status import error_for, error_of
from doorward.telemetry.background import watched

PING_SECONDS = 0.1
_SILENCE_SECONDS = 3.0
"""A stream that says nothing for this long is given up: leases come four times a second."""
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 0.5
_ROOM_BYTES = 128 * 1024 * 1024
"""Of the first snapshot, kept as it came until it is complete."""

UNPACKED_LIMIT = 8_192
"""Payloads of each type that are remembered as they came."""

Listener = Callable[[str, str], None]

_log = structlog.stdlib.get_logger(__name__)


class Replica:
    """The copy. ``run`` feeds it; everything else reads."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        types: Sequence[str],
        watcher_id: str,
        clock: Clock,
        staleness_limit_seconds: float,
        packers: Mapping[str, Packer] | None = None,
        if_known: Sequence[str] = (),
    ) -> None:
        """``types`` every databroker knows; ``if_known`` are those that have come later."""
        self._stub = DatabrokerServiceStub(channel)
        self._required, self._if_known = tuple(types), tuple(if_known)
        self._types = (*self._required, *self._if_known)
        self._served: frozenset[str] = frozenset()
        """Those of ``if_known`` that the copy holds."""
        self._watcher_id = watcher_id
        self._clock = clock
        self._limit = staleness_limit_seconds
        self._packers = dict(packers or {})
        self._entries: Copy = {kind: {} for kind in self._types}
        self._unpacked: dict[str, dict[str, tuple[bytes, float | None]]] = {kind: {} for kind in self._types}
        self._making_small: asyncio.Task[None] | None = None
        self._stamp: float | None = None
        self._listeners: list[Listener] = []
        self._changed = asyncio.Event()
        self.version: RecordVersion = NO_VERSION
        """Everything up to here is applied."""
        self._tag = b""
        """The chain tag at ``version``: it tells this history from another under the same numbers."""
        self.ready = asyncio.Event()
        """Set once the first snapshot is complete."""
        self.is_following = False
        """Whether a databroker is telling us what changes. Else nobody knows what is missing here, not even that the history is ours."""

    def get(self, record_type: str, record_id: str) -> bytes | None:
        """The payload of a live record, or ``None``. The same object while the record is asked for often and does not change."""
        known = self._unpacked[record_type].get(record_id)
        if known is None:
            known = self._unpack(record_type, record_id)
            if known is None:
                return None
        payload, expires_at = known
        return payload if expires_at is None or self._clock.now() < expires_at else None

    def _unpack(self, record_type: str, record_id: str) -> tuple[bytes, float | None] | None:
        """Payload and end, remembered until the record changes."""
        packed = self._entries[record_type].get(packing.key_of(record_id))
        if packed is None or packing.is_tombstone(packed):
            return None
        payload = packing.payload_in(record_id, packed, self._packers.get(record_type))
        unpacked = self._unpacked[record_type]
        if len(unpacked) >= UNPACKED_LIMIT:
            unpacked.clear()
        unpacked[record_id] = found = payload, packing.end_of(packed)
        return found

    def knows(self, record_type: str) -> bool:
        """Whether a record of this type that is not here does not exist."""
        return record_type in self._required or record_type in self._served

    def count(self, record_type: str) -> int:
        """How many records of a type are held, expired ones included."""
        return len(self._entries[record_type])

    def is_fresh(self, limit_seconds: float | None = None) -> bool:
        """Whether the data were proven fresh within the limit (the replica's own unless another is given)."""
        age = self.data_age_seconds
        limit = self._limit if limit_seconds is None else limit_seconds
        return age is not None and age < limit and self.ready.is_set()

    @property
    def data_age_seconds(self) -> float | None:
        """Seconds since the stamp of the last lease; ``None`` when there never was one."""
        return None if self._stamp is None else self._clock.monotonic() - self._stamp

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener(type, id)`` after each applied change; returns the way to end it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def wait_for_version(self, version: RecordVersion, timeout_seconds: float) -> bool:
        """Whether everything up to ``version`` is applied within the timeout.

        A version of another epoch is not waited for: the history that it names is gone.
        """
        deadline = time.monotonic() + timeout_seconds
        while self.version < version:
            if self.ready.is_set() and version.epoch != self.version.epoch:
                return False
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return False
            self._changed.clear()
            try:
                async with asyncio.timeout(remaining):
                    await self._changed.wait()
            except TimeoutError:
                return self.version >= version
        return True

    async def run(self) -> None:
        """Follow the databroker until cancelled, through every loss of it."""
        try:
            await self._follow_on()
        finally:
            self._make_small(None)

    async def _follow_on(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            began = self._clock.monotonic()
            try:
                await self._follow()
            except WatchExpiredError as error:
                _log.warning("the watched history is gone; taking a snapshot", reason=str(error))
                self.version = NO_VERSION
            except (DoorwardError, TimeoutError) as error:
                _log.warning("lost the databroker", reason=str(error) or type(error).__name__)
            if self._clock.monotonic() - began > 1.0:
                pause = _FIRST_PAUSE_SECONDS
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    async def _follow(self) -> None:
        outgoing: asyncio.Queue[pb.WatchRequest] = asyncio.Queue()
        start = pb.WatchRequest.Start(types=self._required, types_if_known=self._if_known, watcher_id=self._watcher_id)
        resuming = self.version != NO_VERSION
        if resuming:
            start.after.CopyFrom(version_message(self.version))
            start.after_tag = self._tag
        outgoing.put_nowait(pb.WatchRequest(start=start))

        async def requests() -> AsyncIterator[pb.WatchRequest]:
            while True:
                yield await outgoing.get()

        async def ping() -> None:
            while True:
                stamp = int(self._clock.monotonic() * 1e9)
                outgoing.put_nowait(pb.WatchRequest(ping=pb.WatchRequest.Ping(stamp=stamp)))
                await asyncio.sleep(PING_SECONDS)

        stream = self._stub.Watch(requests())
        pinging = watched(asyncio.create_task(ping()), "pings to the databroker")
        # A snapshot is built beside the old copy, so that nobody reads half of it.
        # Only the first is not made small at once: a later one is compared with the copy before it, and nobody waits for it.
        room = 0 if self.ready.is_set() else _ROOM_BYTES
        building = None if resuming else Building(self._types, self._packers, room)
        try:
            while True:
                message = await self._next(stream)
                if pinging.done():
                    raise UnavailableError("it is not pinged any more")  # without leases we would be stale for ever
                match message.WhichOneof("message"):
                    case "batch":
                        if building is not None:
                            await self._build(message.batch.records, building)
                        else:
                            await self._apply(message.batch.records)
                            self._advance(version_of(message.batch.version), message.batch.tag, outgoing)
                    case "consistent":
                        served = frozenset(message.consistent.types)
                        if building is not None:
                            await self._swap(building, served)
                            self._make_small(building)
                            building = None
                        elif served != self._served:
                            # What has changed of the others meanwhile was not told to us, or will not be.
                            raise WatchExpiredError("this databroker serves other record types")
                        self.ready.set()
                        self.is_following = True
                        self._advance(version_of(message.consistent.version), message.consistent.tag, outgoing)
                    case "lease":
                        if building is None:
                            self._stamp = message.lease.stamp / 1e9
                    case _:
                        pass  # a newer databroker may say more
        finally:
            self.is_following = False
            pinging.cancel()
            stream.cancel()

    async def _next(self, stream: grpc.aio.StreamStreamCall[pb.WatchRequest, pb.WatchResponse]) -> pb.WatchResponse:
        """The next message.

        Raises:
            DoorwardError: the stream has ended, for whatever reason.
            TimeoutError: it has gone silent.
        """
        try:
            async with asyncio.timeout(_SILENCE_SECONDS):
                message = await stream.read()
            if isinstance(message, pb.WatchResponse):
                return message
            code, details = await stream.code(), await stream.details()
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from error
        raise error_for(code, details)

    def _advance(self, version: RecordVersion, tag: bytes, outgoing: asyncio.Queue[pb.WatchRequest]) -> None:
        if version >= self.version:
            self.version, self._tag = version, tag
        self._changed.set()
        acknowledge = pb.WatchRequest.Acknowledge(version=version_message(self.version))
        outgoing.put_nowait(pb.WatchRequest(acknowledge=acknowledge))

    async def _swap(self, building: Building, served: frozenset[str]) -> None:
        """Make the finished snapshot the copy, and tell listeners about everything that may differ."""
        await building.complete()
        old, self._entries, self._served = self._entries, building.copy, served
        for unpacked in self._unpacked.values():
            unpacked.clear()
        self.version = NO_VERSION
        # In turns with others, and without a set of all keys: a million at once take half a second. What is gone goes first.
        for kind, before in old.items():
            after = self._entries[kind]
            for position, (key, packed) in enumerate(before.items()):
                if position % SLICE == 0:
                    await asyncio.sleep(0)
                if after.get(key) != packed:
                    self._notify(kind, packing.id_of(key))
        for kind, after in self._entries.items():
            before = old[kind]
            for position, key in enumerate(after):
                if position % SLICE == 0:
                    await asyncio.sleep(0)
                if key not in before:
                    self._notify(kind, packing.id_of(key))
        for before in old.values():
            while before:
                before.popitem()
                if len(before) % SLICE == 0:
                    await asyncio.sleep(0)

    def _make_small(self, building: Building | None) -> None:
        if self._making_small is not None:
            self._making_small.cancel()
        if building is not None:
            self._making_small = watched(asyncio.create_task(building.make_small()), "making records small")

    async def _build(self, records: Iterable[pb.Record], building: Building) -> None:
        for position, record in enumerate(records):
            if position and position % SLICE == 0:
                await asyncio.sleep(0)
            building.take(record)

    async def _apply(self, records: Iterable[pb.Record]) -> None:
        """Take changes in their order. What is deleted leaves nothing behind."""
        covered = self.version
        for position, record in enumerate(records):
            if position and position % SLICE == 0:
                await asyncio.sleep(0)
            entries = self._entries.get(record.type)
            if entries is None or version_of(record.version) <= covered:
                # A batch may begin before the position that the snapshot has reached: what it repeats must not undo what came later.
                continue
            key = packing.key_of(record.id)
            # INVARIANT: nothing is remembered of what has changed.
            self._unpacked[record.type].pop(record.id, None)
            if record.deleted:
                entries.pop(key, None)
            else:
                packed = packed_as_it_came(record)
                entries[key] = packing.smaller(record.id, packed, self._packers.get(record.type))
            self._notify(record.type, record.id)

    def _notify(self, record_type: str, record_id: str) -> None:
        for listener in tuple(self._listeners):
            try:
                listener(record_type, record_id)
            except Exception as error:
                # One listener's mistake must not keep the others, or the replica, from hearing of a change.
                _log.error("a listener failed", error=str(error), exc_info=True)
