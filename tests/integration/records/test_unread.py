"""A put that was acknowledged a moment before the store lost it, and that not even its own databroker has read back."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from tests.support.broker import broker, until
from tests.support.key_material import keyring
from tests.support.redis_server import RedisServer, redis_server

from doorward.clock import SystemClock
from doorward.keys.store import Purpose
from doorward.records.record import Record, RecordVersion, Write
from doorward_databroker.store.codec import SealedCodec
from doorward_databroker.store.connection import Link
from doorward_databroker.store.port import FeedEntry
from doorward_databroker.store.redis import RedisStore
from doorward_databroker.store.servers import Servers
from doorward_databroker.store.unread import LIMIT_ENTRIES, Unread


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server("valkey") as running:
        yield running


@asynccontextmanager
async def store_on(server: RedisServer) -> AsyncIterator[RedisStore]:
    store = RedisStore(Link(Servers.parse(server.url)), SealedCodec(keyring(Purpose.RECORDS)), SystemClock())
    try:
        yield store
    finally:
        await store.close()


async def copied(link: Link) -> Callable[[], Awaitable[None]]:
    """All that is stored now; the way back to it, as by a failover to a replica that heard no more."""
    (keys,) = await link.run(("KEYS", "{dw}:*"))
    await link.run(*(("COPY", key, b"copy-of-" + key, "REPLACE") for key in keys))

    async def bring_back() -> None:
        (present,) = await link.run(("KEYS", "{dw}:*"))
        await link.run(("DEL", *present), *(("COPY", b"copy-of-" + key, key) for key in keys))

    return bring_back


@pytest.mark.parametrize("since", ["nothing", "as much was put", "as much was put, and its place trimmed"])
async def test_s43_a_lost_sign_out_that_nobody_has_read_yet_is_put_back(server: RedisServer, since: str):
    """Whoever was told *done* must not be let in again, and nobody else has to sign in anew for it."""
    server.ask("FLUSHALL")
    async with store_on(server) as store, store_on(server) as other, broker(store, SystemClock()) as one:
        await one.put(Record(type="Session", id="in"), Record(type="Session", id="out"))
        await one.caught_up()
        one.reader.cancel()
        await asyncio.gather(one.reader, return_exceptions=True)
        bring_back = await copied(store._link)
        lost = await one.put(Record(type="Session", id="out", deleted=True))
        await bring_back()
        if since == "nothing":
            await store.beat("one", b"alive")  # it hears of a head behind its own
        else:
            for number in range(3):
                await other.put([Write(record=Record(type="User", id=f"u{number}"))], f"r{number}")
            if "trimmed" in since:
                await other.trim(1, 0.0)
                oldest = await other.oldest()
                assert oldest is not None
                assert oldest > lost.version
        reading = asyncio.create_task(one.hub.run())
        try:
            await until(lambda: one.hub.position is not None and one.hub.position > lost.version)
            await until(
                lambda: one.hub.mended.is_set() and one.hub.position is not None and one.hub.position.epoch == 2
            )
            page = await store.page("Session", "", 10)
            assert [record.id for record in page.records] == ["in"]
        finally:
            reading.cancel()


async def test_what_was_read_back_is_forgotten_and_no_loss_is_seen_where_none_is(server: RedisServer):
    server.ask("FLUSHALL")
    async with store_on(server) as store, broker(store, SystemClock()) as one:
        begin = (await store.head()).version
        for number in range(20):
            await asyncio.gather(*(one.put(Record(type="Session", id=f"s{n}", data=b"%d" % number)) for n in range(5)))
        await one.caught_up()
        await until(lambda: not store.unread(begin))
        assert not store.lost.is_set()
        assert one.hub.position == RecordVersion(1, 100)


def test_what_is_unread_is_bounded():
    unread = Unread()
    for number in range(1, LIMIT_ENTRIES + 3):
        unread.add(FeedEntry(RecordVersion(1, number), (Record(type="User", id="u"),), b"t"))
    dropped, *known = unread.after(RecordVersion(1, 0))
    assert len(known) == LIMIT_ENTRIES
    assert (dropped.version, dropped.records, dropped.unreadable) == (RecordVersion(1, 2), (), {"User"})
    unread.add(FeedEntry(RecordVersion(1, 20_000), (Record(type="User", id="u", data=bytes(17 * 1024 * 1024)),), b"t"))
    (dropped,) = unread.after(RecordVersion(1, 0))
    assert (dropped.version, dropped.records) == (RecordVersion(1, 20_000), ())
    unread.forget(RecordVersion(1, 20_000))
    assert unread.after(RecordVersion(1, 0)) == []


@pytest.mark.parametrize("has_regrown", [False, True], ids=["at once", "when as much was put since"])
async def test_s43_what_is_too_much_to_remember_may_have_been_a_sign_out(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, has_regrown: bool
):
    server.ask("FLUSHALL")
    monkeypatch.setattr("doorward_databroker.store.unread.LIMIT_ENTRIES", 2)
    async with store_on(server) as store, broker(store, SystemClock()) as one:
        await one.put(Record(type="Session", id="in"), Record(type="Session", id="out"))
        await one.caught_up()
        one.reader.cancel()
        await asyncio.gather(one.reader, return_exceptions=True)
        bring_back = await copied(store._link)
        await one.put(Record(type="Session", id="out", deleted=True))
        for number in range(3):
            await one.put(Record(type="User", id=f"u{number}"))
        await bring_back()
        if has_regrown:
            async with store_on(server) as other:
                # The feed is read as far as what was too much, and no further: the rest is missed later.
                await other.put([Write(record=Record(type="User", id="other"))], "r")
                await other.put([Write(record=Record(type="User", id="another"))], "s")
        else:
            await store.beat("one", b"alive")
        reading = asyncio.create_task(one.hub.run())
        try:
            await until(lambda: one.hub.mended.is_set() and one.hub.mended_epoch == 2)
            page = await store.page("Session", "", 10)
            assert "out" not in [record.id for record in page.records]
        finally:
            reading.cancel()
