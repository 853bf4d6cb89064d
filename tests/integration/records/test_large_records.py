"""Records of the largest allowed size, more of them than one message holds: cut into pages and batches, never refused as a whole."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from tests.support.broker import Broker, broker, watching
from tests.support.fake_clock import FakeClock
from tests.support.key_material import keyring
from tests.support.redis_server import RedisServer, redis_server

from doorward.api.databroker.v1 import databroker_pb2 as pb
from doorward.errors import InvalidArgumentError
from doorward.keys.store import Purpose
from doorward.records.record import Record, Write
from doorward_databroker.store.codec import SealedCodec
from doorward_databroker.store.connection import Link
from doorward_databroker.store.keyspace import Keyspace
from doorward_databroker.store.maintenance import Maintenance
from doorward_databroker.store.memory import MemoryStore
from doorward_databroker.store.redis import RedisStore
from doorward_databroker.store.servers import Servers
from doorward_databroker.store.types import PAGE_BYTES, PUT_LIMIT_BYTES

SIZE = 1024 * 1024
IDS = [f"r{number:02}" for number in range(24)]
BOUND = PAGE_BYTES + 2 * SIZE


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server("valkey", "--appendfsync", "no") as running:
        yield running


@asynccontextmanager
async def filled(server: RedisServer, kind: str) -> AsyncIterator[Broker]:
    clock, codec = FakeClock(), SealedCodec(keyring(Purpose.RECORDS))
    server.ask("FLUSHALL")
    store = MemoryStore(clock, codec) if kind == "memory" else RedisStore(Link(Servers.parse(server.url)), codec, clock)
    try:
        for start in range(0, len(IDS), 8):
            writes = [
                Write(record=Record(type="Session", id=name, data=bytes(SIZE), indexes={"user_id": ("u",)}))
                for name in IDS[start : start + 8]
            ]
            await store.put(writes, f"r{start}")
        async with broker(store, clock) as one:
            yield one
    finally:
        await store.close()


@pytest.mark.parametrize("kind", ["memory", "valkey"])
async def test_pages_snapshots_and_batches_are_cut_by_bytes(server: RedisServer, kind: str):
    async with filled(server, kind) as one:
        for by_index in (False, True):
            ids: list[str] = []
            after = ""
            while True:
                read = (
                    one.store.query("Session", "user_id", "u", after, 500)
                    if by_index
                    else one.store.page("Session", after, 500)
                )
                page = await read
                assert sum(len(record.data) for record in page.records) <= BOUND
                ids += [record.id for record in page.records]
                after = page.next_id
                if not after:
                    break
            assert ids == IDS
        async with watching(one.watcher("w")) as watcher:
            await watcher.consistent.wait()
            assert watcher.live() == set(IDS)
            assert len(watcher.messages) > 3
            assert max(map(len, watcher.messages)) <= BOUND
        # Changes that are read together leave in several batches.
        start = await one.put(Record(type="User", id="x", data=b"x"))
        for name in IDS:
            await one.put(Record(type="Session", id=name, data=bytes(SIZE)))
        await one.caught_up()
        async with watching(one.watcher("again"), after=start) as resumed:
            await resumed.consistent.wait()
            assert resumed.live() == set(IDS)
            assert max(map(len, resumed.messages)) <= BOUND


async def test_values_are_copied_and_sealed_anew_in_parts(server: RedisServer):
    async with filled(server, "valkey"):
        link = Link(Servers.parse(server.url))
        maintenance = Maintenance(link, Keyspace(), SealedCodec(keyring(Purpose.RECORDS, "new", Purpose.RECORDS.value)))
        try:
            found: set[str] = set()
            cursor = ""
            while True:
                values, cursor = await maintenance.page(cursor)
                assert sum(len(one.sealed) for one in values) <= BOUND
                found |= {one.id for one in values}
                if not cursor:
                    break
            assert found == set(IDS)
        finally:
            await link.close()


async def test_a_put_of_more_than_a_message_holds_says_how_much_it_may_be(server: RedisServer):
    async with filled(server, "memory") as one:
        writes = [Write(record=Record(type="User", id=f"u{number}", data=bytes(SIZE))) for number in range(17)]
        with pytest.raises(
            InvalidArgumentError, match=f"at most {PUT_LIMIT_BYTES} bytes, and this one has {17 * SIZE}"
        ):
            await one.store.put(writes, "too-much")
        await one.store.put(writes[:16], "enough")
        assert len((await one.store.page("User", "", 500)).records) < 16


def test_a_message_has_room_for_a_page():
    record = pb.Record(type="Session", id="x" * 256, data=bytes(SIZE))
    page = pb.ListResponse(records=[record] * (BOUND // SIZE))
    assert page.ByteSize() < 64 * SIZE
