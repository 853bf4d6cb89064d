"""What an acknowledged put survives, row by row as `docs/operations/databroker.md` promises it, and what it does not.

A server is killed while a sync of its disk runs, and then also loses what no sync had returned for, as at a loss of power. Under
`everysec` the same procedure loses acknowledged puts, so it would see them lost.
"""

import asyncio
import itertools
import secrets
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Protocol

import pytest
from tests.support.broker import until
from tests.support.deployment import short_folder
from tests.support.held_disk import HeldDisk
from tests.support.key_material import keyring
from tests.support.redis_server import RedisServer, program

from doorward.clock import SystemClock
from doorward.errors import DoorwardError
from doorward.keys.store import Purpose
from doorward.records.record import Record, Write
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


async def sessions(store: RedisStore) -> set[str]:
    found: set[str] = set()
    after = ""
    while True:
        page = await store.page("Session", after, 1000)
        found |= {record.id for record in page.records}
        after = page.next_id
        if not after:
            return found


class Writers:
    """Put sessions one after the other until the first error, and remember what was acknowledged."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self.acknowledged: list[str] = []
        self._tasks = [asyncio.create_task(self._write(f"w{number}")) for number in range(WRITERS)]

    async def _write(self, name: str) -> None:
        for number in itertools.count():
            record = Record(type="Session", id=f"{name}-{number}", data=b"x")
            await self._store.put([Write(record=record)], secrets.token_hex(16))
            self.acknowledged.append(record.id)

    async def ended(self) -> None:
        outcomes = await asyncio.gather(*self._tasks, return_exceptions=True)
        assert all(isinstance(outcome, DoorwardError) for outcome in outcomes), outcomes


async def acknowledged_when_killed(machine: Machine, disk: HeldDisk) -> set[str]:
    """What had been acknowledged when ``machine`` was killed during a sync."""
    async with store_on(machine.url) as store:
        writers = Writers(store)
        await until(lambda: len(writers.acknowledged) >= 50)
        disk.hold()
        await until(lambda: disk.is_held)
        before = len(writers.acknowledged)
        # `everysec` goes on in the meantime, for a second at least; under `always` nobody hears anything any more.
        with suppress(TimeoutError):
            await until(lambda: len(writers.acknowledged) >= before + 50, 0.5)
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
                lost.append(acknowledged - await sessions(store))
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
    assert len(killed) >= 50
    assert without_power >= killed
