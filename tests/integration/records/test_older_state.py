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
from doorward.errors import DataCorruptedError, NotFoundError
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
            with pytest.raises(DataCorruptedError, match="in an older state than was read"):
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


@pytest.mark.parametrize("command", ["HINCRBY {dw}:meta number -1", "HINCRBY {dw}:meta epoch 1"], ids=["head", "epoch"])
async def test_a_new_epoch_does_not_make_the_older_state_open(server: RedisServer, command: str):
    """Whoever writes to the store can have one begun at any time; what all agree about still counts then."""
    server.ask("FLUSHALL")
    async with served(server) as one, served(server, "two") as other:
        put_back = await signed_in(one, server)
        await one.put(Record(type="Session", id="out", deleted=True))
        await one.put(Record(type="User", id="u", data=b"x"))
        for each in (one, other):
            await each.caught_up()
        put_back()
        server.ask(command)
        for each in (one, other):
            await each.store.head()
        await one.put(Record(type="User", id="u", data=b"y"))
        for each in (one, other):
            await until(lambda: each.hub.position is not None and each.hub.position.epoch == 2)  # noqa: B023  # within its turn
            await each.hub.mended.wait()
            await each.caught_up()
            assert (await each.store.get("User", "u")).data == b"y"
            with pytest.raises(DataCorruptedError):
                await each.store.get("Session", "out")


async def test_what_was_put_back_in_a_new_epoch_counts_too(server: RedisServer):
    """By one databroker, and the others have to know of it: they begin behind it."""
    server.ask("FLUSHALL")
    async with served(server) as one, served(server, "two") as other:
        put_back = await signed_in(one, server)
        server.ask("COPY {dw}:feed {dw}:kept-feed REPLACE")
        server.ask("COPY {dw}:chain {dw}:kept-chain REPLACE")
        server.ask("COPY {dw}:meta {dw}:kept-meta REPLACE")
        await one.put(Record(type="Session", id="out", deleted=True))
        for each in (one, other):
            await each.caught_up()
        put_back()
        for name in ("feed", "chain", "meta"):  # as after a failover that lost the sign-out
            server.ask(f"COPY {{dw}}:kept-{name} {{dw}}:{name} REPLACE")
        for each in (one, other):
            await each.store.head()
            await until(lambda: each.hub.position is not None and each.hub.position.epoch == 2)  # noqa: B023  # within its turn
            await each.hub.mended.wait()
        await one.put(Record(type="User", id="u", data=b"y"))
        for each in (one, other):
            await each.caught_up()
            with pytest.raises(NotFoundError):
                await each.store.get("Session", "out")
        put_back()
        for each in (one, other):
            with pytest.raises(DataCorruptedError):
                await each.store.get("Session", "out")


async def test_a_sign_out_that_cannot_be_read_is_known_by_its_name(server: RedisServer):
    """Whoever put it has ended, and nobody else can say what it was; but that the older state does not count any more they can."""
    server.ask("FLUSHALL")
    async with served(server, "two") as other:
        async with served(server) as one:
            put_back = await signed_in(one, server)
            await other.caught_up()
            for each in (one, other):
                each.reader.cancel()
                await asyncio.gather(each.reader, return_exceptions=True)
            await one.put(Record(type="Session", id="out", deleted=True))
            await rewrite_newest(server, one.store, lambda fields: fields.update({b"b0": b"spoiled"}))
        put_back()
        reading = asyncio.create_task(other.hub.run())
        try:
            await other.caught_up()
            async with watching(other.watcher("w")) as watcher:
                await watcher.consistent.wait()
                assert watcher.live() == {"in"}
            await Rereader(other.store, other.hub).look()
            assert not other.hub.vouches_for(SESSION)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


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
