"""A clock that jumps, and a disk that is slower than we wait: on real servers, whose own clock stays right."""

import asyncio
import secrets
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry
from tests.support.broker import broker, watching
from tests.support.jumping_clock import JumpingClock
from tests.support.key_material import keyring
from tests.support.redis_server import RedisServer, Topology, redis_server

from doorward.errors import OutcomeUnknownError, UnavailableError
from doorward.keys.store import Purpose
from doorward.records.record import Record, Write
from doorward_databroker.metrics import DatabrokerMetrics
from doorward_databroker.store import connection
from doorward_databroker.store.codec import SealedCodec
from doorward_databroker.store.redis import RedisStore
from doorward_databroker.sweeper import Sweeper

pytestmark = pytest.mark.timeout(30)


@asynccontextmanager
async def store_on(server: RedisServer, clock: JumpingClock) -> AsyncIterator[RedisStore]:
    store = RedisStore(Topology(server.url, server).link(), SealedCodec(keyring(Purpose.RECORDS)), clock)
    try:
        yield store
    finally:
        await store.close()


def session(name: str, ends: float | None = None) -> Record:
    return Record(type="Session", id=name, data=b"x", expires_at=ends)


async def put(store: RedisStore, *records: Record) -> None:
    await store.put([Write(record=record) for record in records], secrets.token_hex(16))


@pytest.mark.parametrize("offset", [3600.0, -3600.0])
async def test_a_clock_that_jumps_extends_no_lease_and_ends_no_session(offset: float):
    clock = JumpingClock()
    with redis_server("redis") as server:
        async with store_on(server, clock) as store, broker(store, clock) as one:
            await put(store, session("a", clock.now() + 600), session("b"))
            sweeper = Sweeper(store, ["Session"], clock, "me", DatabrokerMetrics(CollectorRegistry()))
            async with watching(one.watcher("w")) as watcher:
                await watcher.consistent.wait()
                watcher.ping(1)
                await one.heartbeat.beat()
                clock.offset = offset
                watcher.ping(2)
                with pytest.raises(UnavailableError, match="from the store's"):
                    await one.heartbeat.beat()
                with pytest.raises(UnavailableError, match="from the store's"):
                    await sweeper.keep()
                clock.offset = 0.0
                watcher.ping(3)
                await one.heartbeat.beat()
                await sweeper.keep()
                while watcher.leases != [1, 3]:
                    await asyncio.sleep(0.005)
                assert watcher.live() == {"a", "b"}
            assert {record.id for record in (await store.page("Session", "", 9)).records} == {"a", "b"}


async def test_a_disk_slower_than_we_wait_leaves_the_outcome_unknown_and_one_record(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.3)
    with redis_server("redis", "--enable-debug-command", "yes") as server:
        async with store_on(server, JumpingClock()) as store:
            await put(store, session("first"))
            server.ask("DEBUG AOF-FLUSH-SLEEP 600000")
            write = Write(record=session("a"), absent=True)
            began = time.monotonic()
            with pytest.raises((OutcomeUnknownError, UnavailableError)):
                await store.put([write], "same")
            assert time.monotonic() - began < 2
            server.stop(signal.SIGKILL)
            server.start()
            (version,) = await store.put([write], "same")
            assert (await store.head()).version == version
            assert {record.id for record in (await store.page("Session", "", 9)).records} == {"first", "a"}
