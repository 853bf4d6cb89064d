"""A databroker's parts in this process, over any store, with its feed being read."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc.aio
from prometheus_client import CollectorRegistry
from tests.support.deployment import short_folder

from doorward.api.databroker.v1 import databroker_pb2 as pb
from doorward.clock import Clock
from doorward.records.record import Record, Write, record_of, version_of
from doorward.rpc.client import open_channel
from doorward.rpc.planes import Plane
from doorward.rpc.server import PlaneServer
from doorward_databroker.heartbeat import Heartbeat
from doorward_databroker.metrics import DatabrokerMetrics
from doorward_databroker.peers import Peers
from doorward_databroker.revoke import Revoker
from doorward_databroker.server import SERVICE_NAME, DatabrokerServicer, register
from doorward_databroker.store.port import Position, RecordStore
from doorward_databroker.watch import WatchHub
from doorward_databroker.watcher import Watcher

STALENESS_SECONDS = 5.0


@dataclass
class Broker:
    store: RecordStore
    hub: WatchHub
    peers: Peers
    heartbeat: Heartbeat
    revoker: Revoker
    clock: Clock
    reader: "asyncio.Task[None]"
    """Follows the feed; a test that begins a history anew by hand stops it first."""

    async def put(self, *records: Record) -> Position:
        versions = await self.store.put([Write(record=record) for record in records], secrets.token_hex(16))
        return Position(versions[-1])

    async def caught_up(self) -> None:
        head = await self.store.head()
        assert await self.hub.wait_for(head.version, 5)

    def watcher(self, name: str, *types: str) -> "TestWatcher":
        return TestWatcher(self, Watcher(id=name, types=frozenset(types or ("Session",))))


@dataclass
class TestWatcher:
    """What a watcher has been told, as a replica would keep it; acknowledges unless told not to."""

    __test__ = False
    broker: Broker
    watcher: Watcher
    acknowledges: bool = True
    records: dict[tuple[str, str], Record] = field(default_factory=dict)
    position: Position | None = None
    leases: list[int] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    failure: Exception | None = None
    consistent: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def ping(self, stamp: int) -> None:
        self.watcher.stamp = stamp
        self.watcher.stamped_at = self.broker.clock.monotonic()

    async def run(self, after: Position | None = None) -> None:
        stream = self.broker.hub.watch(self.watcher, after)
        try:
            async for data in stream:
                self.messages.append(data)
                self._take(pb.WatchResponse.FromString(data))
                if self.acknowledges and self.position is not None:
                    self.watcher.acknowledged = self.position.version
                    async with self.broker.hub.acknowledged:
                        self.broker.hub.acknowledged.notify_all()
        except Exception as error:  # the tests look at what it was
            self.failure = error
        finally:
            await stream.aclose()
            self.broker.peers.watcher_gone(self.watcher)
            self.ended.set()

    def _take(self, message: pb.WatchResponse) -> None:
        match message.WhichOneof("message"):
            case "batch":
                for raw in message.batch.records:
                    record = record_of(raw)
                    known = self.records.get((record.type, record.id))
                    if known is None or known.version < record.version:
                        self.records[record.type, record.id] = record
                if message.batch.HasField("version") and self.consistent.is_set():
                    self.position = Position(version_of(message.batch.version), message.batch.tag)
            case "consistent":
                self.position = Position(version_of(message.consistent.version), message.consistent.tag)
                self.consistent.set()
            case "lease":
                self.leases.append(message.lease.stamp)

    def live(self) -> set[str]:
        return {record.id for record in self.records.values() if not record.deleted}


@asynccontextmanager
async def broker(store: RecordStore, clock: Clock, name: str = "one") -> AsyncIterator[Broker]:
    hub = WatchHub(store, clock)
    metrics = DatabrokerMetrics(CollectorRegistry())
    peers = Peers(hub, clock, name, STALENESS_SECONDS)
    heartbeat = Heartbeat(store, hub, peers, clock, metrics)
    running = asyncio.create_task(hub.run())
    try:
        yield Broker(store, hub, peers, heartbeat, Revoker(store, hub, peers, clock, metrics), clock, running)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@asynccontextmanager
async def serving(one: Broker, plane: Plane) -> AsyncIterator[grpc.aio.Channel]:
    """A channel of ``plane`` to the databroker's service."""
    metrics = DatabrokerMetrics(CollectorRegistry())
    servicer = DatabrokerServicer(one.store, one.hub, one.heartbeat, one.revoker, one.peers, one.clock, metrics)
    with short_folder() as folder:
        folder.chmod(0o700)
        server = PlaneServer(folder / plane, [plane], lambda made: register(servicer, made), [SERVICE_NAME])
        await server.start()
        try:
            async with open_channel(folder / plane, Plane.DATABROKER) as channel:
                yield channel
        finally:
            await server.stop(0)


@asynccontextmanager
async def watching(watcher: TestWatcher, after: Position | None = None) -> AsyncIterator[TestWatcher]:
    task = asyncio.create_task(watcher.run(after))
    try:
        yield watcher
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def session_ids(store: RecordStore) -> set[str]:
    """Of every session that the store has."""
    found: set[str] = set()
    after = ""
    while True:
        page = await store.page("Session", after, 500)
        found |= {record.id for record in page.records}
        after = page.next_id
        if not after:
            return found


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Return once ``condition()`` holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
