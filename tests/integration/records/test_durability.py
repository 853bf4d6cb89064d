"""What an acknowledged put survives, row by row as `docs/operations/databroker.md` promises it, and what it does not.

A server is killed while a sync of its disk runs, and then also loses what no sync had returned for, as at a loss of power. Under
`everysec` the same procedure loses acknowledged puts, so it would see them lost.
"""

import asyncio
import itertools
import secrets
import signal
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

import pytest
from tests.support.broker import Broker, TestWatcher, broker, session_ids, until, watching
from tests.support.deployment import short_folder
from tests.support.held_disk import HeldDisk
from tests.support.key_material import keyring
from tests.support.redis_server import RedisServer, Sentinel, cluster, program, replicated, sentinel
from tests.support.wires import wires

from doorward.clock import SystemClock
from doorward.errors import DoorwardError, WatchExpiredError
from doorward.keys.store import Purpose
from doorward.records.record import NO_VERSION, Record, RecordVersion, Write
from doorward.runtime.children import Child
from doorward.runtime.valkey import start_valkey
from doorward_databroker.store.codec import SealedCodec
from doorward_databroker.store.connection import Link
from doorward_databroker.store.redis import RedisStore
from doorward_databroker.store.servers import Servers

pytestmark = pytest.mark.timeout(60)

WRITERS = 4


class Machine(Protocol):
    """A server and its files."""

    url: str
    files: Path

    async def start(self) -> None: ...

    async def kill(self) -> None: ...


class Embedded:
    """As ``doorward run`` starts it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._child: Child | None = None
        self.url = f"unix://{folder / 's'}"
        self.files = folder / "store"

    async def start(self) -> None:
        self._child = await start_valkey(self._folder, self._folder / "s", self._folder / "log")

    async def kill(self) -> None:
        if self._child is not None:
            await self._child.stop(signal.SIGKILL, 10.0)


class Alone:
    """A server that somebody else starts."""

    def __init__(self, folder: Path, name: str, policy: str) -> None:
        self._server = RedisServer(program(name), folder, "--appendfsync", policy)
        self.url = self._server.url
        self.files = folder

    async def start(self) -> None:
        self._server.start()

    async def kill(self) -> None:
        self._server.stop(signal.SIGKILL)


@asynccontextmanager
async def store_on(url: str, replicas: int = 0) -> AsyncIterator[RedisStore]:
    link = Link(Servers.parse(url), replicas=replicas)
    store = RedisStore(link, SealedCodec(keyring(Purpose.RECORDS)), SystemClock())
    try:
        yield store
    finally:
        await store.close()


class Writers:
    """Put sessions one after the other, and remember what was acknowledged.

    They end at the first error, or are ``patient`` as the planes are: repeat the put with the same request id until it is acknowledged.
    """

    def __init__(self, store: RedisStore, *, patient: bool = False) -> None:
        self._store = store
        self._patient = patient
        self._stopped = False
        self.acknowledged: dict[str, RecordVersion] = {}
        self._tasks = [asyncio.create_task(self._write(f"w{number}")) for number in range(WRITERS)]

    async def _write(self, name: str) -> None:
        before = NO_VERSION
        for number in itertools.count():
            if self._stopped:
                return
            record = Record(type="Session", id=f"{name}-{number}", data=b"x")
            version = await self._put(record, secrets.token_hex(16))
            assert version > before, "a version ran backwards"
            self.acknowledged[record.id] = before = version

    async def _put(self, record: Record, request: str) -> RecordVersion:
        while True:
            try:
                return (await self._store.put([Write(record=record)], request))[0]
            except DoorwardError:
                if not self._patient:
                    raise
                await asyncio.sleep(0.05)

    async def more(self, count: int, seconds: float = 30.0) -> None:
        """Return once that many more were acknowledged."""
        enough = len(self.acknowledged) + count
        await until(lambda: len(self.acknowledged) >= enough or any(task.done() for task in self._tasks), seconds)

    async def stop(self) -> None:
        self._stopped = True
        await asyncio.gather(*self._tasks)

    async def ended(self) -> None:
        outcomes = await asyncio.gather(*self._tasks, return_exceptions=True)
        assert all(isinstance(outcome, DoorwardError) for outcome in outcomes), outcomes


async def acknowledged_when_killed(machine: Machine, disk: HeldDisk) -> set[str]:
    """What had been acknowledged when ``machine`` was killed during a sync."""
    async with store_on(machine.url) as store:
        writers = Writers(store)
        await writers.more(50)
        disk.hold()
        await until(lambda: disk.is_held)
        # `everysec` goes on in the meantime, for a second at least; under `always` nobody hears anything any more.
        with suppress(TimeoutError):
            await writers.more(50, 0.5)
        await machine.kill()
        disk.let_go()
        await writers.ended()
        return set(writers.acknowledged)


async def lost_when_killed(machine: Machine, disk: HeldDisk) -> tuple[set[str], set[str]]:
    """What was acknowledged and is gone after a kill during a sync, and after a loss of power at that moment."""
    try:
        await machine.start()
        acknowledged = await acknowledged_when_killed(machine, disk)
        (log,) = machine.files.rglob("*.incr.aof")
        killed = log.read_bytes()
        lost = []
        for power_fails in (False, True):
            log.write_bytes(killed)
            if power_fails:
                assert disk.lose_power(log) > 0
            await machine.start()
            async with store_on(machine.url) as store:
                lost.append(acknowledged - await session_ids(store))
            await machine.kill()
        return lost[0], lost[1]
    finally:
        await machine.kill()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[HeldDisk]:
    """Under every server that the test starts."""
    with short_folder() as folder:
        made = HeldDisk(folder)
        with monkeypatch.context() as patched:
            for name, value in made.environment.items():
                patched.setenv(name, value)
            yield made


@pytest.mark.parametrize("name", ["embedded", "redis", "valkey"])
async def test_with_always_no_acknowledged_put_is_lost_by_a_kill_during_a_sync_nor_with_the_power(
    name: str, disk: HeldDisk
):
    with short_folder() as folder:
        machine = Embedded(folder) if name == "embedded" else Alone(folder, name, "always")
        assert await lost_when_killed(machine, disk) == (set(), set())


@pytest.mark.parametrize("name", ["redis", "valkey"])
async def test_with_everysec_the_same_kill_and_the_same_loss_of_power_take_acknowledged_puts(name: str, disk: HeldDisk):
    with short_folder() as folder:
        killed, without_power = await lost_when_killed(Alone(folder, name, "everysec"), disk)
    assert killed
    assert without_power >= killed


async def test_with_everysec_a_kill_while_no_sync_runs_takes_nothing(disk: HeldDisk):
    with short_folder() as folder:
        machine = Alone(folder, "valkey", "everysec")
        try:
            await machine.start()
            async with store_on(machine.url) as store:
                writers = Writers(store)
                await writers.more(50)
                before = disk.syncs
                await until(lambda: disk.syncs > before)
                # What was held back during that sync has been written before these are acknowledged.
                await writers.more(20)
                await machine.kill()
                await writers.ended()
            await machine.start()
            await holds_all(machine.url, writers.acknowledged)
        finally:
            await machine.kill()


REPLICATED = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", "2")
"""What the table demands of replicated stores, besides ``redis_replicas: 1``."""
ELECTING = (*REPLICATED, "--cluster-node-timeout", "1000")


@contextmanager
def replicated_store(kind: str) -> Iterator[tuple[str, RedisServer, RedisServer, Sentinel | None]]:
    """Address, the primary that has our records and its one replica, which only the servers themselves or the sentinel can promote."""
    with ExitStack() as stack:
        if kind == "cluster":
            made = cluster(stack, "valkey", *ELECTING, primaries=3, replicated=(0, 1, 2))
            yield made.topology.url, made.primaries[1], made.replicas[1], None
        else:
            primary, replica = replicated(stack, "valkey", "--repl-diskless-sync-delay", "0", *REPLICATED)
            watching_them = sentinel(stack, primary.port, name="valkey", down_after_ms=1000)
            yield f"redis+sentinel://127.0.0.1:{watching_them.port}/records", primary, replica, watching_them


async def holds_all(url: str, acknowledged: Iterable[str]) -> None:
    async with store_on(url) as fresh:
        assert set(acknowledged) <= await session_ids(fresh)


async def was_told_all(one: Broker, watcher: TestWatcher, acknowledged: Iterable[str]) -> None:
    """``watcher`` has heard of everything, or has been sent back to a new epoch whose snapshot has it."""
    await until(lambda: watcher.ended.is_set() or watcher.live() >= set(acknowledged))
    if not watcher.ended.is_set():
        assert watcher.position is not None
        assert watcher.position.version.epoch == 1
        return
    # A put that nobody had confirmed was handed out by the old primary before it died.
    await one.hub.mended.wait()
    async with watching(one.watcher("resumed"), watcher.position) as resumed:
        await resumed.ended.wait()
    assert isinstance(resumed.failure, WatchExpiredError)
    async with watching(one.watcher("again")) as again:
        await until(lambda: again.consistent.is_set() and again.live() >= set(acknowledged))
        assert again.position is not None
        assert again.position.version.epoch == 2


@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
async def test_a_primary_that_is_killed_under_writes_is_replaced_and_nothing_acknowledged_is_lost(kind: str):
    with replicated_store(kind) as (url, primary, replica, watching_them):
        async with store_on(url, replicas=1) as store, broker(store, SystemClock()) as one:
            writers = Writers(store, patient=True)
            async with watching(one.watcher("w")) as watcher:
                await watcher.consistent.wait()
                await writers.more(100)
                primary.stop(signal.SIGKILL)
                before = len(writers.acknowledged)
                await until(lambda: b"role:master" in replica.ask("INFO replication"), 30)
                if watching_them is not None:
                    # Else it may be the old one's turn again before that has become a replica; see below.
                    await until(lambda: watching_them.hold_to(replica), 30)
                # Each writer may have had an answer on its way.
                assert len(writers.acknowledged) <= before + WRITERS, "a put was acknowledged that nobody could confirm"
                primary.start()
                await until(lambda: b"role:slave" in primary.ask("INFO replication"), 30)
                await writers.more(100)
                await writers.stop()
                await was_told_all(one, watcher, writers.acknowledged)
                if watching_them is not None:
                    assert b"role:slave" in primary.ask("INFO replication")
        await holds_all(url, writers.acknowledged)


async def test_an_old_primary_that_takes_over_before_it_was_a_replica_has_all_that_was_acknowledged():
    """A sentinel may choose it when the new one is silent as well, and does not ask whether it has followed that one."""
    with replicated_store("sentinel") as (url, primary, replica, watching_them):
        assert watching_them is not None
        async with store_on(url, replicas=1) as store, broker(store, SystemClock()) as one:
            writers = Writers(store, patient=True)
            async with watching(one.watcher("w")) as watcher:
                await watcher.consistent.wait()
                await writers.more(100)
                primary.stop(signal.SIGKILL)
                before = len(writers.acknowledged)
                await until(lambda: watching_them.names(replica), 30)
                # It makes a replica of a primary that comes back only while it hears the other one.
                replica.pause()
                primary.start()
                await until(lambda: watching_them.hold_to(primary), 30)
                assert len(writers.acknowledged) <= before + WRITERS, "a put was acknowledged that nobody could confirm"
                replica.resume()
                await until(lambda: b"role:slave" in replica.ask("INFO replication"), 30)
                await writers.more(100)
                await writers.stop()
                await was_told_all(one, watcher, writers.acknowledged)
        await holds_all(url, writers.acknowledged)


async def test_a_primary_of_a_cluster_that_is_cut_off_acknowledges_nothing_that_is_lost():
    """It still takes writes from us, until it has missed the others for long enough; they elect another one."""
    with wires() as laid, ExitStack() as stack:
        made = cluster(stack, "redis", *ELECTING, primaries=3, replicated=(0, 1, 2), laid=laid)
        url, primary, replica = made.topology.url, made.primaries[1], made.replicas[1]
        async with store_on(url, replicas=1) as store, broker(store, SystemClock()) as one:
            writers = Writers(store, patient=True)
            async with watching(one.watcher("w")) as watcher:
                await watcher.consistent.wait()
                await writers.more(100)
                made.cut_off(1)
                await until(lambda: b"role:master" in replica.ask("INFO replication"), 30)
                assert b"role:master" in primary.ask("INFO replication")
                made.mend(1)
                await until(lambda: b"role:slave" in primary.ask("INFO replication"), 30)
                await writers.more(100)
                await writers.stop()
                await was_told_all(one, watcher, writers.acknowledged)
        await holds_all(url, writers.acknowledged)
