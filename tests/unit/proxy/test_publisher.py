"""The order of a change, and isolation."""

import asyncio
import dataclasses
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from prometheus_client import CollectorRegistry
from tests.support.envoy import route, settings_of
from tests.unit.proxy.examples import CERTIFIED, surroundings

from doorward.clock import SystemClock
from doorward.config.settings import Settings
from doorward.errors import UnavailableError
from doorward_proxy.isolation import Isolation
from doorward_proxy.metrics import ProxyMetrics
from doorward_proxy.publisher import Publisher
from doorward_proxy.resources.build import build_snapshot
from doorward_proxy.xds.snapshot import CLUSTER_TYPE, Snapshot
from doorward_proxy.xds.stream import Refusal


def build(settings: Settings) -> Snapshot:
    return build_snapshot(settings, CERTIFIED, surroundings())


def hosts(snapshot: Snapshot) -> set[str]:
    return {host.name for host in snapshot.routes[0].virtual_hosts} - {"unmatched", "authenticate.localhost"}


def on_503(snapshot: Snapshot) -> set[str]:
    return {
        host.name
        for host in snapshot.routes[0].virtual_hosts
        if host.routes[0].HasField("direct_response") and host.routes[0].direct_response.status == 503
    }


@dataclass
class FakeDiscovery:
    published: list[Snapshot] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def publish(self, snapshot: Snapshot) -> None:
        self.published.append(snapshot)
        self.changed.set()

    async def wait(self, count: int) -> Snapshot:
        async with asyncio.timeout(5):
            while len(self.published) < count:
                self.changed.clear()
                await self.changed.wait()
        return self.published[-1]


@dataclass
class FakeAuthorize:
    answer: str | None = None

    async def behind(self, generation: str) -> list[str]:
        if self.answer is None:
            raise UnavailableError("down")
        return [] if self.answer == generation else ["authorize/a"]


@dataclass
class FakeValidator:
    """Refuses every snapshot that routes one of these hosts to an upstream."""

    guilty: set[str] = field(default_factory=set)
    refuses_all: bool = False
    asked: int = 0

    async def refusal(self, snapshot: Snapshot) -> str | None:
        self.asked += 1
        found = (hosts(snapshot) - on_503(snapshot)) & self.guilty
        return "refused" if self.refuses_all or found else None


@dataclass
class Bench:
    publisher: Publisher
    discovery: FakeDiscovery
    authorize: FakeAuthorize
    validator: FakeValidator
    metrics: ProxyMetrics


@asynccontextmanager
async def running() -> AsyncIterator[Bench]:
    discovery, authorize, validator = FakeDiscovery(), FakeAuthorize("g1"), FakeValidator()
    metrics = ProxyMetrics(CollectorRegistry())
    publisher = Publisher(
        build=build,
        discovery=discovery,
        deciders=authorize,
        isolation=Isolation(build, validator),
        clock=SystemClock(),
        metrics=metrics,
    )
    task = asyncio.create_task(publisher.run())
    try:
        yield Bench(publisher, discovery, authorize, validator, metrics)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def refusal_of(snapshot: Snapshot) -> Refusal:
    return Refusal(CLUSTER_TYPE, ("x",), "no good", snapshot.generation, snapshot.version)


async def test_settings_are_published_once_authorize_has_them() -> None:
    async with running() as bench:
        bench.authorize.answer = "older"
        bench.publisher.submit(settings_of(route(), generation="g1"))
        await asyncio.sleep(0.1)
        assert not bench.discovery.published
        bench.authorize.answer = "g1"
        assert (await bench.discovery.wait(1)).generation == "g1"
        assert bench.publisher.status.generation == "g1"


@pytest.mark.parametrize("answer", [None, "older"])
async def test_without_authorize_they_are_published_late_and_counted(answer: str | None) -> None:
    async with running() as bench:
        bench.authorize.answer = answer
        bench.publisher.submit(settings_of(route()))
        await bench.discovery.wait(1)
        assert bench.metrics.unsynchronised._value.get() == 1


async def test_what_is_superseded_is_not_waited_for() -> None:
    """Who decides has gone on to newer settings: nobody would ever report those in between."""
    async with running() as bench:
        bench.authorize.answer = "g2"
        began = time.monotonic()
        bench.publisher.submit(settings_of(route("a.localhost"), generation="g1"))
        await asyncio.sleep(0.05)
        bench.publisher.submit(settings_of(route("b.localhost"), generation="g2"))
        assert (await bench.discovery.wait(1)).generation == "g2"
        assert time.monotonic() - began < 1.5
        assert len(bench.discovery.published) == 1


async def test_changes_without_end_are_published_all_the_same() -> None:
    async with running() as bench:
        bench.authorize.answer = "never"

        async def change() -> None:
            for number in itertools.count():
                bench.publisher.submit(settings_of(route("a.localhost"), generation=f"g{number}"))
                await asyncio.sleep(0.05)

        changing = asyncio.create_task(change())
        await bench.discovery.wait(1)
        changing.cancel()


async def test_what_the_gate_refuses_is_not_published_and_the_next_is() -> None:
    async with running() as bench:
        bad = dataclasses.replace(route().route, websocket=True, continuous=False)
        bench.publisher.submit(settings_of(dataclasses.replace(route(), route=bad)))
        async with asyncio.timeout(5):
            while bench.publisher.status.fault is None:
                await asyncio.sleep(0.01)
        assert not bench.discovery.published
        assert bench.metrics.gate_closed._value.get() == 1
        bench.publisher.submit(settings_of(route()))
        await bench.discovery.wait(1)


async def test_a_refused_snapshot_is_published_again_without_its_guilty_hosts() -> None:
    async with running() as bench:
        names = [f"h{number}.localhost" for number in range(9)]
        bench.validator.guilty = {"h3.localhost", "h8.localhost"}
        bench.publisher.submit(settings_of(*(route(name) for name in names)))
        first = await bench.discovery.wait(1)
        bench.publisher.on_refusal(refusal_of(first))
        second = await bench.discovery.wait(2)
        assert on_503(second) == bench.validator.guilty
        assert hosts(second) == set(names)
        assert {host for host, _ in bench.publisher.status.isolated} == bench.validator.guilty
        assert bench.publisher.status.fault == "no good"
        assert bench.validator.asked < 15


async def test_an_old_refusal_does_nothing() -> None:
    async with running() as bench:
        bench.publisher.submit(settings_of(route()))
        first = await bench.discovery.wait(1)
        bench.authorize.answer = "g2"
        bench.publisher.submit(settings_of(route("b.localhost"), generation="g2"))
        await bench.discovery.wait(2)
        bench.publisher.on_refusal(refusal_of(first))
        await asyncio.sleep(0.1)
        assert bench.validator.asked == 0


async def test_a_refusal_that_no_host_explains_changes_nothing() -> None:
    async with running() as bench:
        bench.publisher.submit(settings_of(route()))
        first = await bench.discovery.wait(1)
        bench.validator.refuses_all = True
        bench.publisher.on_refusal(refusal_of(first))
        async with asyncio.timeout(5):
            while not bench.validator.asked:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert len(bench.discovery.published) == 1
        assert bench.publisher.status.fault == "no good"


async def test_the_next_good_settings_end_the_isolation() -> None:
    async with running() as bench:
        bench.validator.guilty = {"app.localhost"}
        bench.publisher.submit(settings_of(route()))
        bench.publisher.on_refusal(refusal_of(await bench.discovery.wait(1)))
        await bench.discovery.wait(2)
        bench.validator.guilty = set()
        bench.authorize.answer = "g2"
        bench.publisher.submit(settings_of(route(), generation="g2"))
        assert on_503(await bench.discovery.wait(3)) == set()
        assert bench.publisher.status.fault is None
        assert not bench.publisher.status.isolated
