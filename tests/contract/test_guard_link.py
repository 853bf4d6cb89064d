"""The guard and its authorizers over real sockets: one leaves, one dies, one is silent, one has old data."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from tests.support.deployment import short_folder
from tests.unit.authorize.builders import World
from tests.unit.authorize.test_guard_watcher import ALICE, GUARDED, description
from tests.unit.proxy.guard.test_streams import FakeCall, begin

from doorward.api.guard.v1.guard_pb2 import WatchStreamsRequest
from doorward.api.guard.v1.guard_pb2_grpc import add_GuardServiceServicer_to_server
from doorward.clock import SystemClock
from doorward.rpc.client import open_channel
from doorward.rpc.planes import Plane
from doorward.rpc.server import PlaneServer
from doorward_authorize.guard.service import SERVICE_NAME, GuardServicer
from doorward_authorize.guard.watcher import Watcher
from doorward_proxy.guard.link import AuthorizeLink
from doorward_proxy.guard.metrics import GuardMetrics
from doorward_proxy.guard.streams import Streams


class Authorizer:
    """One of several authorizers over the same records."""

    def __init__(self, world: World, path: Path) -> None:
        self.world = world
        self.path = path
        self.watcher = Watcher(world.evaluator, world.principals, world.records.is_fresh, world.clock, world.metrics)
        self.servicer = GuardServicer(self.watcher, lambda: world.records.age, world.metrics.failures.inc)
        self.server: PlaneServer | None = None
        self.task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.servicer = GuardServicer(self.watcher, lambda: self.world.records.age, self.world.metrics.failures.inc)
        self.server = PlaneServer(
            self.path,
            [Plane.PROXY],
            lambda server: add_GuardServiceServicer_to_server(self.servicer, server),
            [SERVICE_NAME],
        )
        await self.server.start()
        self.task = asyncio.create_task(self.watcher.run())

    async def stop(self, grace: float = 0.0) -> None:
        if self.server is not None and self.task is not None:
            await self.server.stop(grace)
            self.task.cancel()
            self.server = self.task = None


class Guarded:
    """A guard with some streams, and two authorizers that it can go to."""

    def __init__(self, world: World, authorizers: list[Authorizer]) -> None:
        clock = SystemClock()
        self.world = world
        self.authorizers = authorizers
        self.streams = Streams(clock, GuardMetrics(CollectorRegistry()), 10_000)
        self.channels = [open_channel(item.path, Plane.AUTHORIZE) for item in authorizers]
        self.link = AuthorizeLink(self.channels, self.streams, clock, GuardMetrics(CollectorRegistry()))

    async def describe(self, route: str, cookie: str) -> bytes:
        return description(await self.world.check(route, cookie=cookie))

    def open(self, data: bytes) -> FakeCall:
        call = FakeCall(self.streams)
        self.streams.on_message(call, begin(data))  # type: ignore[arg-type]  # has what is used
        return call

    def watched(self) -> list[int]:
        return [len(item.watcher) for item in self.authorizers]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Guarded]:
    world = World(tmp_path, GUARDED)
    with short_folder() as folder:
        async with AsyncExitStack() as stack:
            authorizers = [Authorizer(world, folder / f"{name}.sock") for name in ("first", "second")]
            for item in authorizers:
                await item.start()
                stack.push_async_callback(item.stop)
            made = Guarded(world, authorizers)
            running = asyncio.create_task(made.link.run())
            ticking = asyncio.create_task(tick(made.streams))
            try:
                await asyncio.wait_for(made.link.up.wait(), 10)
                yield made
            finally:
                for task in (running, ticking):
                    task.cancel()
                await asyncio.gather(running, ticking, return_exceptions=True)
                for channel in made.channels:
                    await channel.close()


async def tick(streams: Streams) -> None:
    while True:
        await asyncio.sleep(0.02)
        streams.tick()


async def test_a_stream_is_let_go_on_and_cut_when_its_session_ends(guarded: Guarded):
    call = guarded.open(await guarded.describe("app", guarded.world.sign_in()))
    await until(lambda: call.answered)
    assert guarded.watched() == [1, 0]
    del guarded.world.records.data["Session", ALICE]
    guarded.authorizers[0].watcher.on_record("Session", ALICE)
    await until(lambda: not call.open)
    assert call.status == 7


async def test_many_streams_are_named_in_pieces_and_all_decided(guarded: Guarded):
    data = await guarded.describe("app", guarded.world.sign_in())
    calls = [guarded.open(data) for _ in range(1_234)]
    await until(lambda: all(call.answered for call in calls))
    assert guarded.watched() == [1_234, 0]
    for call in calls[:1000]:
        call.end(1)
    await until(lambda: guarded.watched() == [234, 0])


@pytest.mark.parametrize("farewell", [True, False], ids=["leaving", "gone"])
async def test_an_authorizer_that_goes_hands_its_streams_to_the_next(guarded: Guarded, farewell: bool):
    data = await guarded.describe("app", guarded.world.sign_in())
    calls = [guarded.open(data) for _ in range(100)]
    await until(lambda: all(call.answered for call in calls))
    if farewell:
        guarded.authorizers[0].servicer.drain()
    else:
        await guarded.authorizers[0].stop()
    await until(lambda: guarded.watched()[1] == 100)
    assert all(call.open for call in calls)
    late = guarded.open(data)
    await until(lambda: late.answered)
    del guarded.world.records.data["Session", ALICE]
    guarded.authorizers[1].watcher.on_record("Session", ALICE)
    await until(lambda: not any(call.open for call in [*calls, late]))


async def test_an_authorizer_that_is_configured_no_more_is_left_without_cutting_anything(guarded: Guarded):
    data = await guarded.describe("app", guarded.world.sign_in())
    calls = [guarded.open(data) for _ in range(10)]
    await until(lambda: all(call.answered for call in calls))
    first, second = guarded.channels
    assert guarded.link.holds(first)
    guarded.link.replace([first, second])
    assert guarded.link.holds(first)
    guarded.link.replace([second])
    await until(lambda: guarded.watched() == [0, 10])
    assert guarded.link.holds(second)
    assert not guarded.link.holds(first)
    assert all(call.open for call in calls)


async def test_what_changed_while_nobody_watched_is_found_by_the_next(guarded: Guarded):
    call = guarded.open(await guarded.describe("app", guarded.world.sign_in()))
    await until(lambda: call.answered)
    for item in guarded.authorizers:
        await item.stop()
    del guarded.world.records.data["Session", ALICE]
    await asyncio.sleep(0.1)
    assert call.open
    await guarded.authorizers[1].start()
    await until(lambda: guarded.watched()[1] == 1)
    guarded.world.clock.advance(0.5)
    await until(lambda: not call.open)
    assert call.status == 7


async def test_without_any_authorizer_streams_end_at_their_limit_and_new_ones_are_refused(guarded: Guarded):
    """The bound that is published: nothing goes on unwatched for longer than its route's staleness limit."""
    call = guarded.open(await guarded.describe("admin", guarded.world.sign_in(host="admin.example.com")))
    await until(lambda: call.answered)
    for item in guarded.authorizers:
        await item.stop()
    began = asyncio.get_running_loop().time()
    late = guarded.open(b"anything")
    await until(lambda: not call.open)
    assert 1.0 < asyncio.get_running_loop().time() - began < 2.3, "the sensitive limit is 2 s, from the last proof"
    await until(lambda: not late.open)
    assert (call.status, late.status, late.answers) == (14, 14, [])


async def test_an_authorizer_with_old_data_is_left_for_another(guarded: Guarded, monkeypatch: pytest.MonkeyPatch):
    call = guarded.open(await guarded.describe("app", guarded.world.sign_in()))
    await until(lambda: call.answered)
    monkeypatch.setattr(guarded.authorizers[0].watcher, "_is_fresh", lambda _: False)
    await until(lambda: guarded.watched() == [0, 1])
    assert call.open


async def test_a_silent_authorizer_is_left_for_another(guarded: Guarded, monkeypatch: pytest.MonkeyPatch):
    """Alive on its socket, and not deciding: that must not count as watching."""
    call = guarded.open(await guarded.describe("app", guarded.world.sign_in()))
    await until(lambda: call.answered)

    async def never() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(guarded.authorizers[0].watcher, "settle", never)
    await until(lambda: guarded.watched()[1] == 1)
    assert call.open


async def test_a_proof_comes_only_after_what_is_in_doubt_is_decided(guarded: Guarded):
    """A stamp that overtakes a refusal would prove a stream that must end."""
    call = guarded.open(await guarded.describe("app", guarded.world.sign_in()))
    await until(lambda: call.answered)
    proofs = []
    on_proof = guarded.streams.on_proof
    guarded.streams.on_proof = lambda proven: (proofs.append(call.open), on_proof(proven))  # type: ignore[method-assign, assignment, func-returns-value]
    watcher = guarded.authorizers[0].watcher
    del guarded.world.records.data["Session", ALICE]
    watcher._doubt(tuple(watcher._by_record["Session", ALICE]))
    watcher._wake.clear()
    await until(lambda: proofs)
    assert not any(proofs)


class Settling:
    """A watcher during whose work newer data arrive."""

    can_vouch = True

    def __init__(self) -> None:
        self.age: float | None = 0.4

    def join(self, link: object) -> None:
        """Nothing to keep."""

    leave = join

    async def settle(self) -> None:
        self.age = 0.0


async def test_a_proof_is_as_old_as_the_data_that_all_was_decided_by():
    """What has arrived since may be in doubt still, and nobody can say when this authorizer will die."""

    async def requests() -> AsyncIterator[WatchStreamsRequest]:
        yield WatchStreamsRequest(stamp=5)
        await asyncio.Event().wait()

    watcher = Settling()
    servicer = GuardServicer(watcher, lambda: watcher.age, lambda: None)  # type: ignore[arg-type]  # has what is used
    call = servicer.WatchStreams(requests(), None)  # type: ignore[arg-type]  # is not looked at
    response = await anext(call)
    assert (response.stamp, response.data_age_ms) == (5, 401)
    await call.aclose()  # type: ignore[attr-defined]  # a generator
