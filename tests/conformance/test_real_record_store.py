"""What only a real server can show of a record store: that it survives, tells nothing, and cannot be undone by whoever writes to it."""

import signal
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from tests.support.fake_clock import FakeClock
from tests.support.key_material import keyring
from tests.support.redis_server import RedisServer, redis_server

from doorward.errors import DataCorruptedError, UnavailableError, WatchExpiredError
from doorward.keys.store import Purpose
from doorward.records.record import NO_VERSION, Record, Write
from doorward_databroker.store.codec import SealedCodec
from doorward_databroker.store.connection import Link
from doorward_databroker.store.redis import RedisStore
from doorward_databroker.store.servers import Servers
from doorward_databroker.store.types import RECORD_TYPES


def session(name: str, data: bytes = b"x", user: str = "u1") -> Record:
    return Record(type="Session", id=name, data=data, indexes={"user_id": (user,)})


@pytest.fixture(params=["valkey", "redis"])
async def real(request: pytest.FixtureRequest) -> AsyncIterator[tuple[RedisStore, RedisServer, FakeClock]]:
    clock = FakeClock()
    with redis_server(request.param) as server:
        store = RedisStore(Link(Servers.parse(server.url)), SealedCodec(keyring(Purpose.RECORDS)), clock)
        try:
            yield store, server, clock
        finally:
            await store.close()


async def test_an_acknowledged_put_survives_kill_9(real: tuple[RedisStore, RedisServer, FakeClock]):
    store, server, _ = real
    (version,) = await store.put([Write(record=session("a"))], "r")
    server.stop(signal.SIGKILL)
    with pytest.raises(UnavailableError):
        await store.get("Session", "a")
    server.start()
    assert (await store.get("Session", "a")).version == version


async def test_nothing_readable_lies_in_the_store(real: tuple[RedisStore, RedisServer, FakeClock]):
    """Not in its memory, nor in its append-only file, its snapshot or its log: names of types are all that shows."""
    store, server, clock = real
    for kind in RECORD_TYPES.values():
        record = Record(
            type=kind.name,
            id=f"id-{kind.name}",
            data=b"canary-data" + kind.name.encode(),
            expires_at=clock.now() + 900,
            indexes=dict.fromkeys(kind.indexes, ("canary-value@example.com",)),
        )
        await store.put([Write(record=record)], f"canary-request-{kind.name}")
        await store.put([Write(record=replace(record, deleted=True, data=b"", indexes={}))], f"again-{kind.name}")
        await store.put([Write(record=record)], f"canary-third-{kind.name}")
    assert await store.acquire_lease("sweeper", "canary-holder", 9) is not None
    server.ask("CONFIG SET loglevel debug")
    server.ask("SAVE")
    dump = server.ask("KEYS *") + server.ask("XRANGE {dw}:feed - +") + server.ask("HGETALL {dw}:r:Session:id-Session")
    files = [path for path in server.folder.rglob("*") if path.is_file()]
    assert {"log", "dump.rdb"} <= {path.name for path in files}
    assert any("appendonly" in str(path) for path in files)
    dump += b"".join(path.read_bytes() for path in files)
    assert b"Session" in dump
    assert b"canary-data" not in dump
    assert b"canary-value" not in dump


async def test_a_spoiled_value_is_reported_and_never_absent(real: tuple[RedisStore, RedisServer, FakeClock]):
    store, server, _ = real
    await store.put([Write(record=session("a"))], "r")
    server.ask("HSET {dw}:r:Session:a b spoiled")
    with pytest.raises(DataCorruptedError):
        await store.get("Session", "a")


async def test_an_older_state_put_back_does_not_open(real: tuple[RedisStore, RedisServer, FakeClock]):
    """Somebody with write access to the store must not be able to undo a change."""
    store, server, _ = real
    await store.put([Write(record=session("a", b"old"))], "r1")
    server.ask("COPY {dw}:r:Session:a {dw}:kept")
    await store.put([Write(record=session("a", b"new"))], "r2")
    server.ask(
        "EVAL \"redis.call('HSET', KEYS[1], 'b', redis.call('HGET', KEYS[2], 'b'))\" 2 {dw}:r:Session:a {dw}:kept"
    )
    with pytest.raises(DataCorruptedError):
        await store.get("Session", "a")


async def test_a_history_that_was_cut_and_grew_again_is_noticed(real: tuple[RedisStore, RedisServer, FakeClock]):
    """Numbers fit, content does not: without the chain of tags nobody would see it."""
    store, server, _ = real
    start = await store.head()
    await store.put([Write(record=session("a"))], "r1")
    entries = await store.changes(start, 10, 0.1)
    server.ask("FLUSHALL")
    other = RedisStore(Link(Servers.parse(server.url)), SealedCodec(keyring(Purpose.RECORDS)), FakeClock())
    await other.put([Write(record=session("b"))], "r2")
    await other.close()
    with pytest.raises(WatchExpiredError):
        await store.changes(entries[-1].position, 10, 0.1)


async def test_a_place_is_known_by_its_tag_when_its_changes_are_trimmed(
    real: tuple[RedisStore, RedisServer, FakeClock],
):
    """Also in an older epoch; and never where another history has its number."""
    store, server, _ = real
    places = []
    for number in range(3):
        (version,) = await store.put([Write(record=session("a"))], f"r{number}")
        places.append(await store.head())
        assert places[-1].version == version
    await store.recover(places[-1].version)
    await store.put([Write(record=session("b"))], "r4")
    assert await store.trim(1, 0) == 3
    assert [await store.contains(place) for place in places] == [True] * 3
    for missing in (
        replace(places[1], tag=b"other"),
        replace(places[1], tag=b""),
        replace(places[1], version=NO_VERSION),
    ):
        assert not await store.contains(missing)
    server.ask("DEL {dw}:chain")
    assert not await store.contains(places[0])


async def test_a_put_happens_though_the_chain_cannot_be_written(real: tuple[RedisStore, RedisServer, FakeClock]):
    store, server, _ = real
    server.ask("XADD {dw}:chain 9-9 t from-elsewhere")
    (version,) = await store.put([Write(record=session("a"))], "r")
    assert (await store.get("Session", "a")).version == version == (await store.head()).version
