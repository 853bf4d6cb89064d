"""A put that cannot be done whole is not begun: scripts are not rolled back. On real servers."""

from collections.abc import AsyncIterator, Iterator

import pytest
from tests.support.fake_clock import FakeClock
from tests.support.key_material import keyring
from tests.support.redis_server import RedisServer, redis_server

from doorward.errors import DataCorruptedError
from doorward.keys.store import Purpose
from doorward.records.record import Record, RecordVersion, Write
from doorward_databroker.store.codec import SealedCodec
from doorward_databroker.store.connection import Link
from doorward_databroker.store.keyspace import Keyspace
from doorward_databroker.store.maintenance import Maintenance
from doorward_databroker.store.redis import RedisStore
from doorward_databroker.store.servers import Servers


@pytest.fixture(scope="module", params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with redis_server(request.param) as running:
        yield running


@pytest.fixture
def codec() -> SealedCodec:
    return SealedCodec(keyring(Purpose.RECORDS))


@pytest.fixture
async def store(server: RedisServer, codec: SealedCodec) -> AsyncIterator[RedisStore]:
    server.ask("FLUSHALL")
    made = RedisStore(Link(Servers.parse(server.url)), codec, FakeClock())
    try:
        yield made
    finally:
        await made.close()


def session(name: str, data: bytes = b"x", user: str = "u1", ends: float | None = None) -> Record:
    return Record(type="Session", id=name, data=data, indexes={"user_id": (user,)}, expires_at=ends)


@pytest.mark.parametrize("ends", ["9" * 30, "tomorrow"])
async def test_a_record_with_an_end_from_nowhere_can_be_deleted_and_the_feed_tells(
    server: RedisServer, store: RedisStore, ends: str
):
    """An older version stored whatever end it was given; then a revoke was stored, and nobody heard of it."""
    await store.put([Write(record=session("a"))], "r1")
    head = await store.head()
    server.ask(f"HSET {{dw}}:r:Session:a x {ends}")
    await store.put([Write(record=Record(type="Session", id="a", deleted=True))], "r2")
    (entry,) = await store.changes(head, 10, 0.1)
    assert (entry.version.number, entry.records[0].deleted) == (2, True)
    assert await store.stored_version("Session", "a") == (RecordVersion(1, 2), True)


@pytest.mark.parametrize("key", ["{dw}:feed", "{dw}:t:Session", "{dw}:e:Session", "entered", "left"])
async def test_a_put_that_meets_a_key_of_another_shape_writes_nothing(
    server: RedisServer, store: RedisStore, codec: SealedCodec, key: str
):
    await store.put([Write(record=session("a"))], "r1")
    before = await store.head()
    user = {"entered": "u2", "left": "u1"}.get(key)
    if user is not None:
        key = f"{{dw}}:x:Session:user_id:{codec.index_values('Session', 'user_id', user)[0]}"
    server.ask(f"DEL {key}")
    assert server.ask(f"SET {key} theirs").startswith(b"+OK")
    write = Write(record=session("a", b"2", user="u2", ends=2e9))
    with pytest.raises(DataCorruptedError, match="something else"):
        await store.put([Write(record=session("b", user="u3")), write], "r2")
    assert await store.head() == before
    assert (await store.get("Session", "a")).data == b"x"
    assert await store.stored_version("Session", "b") is None
    assert b"theirs" in server.ask(f"GET {key}")


async def test_a_head_that_was_put_back_alone_is_not_written_over(server: RedisServer, store: RedisStore):
    """The feed refuses what is older than its newest entry; nothing else has been written by then."""
    await store.put([Write(record=session("a"))], "r1")
    first = await store.head()
    await store.put([Write(record=session("a", b"2"))], "r2")
    other = RedisStore(Link(Servers.parse(server.url)), SealedCodec(keyring(Purpose.RECORDS)), FakeClock())
    try:
        server.ask(f"HSET {{dw}}:meta number 1 tag {first.tag.decode()}")
        with pytest.raises(DataCorruptedError):
            await other.put([Write(record=session("a", b"3"))], "r3")
        assert (await other.get("Session", "a")).data == b"2"
    finally:
        await other.close()


async def test_sealing_anew_that_meets_a_key_of_another_shape_leaves_the_record_where_it_is_found(
    server: RedisServer, store: RedisStore
):
    await store.put([Write(record=session("a"))], "r1")
    codec = SealedCodec(keyring(Purpose.RECORDS, "new", Purpose.RECORDS.value))
    server.ask(f"SET {{dw}}:x:Session:user_id:{codec.index_values('Session', 'user_id', 'u1')[0]} theirs")
    link = Link(Servers.parse(server.url))
    try:
        with pytest.raises(DataCorruptedError):
            await Maintenance(link, Keyspace(), codec).reseal("")
    finally:
        await link.close()
    assert [record.id for record in (await store.query("Session", "user_id", "u1", "", 9)).records] == ["a"]


async def test_a_heartbeat_or_a_hold_of_another_shape_is_nobodys(server: RedisServer, store: RedisStore):
    await store.put([Write(record=session("a"))], "r1")
    await store.put([Write(record=session("b"))], "r2")
    server.ask("HSET {dw}:peers somebody hello")
    server.ask("HSET {dw}:holds somebody hello")
    assert dict((await store.beat("me", b"alive")).peers) == {"me": b"alive"}
    assert await store.trim(1, 0) == 1
