"""Somebody who writes to the store and holds no key puts back what it held before a sign-out, so that nobody sees that."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from tests.support.broker import Broker, broker, until, watching
from tests.support.key_material import keyring
from tests.support.redis_server import RedisServer, redis_server
from tests.support.spoiled_feed import rewrite_newest, under_another_key

from doorward.clock import SystemClock
from doorward.errors import DataCorruptedError
from doorward.keys.store import Purpose
from doorward.records.record import Record
from doorward_databroker.damage import Rereader
from doorward_databroker.store.codec import SealedCodec
from doorward_databroker.store.connection import Link
from doorward_databroker.store.redis import RedisStore
from doorward_databroker.store.servers import Servers

SESSION = frozenset({"Session"})


@pytest.fixture(scope="module", params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with redis_server(request.param) as running:
        yield running


@asynccontextmanager
async def served(server: RedisServer, name: str = "one") -> AsyncIterator[Broker]:
    clock = SystemClock()
    store = RedisStore(Link(Servers.parse(server.url)), SealedCodec(keyring(Purpose.RECORDS)), clock)
    try:
        async with broker(store, clock, name) as made:
            yield made
    finally:
        await store.close()


async def signed_in(one: Broker, server: RedisServer) -> Callable[[], None]:
    """Two sessions; the way back to this state of one of them."""
    await one.put(Record(type="Session", id="out", data=b"x"), Record(type="Session", id="in", data=b"x"))
    await one.caught_up()
    server.ask("COPY {dw}:r:Session:out {dw}:kept REPLACE")

    def put_back() -> None:
        server.ask("COPY {dw}:kept {dw}:r:Session:out REPLACE")
        server.ask("ZADD {dw}:t:Session 0 out")

    return put_back


async def test_a_sign_out_that_was_read_cannot_be_undone_by_putting_the_session_back(server: RedisServer):
    server.ask("FLUSHALL")
    async with served(server) as one, served(server, "two") as other:
        put_back = await signed_in(one, server)
        await one.put(Record(type="Session", id="out", deleted=True))
        for each in (one, other):
            await each.caught_up()
        put_back()
        server.ask("XTRIM {dw}:feed MAXLEN 1")  # and whoever was away begins with a snapshot
        for each in (one, other):
            with pytest.raises(DataCorruptedError):
                await each.store.get("Session", "out")
            assert [record.id for record in (await each.store.page("Session", "", 10)).records] == ["in"]
            async with watching(each.watcher("w")) as watcher:
                await watcher.consistent.wait()
                assert watcher.live() == {"in"}
                assert not each.hub.vouches_for(SESSION)
                await Rereader(each.store, each.hub).look()
                assert not each.hub.vouches_for(SESSION)
        # By it `discard` ends it for good.
        await one.put(Record(type="Session", id="out", deleted=True))
        for each in (one, other):
            await each.caught_up()
            assert each.hub.vouches_for(SESSION)


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields.clear() or fields.update({b"x": b"x"}),
        lambda fields: fields.update({b"b0": b"spoiled", b"s": b""}),
        lambda fields: fields.update({b"b0": b"spoiled"}),
        lambda fields: fields.update({b"b0": under_another_key(fields[b"b0"])}),
    ],
    ids=["nothing-left", "no-proof", "spoiled", "other-key"],
)
async def test_s43_a_sign_out_that_nobody_could_read_is_put_again_by_who_was_told_that_it_happened(
    server: RedisServer, change: Callable[[dict[bytes, bytes]], object]
):
    server.ask("FLUSHALL")
    async with (
        served(server) as one,
        served(server, "two") as other,
        watching(one.watcher("w")) as here,
        watching(other.watcher("v")) as there,
    ):
        put_back = await signed_in(one, server)
        await until(lambda: here.live() == there.live() == {"in", "out"})
        for each in (one, other):
            each.reader.cancel()
            await asyncio.gather(each.reader, return_exceptions=True)
        await one.put(Record(type="Session", id="out", deleted=True))
        await rewrite_newest(server, one.store, change)
        put_back()
        reading = [asyncio.create_task(each.hub.run()) for each in (one, other)]
        try:
            for each, before in ((one, here), (other, there)):
                async with watching(each.watcher("again")) as again:
                    # Who was there before has heard of it, or has to begin again.
                    await until(lambda: before.ended.is_set() or before.live() == {"in"})  # noqa: B023  # within its turn
                    await again.consistent.wait()
                    await until(lambda: again.ended.is_set() or again.live() == {"in"})  # as above
            async with watching(other.watcher("last")) as last:
                await until(lambda: last.consistent.is_set() and last.live() == {"in"})
        finally:
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)
