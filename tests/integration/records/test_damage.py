"""Entries of the feed that cannot be read, in a real store: who is told, who goes on, and who is not vouched for."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from tests.support.broker import Broker, broker, until, watching
from tests.support.key_material import keyring
from tests.support.redis_server import RedisServer, redis_server

from doorward.clock import SystemClock
from doorward.errors import DataCorruptedError, UnavailableError
from doorward.keys.keyring import Keyring
from doorward.keys.store import Purpose
from doorward.records.record import Record, Write
from doorward_databroker.damage import Rereader
from doorward_databroker.store.codec import SealedCodec
from doorward_databroker.store.connection import Link
from doorward_databroker.store.redis import RedisStore
from doorward_databroker.store.servers import Servers


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server("valkey") as running:
        yield running


@asynccontextmanager
async def served(server: RedisServer, *keys: str, held: Keyring | None = None) -> AsyncIterator[Broker]:
    clock = SystemClock()
    codec = SealedCodec(held or keyring(Purpose.RECORDS, *keys))
    store = RedisStore(Link(Servers.parse(server.url)), codec, clock)
    try:
        async with broker(store, clock) as made:
            yield made
    finally:
        await store.close()


def record(kind: str, name: str) -> Record:
    return Record(type=kind, id=name, data=b"x", indexes={"user_id": ("u",)} if kind == "Session" else {})


async def test_an_entry_that_does_not_open_costs_its_type_the_lease_and_nobody_else(server: RedisServer):
    server.ask("FLUSHALL")
    async with (
        served(server) as one,
        watching(one.watcher("s")) as sessions,
        watching(one.watcher("u", "User")) as users,
    ):
        await sessions.consistent.wait()
        await users.consistent.wait()
        async with served(server, "other", Purpose.RECORDS.value) as ahead:
            # It seals under a key that the first one does not hold yet.
            await ahead.put(record("Session", "a"), record("User", "b"))
            last = await ahead.put(record("Session", "c"))
        await until(lambda: one.hub.position is not None and one.hub.position >= last.version)
        assert set(one.hub.damaged) == {("Session", "a"), ("User", "b"), ("Session", "c")}
        await one.put(record("User", "b"))
        await one.caught_up()
        sessions.ping(1)
        users.ping(2)
        await one.heartbeat.beat()
        await until(lambda: users.leases == [2])
        assert set(one.hub.damaged) == {("Session", "a"), ("Session", "c")}
        assert sessions.leases == []
        await one.put(record("Session", "a"), record("Session", "c"))
        await one.caught_up()
        await one.heartbeat.beat()
        await until(lambda: sessions.leases == [1])


async def test_a_stored_record_that_does_not_open_makes_it_unready_until_its_key_is_back(server: RedisServer):
    """What the watchers missed meanwhile reaches them then: a record, and a deletion of what they may still hold."""
    server.ask("FLUSHALL")
    async with served(server) as first:
        await first.store.head()  # the store is in use under our key
    async with served(server, "other", Purpose.RECORDS.value) as ahead:
        await ahead.put(*(record("Session", name) for name in ("kept", "gone", "spoiled")), record("User", "u"))
        keys = keyring(Purpose.RECORDS)
        async with (
            served(server, held=keys) as one,
            watching(one.watcher("s")) as sessions,
            watching(one.watcher("u", "User")) as users,
        ):
            await sessions.consistent.wait()
            await users.consistent.wait()
            await one.heartbeat.beat()
            one.heartbeat.problem = None  # as its loop says after a beat
            assert (sessions.live(), users.live()) == (set(), set())
            assert re.search(
                r"a stored `Session` \(id hash [0-9a-f]{12}\) and 3 more do not open: .*not held",
                one.heartbeat.unready or "",
            )
            for name in ("kept", "gone", "spoiled"):
                assert name not in (one.heartbeat.unready or "")
            rereader = Rereader(one.store, one.hub)
            assert await rereader.look() == 0
            assert len(one.hub.damaged) == 4
            server.ask("HSET {dw}:r:Session:spoiled b spoiled")
            keys.take_over(keyring(Purpose.RECORDS, Purpose.RECORDS.value, "other"))
            await ahead.put(Record(type="Session", id="gone", deleted=True))
            await one.caught_up()
            assert await rereader.look() == 2
            await one.caught_up()
            await until(lambda: (sessions.live(), users.live()) == ({"kept"}, {"u"}))
            assert set(one.hub.damaged) == {("Session", "spoiled")}
            await one.put(Record(type="Session", id="spoiled", deleted=True))
            await one.caught_up()
            assert (one.hub.damaged, one.heartbeat.unready) == ({}, None)


async def test_a_deletion_that_did_not_open_reaches_the_watchers_that_hold_the_record(server: RedisServer):
    server.ask("FLUSHALL")
    keys = keyring(Purpose.RECORDS)
    async with served(server, held=keys) as one, watching(one.watcher("s")) as sessions:
        await one.put(record("Session", "a"))
        await until(lambda: sessions.live() == {"a"})
        async with served(server, "other", Purpose.RECORDS.value) as ahead:
            last = await ahead.put(Record(type="Session", id="a", deleted=True))
        await until(lambda: one.hub.position is not None and one.hub.position >= last.version)
        assert set(one.hub.damaged) == {("Session", "a")}
        rereader = Rereader(one.store, one.hub)
        assert await rereader.look() == 0
        keys.take_over(keyring(Purpose.RECORDS, Purpose.RECORDS.value, "other"))
        assert await rereader.look() == 1
        await until(lambda: sessions.live() == set())
        assert one.hub.damaged == {}


async def test_an_entry_without_a_shape_stops_the_feed_and_readiness_says_so(server: RedisServer):
    """Nobody can say which types it was about, so nothing is vouched for."""
    server.ask("FLUSHALL")
    async with served(server) as one, watching(one.watcher("w")) as watcher:
        await watcher.consistent.wait()
        await one.put(record("Session", "a"))
        await one.caught_up()
        await one.heartbeat.beat()
        last = await one.store.head()
        one.reader.cancel()
        broken = (await one.put(record("Session", "b"))).version
        # It continues the chain, so it is no history of somebody else.
        server.ask("DEL {dw}:feed")
        added = server.ask(f"XADD {{dw}}:feed {broken.epoch}-{broken.number} p {last.tag.decode()} t x n many")
        assert added.startswith(b"$")
        reading = asyncio.create_task(one.hub.run())
        try:
            await until(lambda: one.hub.problem is not None)
            watcher.ping(1)
            with pytest.raises(UnavailableError, match="cannot be read"):
                await one.heartbeat.beat()
            assert watcher.leases == []
            assert not watcher.live() - {"a"}
        finally:
            reading.cancel()


async def test_a_foreign_database_under_the_same_prefix_is_refused_and_left_as_it_is(server: RedisServer):
    server.ask("FLUSHALL")
    server.ask("HSET {dw}:meta owner somebody")
    server.ask("SET {dw}:r:Session:a theirs")
    async with served(server) as one:
        with pytest.raises(DataCorruptedError):
            await one.store.put([Write(record=record("Session", "a"))], "r1")
        with pytest.raises(DataCorruptedError):
            await one.store.get("Session", "a")
    assert b"theirs" in server.ask("GET {dw}:r:Session:a")
