"""A put that was acknowledged a moment before the store lost it, and that not even its own databroker has read back."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from tests.support.broker import broker, until, watching
from tests.support.key_material import keyring
from tests.support.redis_server import RedisServer, redis_server
from tests.support.spoiled_feed import rewrite_newest

from doorward.clock import SystemClock
from doorward.errors import OutcomeUnknownError
from doorward.keys.store import Purpose
from doorward.records.record import Record, RecordVersion, Write
from doorward_databroker.store.codec import SealedCodec
from doorward_databroker.store.connection import Link
from doorward_databroker.store.feed import names_in
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


async def test_s43_a_repeat_that_was_answered_is_put_back_as_the_first_one_would_be(server: RedisServer):
    """The first one's databroker may have ended before it was answered; the caller was told *done* by this one."""
    server.ask("FLUSHALL")
    async with store_on(server) as first, store_on(server) as store, broker(store, SystemClock()) as one:
        await one.put(Record(type="Session", id="in"), Record(type="Session", id="out"))
        await one.caught_up()
        one.reader.cancel()
        await asyncio.gather(one.reader, return_exceptions=True)
        bring_back = await copied(store._link)
        sign_out = [Write(record=Record(type="Session", id="out", deleted=True))]
        (version,) = await first.put(sign_out, "repeated")
        later = await one.put(Record(type="User", id="u"))
        for _ in range(2):
            assert await store.put(sign_out, "repeated") == (version,)
        begin = RecordVersion(version.epoch, version.number - 1)
        assert [entry.version for entry in store.unread(begin)] == [version, later.version]
        await bring_back()
        await store.beat("one", b"alive")
        reading = asyncio.create_task(one.hub.run())
        try:
            await until(lambda: one.hub.mended.is_set() and one.hub.mended_epoch == 2)
            assert [record.id for record in (await store.page("Session", "", 10)).records] == ["in"]
        finally:
            reading.cancel()


async def test_a_repeat_of_what_was_read_long_ago_is_not_remembered(server: RedisServer):
    server.ask("FLUSHALL")
    async with store_on(server) as store, broker(store, SystemClock()) as one:
        begin = (await store.head()).version
        writes = [Write(record=Record(type="Session", id="a"))]
        versions = await store.put(writes, "repeated")
        await one.caught_up()
        await until(lambda: not store.unread(begin))
        assert await store.put(writes, "repeated") == versions
        assert store.unread(begin) == []


async def test_a_repeat_is_answered_only_where_the_first_one_is_in_the_history(server: RedisServer):
    """The outcome lies in the store in the clear: somebody who writes there could say that a sign-out has happened."""
    server.ask("FLUSHALL")
    async with store_on(server) as store:
        (other,) = await store.put([Write(record=Record(type="Session", id="a"))], "first")
        for said in (str(other), "1.7", "1.0", "1.0,1.1", "1.1,1.0", "x"):
            server.ask(f"SET {{dw}}:q:forged {said}")
            with pytest.raises(OutcomeUnknownError, match="first outcome"):
                await store.put([Write(record=Record(type="Session", id="a", deleted=True))], "forged")
        (version,) = await store.put([Write(record=Record(type="Session", id="a", deleted=True))], "another")
        assert version.number == 2


async def test_s43_a_put_that_another_one_stands_for_is_missed_and_put_back(server: RedisServer):
    """Two puts that meet are sealed for one number, and who can see what the store is sent has both."""
    server.ask("FLUSHALL")
    codec = SealedCodec(keyring(Purpose.RECORDS))
    async with store_on(server) as store, broker(store, SystemClock()) as one:
        await one.put(Record(type="Session", id="out"))
        await one.caught_up()
        one.reader.cancel()
        await asyncio.gather(one.reader, return_exceptions=True)
        lost = await one.put(Record(type="Session", id="out", deleted=True))
        met = Record(type="User", id="u", version=lost.version)
        names = names_in(RecordVersion(1, 1), [("User", "u")])
        failed = {b"t0": b"User", b"i0": b"u", b"b0": codec.encode(met), b"s": codec.attest(names)}
        await rewrite_newest(server, store, lambda fields: fields.update(failed))
        reading = asyncio.create_task(one.hub.run())
        try:
            async with watching(one.watcher("w")) as watcher:
                await until(lambda: one.hub.mended.is_set() and one.hub.mended_epoch == 2)
                await until(lambda: watcher.ended.is_set() or watcher.consistent.is_set())
            assert (await store.page("Session", "", 10)).records == ()
        finally:
            reading.cancel()


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
