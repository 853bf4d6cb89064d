"""Entries of the feed that cannot be read, in a real store: who is told, who goes on, and who is not vouched for."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry
from tests.support.broker import Broker, broker, until, watching
from tests.support.key_material import keyring
from tests.support.redis_server import RedisServer, redis_server
from tests.support.spoiled_feed import rewrite_newest, under_another_key

from doorward.clock import SystemClock
from doorward.errors import DataCorruptedError, NotFoundError, WatchExpiredError
from doorward.keys.keyring import Keyring
from doorward.keys.store import Purpose
from doorward.records.record import Record, RecordVersion, Write
from doorward_databroker.damage import Rereader
from doorward_databroker.metrics import DatabrokerMetrics
from doorward_databroker.store.codec import SealedCodec
from doorward_databroker.store.connection import Link
from doorward_databroker.store.redis import RedisStore
from doorward_databroker.store.servers import Servers
from doorward_databroker.sweeper import GRACE_SECONDS, Sweeper


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


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields.update({b"b0": b"spoiled"}),
        lambda fields: fields.update({b"b0": fields[b"b0"][:-1] + bytes([fields[b"b0"][-1] ^ 1])}),
        lambda fields: fields.pop(b"b0"),
    ],
    ids=["no-seal", "one-bit", "no-bytes"],
)
async def test_a_change_that_cannot_be_read_closes_its_type_until_everybody_has_read_all_of_it(
    server: RedisServer, change: Callable[[dict[bytes, bytes]], object]
):
    """It is a sign-out here, which must reach whoever holds the session; whoever watches other types notices nothing."""
    server.ask("FLUSHALL")
    async with (
        served(server) as one,
        watching(one.watcher("s", "Session", "User")) as sessions,
        watching(one.watcher("u", "User")) as users,
    ):
        await sessions.consistent.wait()
        await users.consistent.wait()
        await one.put(record("Session", "a"), record("Session", "b"))
        await until(lambda: sessions.live() == {"a", "b"})
        held = sessions.position
        assert held is not None
        one.reader.cancel()
        await one.put(Record(type="Session", id="a", deleted=True), record("User", "u"))
        await rewrite_newest(server, one.store, change)
        reading = asyncio.create_task(one.hub.run())
        try:
            await until(lambda: users.live() == {"u"})
            await sessions.ended.wait()
            sessions.ping(1)
            users.ping(2)
            await one.heartbeat.beat()
            one.heartbeat.problem = None  # as its loop says after a beat
            await until(lambda: users.leases == [2])
            assert "a change of `Session` at `1.4` cannot be read" in (one.heartbeat.unready or "")
            async with watching(one.watcher("s", "Session", "User"), held) as resumed:
                await resumed.ended.wait()
            assert isinstance(resumed.failure, WatchExpiredError)
            await one.hub.report_loss(held)  # as the service does then
            assert not one.store.lost.is_set(), "nothing is lost"
            async with watching(one.watcher("s", "Session", "User")) as again:
                await again.consistent.wait()
                assert again.live() == {"b", "u"}
                again.ping(3)
                await one.heartbeat.beat()
                await Rereader(one.store, one.hub).look()
                assert one.heartbeat.unready is None
                again.ping(4)
                await one.heartbeat.beat()
                await until(lambda: again.leases == [4])
            assert sessions.leases == []
        finally:
            reading.cancel()


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields.pop(b"t0"),
        lambda fields: fields.update({b"t0": b"Sessiom"}),
        lambda fields: fields.update({b"t0": b"SpentCode"}),
        lambda fields: fields.update({b"t0": b"Sessiom", b"b0": under_another_key(fields[b"b0"])}),
        lambda fields: fields.update({b"t1": fields[b"t0"]}),
        lambda fields: fields.update({b"i0": b"c"}),
        lambda fields: fields.pop(b"i0"),
        lambda fields: fields.update({b"t0": b"User", b"b0": under_another_key(fields[b"b0"])}),
        lambda fields: fields.update({b"t0": b"User", b"b0": b"spoiled"}),
        lambda fields: fields.update({b"i0": b"c", b"b0": under_another_key(fields[b"b0"])}),
        lambda fields: (fields.update({b"b0": under_another_key(fields[b"b0"])}), fields.pop(b"s")),
        lambda fields: (fields.update({b"b0": b"spoiled"}), fields.update({b"s": fields[b"s"][:4] + bytes(16)})),
        lambda fields: fields.pop(b"t"),
    ],
    ids=["no-type", "other-type", "unwatched-type", "other-type-and-key", "one-more", "other-id", "no-id", "watched-type-and-key",
         "watched-type", "other-id-and-key", "no-proof", "made-up-proof", "no-tag"],
)  # fmt: skip
async def test_an_entry_that_does_not_say_truly_what_it_changes_makes_everybody_begin_with_a_snapshot(
    server: RedisServer, change: Callable[[dict[bytes, bytes]], object], request: pytest.FixtureRequest
):
    """Nobody can say which types it was about, so all are closed. Nothing is lost, so nobody's session ends.

    Somebody who can write to the store could hide a sign-out behind another name, beside bytes under a key that nobody has.
    """
    has_no_end = request.node.callspec.id == "no-tag"
    server.ask("FLUSHALL")
    async with (
        served(server) as one,
        watching(one.watcher("s")) as sessions,
        watching(one.watcher("u", "User")) as users,
    ):
        await one.put(record("Session", "a"), record("Session", "b"))
        await until(lambda: sessions.live() == {"a", "b"})
        await users.consistent.wait()
        one.reader.cancel()
        await one.put(Record(type="Session", id="a", deleted=True))
        await rewrite_newest(server, one.store, change)
        reading = asyncio.create_task(one.hub.run())
        try:
            await sessions.ended.wait()
            await users.ended.wait()
            # Where not even the newest place has a tag, nothing can be followed from there, and a new epoch begins.
            await until(lambda: one.hub.position == (RecordVersion(2, 0) if has_no_end else RecordVersion(1, 3)))
            if not has_no_end:
                assert not one.hub.vouches_for(frozenset({"Session"})) | one.hub.vouches_for(frozenset({"User"}))
                await Rereader(one.store, one.hub).look()
                assert one.hub.vouches_for(frozenset({"Session", "User"}))
            async with watching(one.watcher("s")) as again:
                await again.consistent.wait()
                assert again.live() == {"b"}
        finally:
            reading.cancel()


async def test_a_databroker_that_stood_still_while_history_was_trimmed_ends_nobodys_session(server: RedisServer):
    """And one that slept through a loss still takes it for one, whatever has been trimmed since."""
    server.ask("FLUSHALL")
    for is_lost in (False, True):
        async with served(server) as one, watching(one.watcher("w")) as watcher:
            await watcher.consistent.wait()
            await one.put(record("Session", "in"), record("Session", "out"))
            await until(lambda: watcher.live() == {"in", "out"})  # within its turn
            held = one.hub.position
            one.reader.cancel()
            await asyncio.gather(one.reader, return_exceptions=True)
            if is_lost:
                # The newest entry as another history has it: the same numbers, another tag.
                await rewrite_newest(server, one.store, lambda fields: fields.update({b"t": b"other"}))
                ((newest,),) = await one.store._link.run(("XREVRANGE", "{dw}:chain", "+", "-", "COUNT", 1))
                server.ask("DEL {dw}:chain")
                await one.store._link.run(("XADD", "{dw}:chain", newest[0], "t", b"other"))
                server.ask("HSET {dw}:meta tag other")
            async with served(server) as other:
                await other.put(Record(type="Session", id="out", deleted=True))
                for number in range(3):
                    await other.put(record("User", f"u{number}"))
                await other.store.trim(1, 0)
            before = await one.store.head()
            reading = asyncio.create_task(one.hub.run())
            try:
                await watcher.ended.wait()
                await until(lambda: one.hub.mended.is_set() and one.hub.position != held)  # noqa: B023  # as above
                assert one.hub.position is not None
                assert one.hub.position.epoch == before.version.epoch + is_lost
                async with watching(one.watcher("w")) as again:
                    await again.consistent.wait()
                    assert again.live() == (set() if is_lost else {"in"})
            finally:
                reading.cancel()


async def test_a_record_that_has_vanished_is_damage_and_not_absence(server: RedisServer):
    """A server that evicts, or somebody's DEL: what is gone may have said that somebody is shut out."""
    server.ask("FLUSHALL")
    async with served(server) as one:
        await one.put(record("Session", "kept"), record("Session", "gone"), record("Session", "signed-out"))
        await one.put(Record(type="Session", id="signed-out", deleted=True))
        await one.caught_up()
        server.ask("DEL {dw}:r:Session:gone")
        server.ask("DEL {dw}:r:Session:signed-out")  # as at its tombstone's end
        with pytest.raises(DataCorruptedError, match="vanished"):
            await one.store.get("Session", "gone")
        for name in ("signed-out", "never"):
            with pytest.raises(NotFoundError):
                await one.store.get("Session", name)
        page = await one.store.page("Session", "", 10)
        found = await one.store.query("Session", "user_id", "u", "", 10)
        for read in (page, found):
            assert ([kept.id for kept in read.records], [lost.id for lost in read.damaged]) == (["kept"], ["gone"])
        async with watching(one.watcher("s")) as sessions:
            await sessions.consistent.wait()
            assert (sessions.live(), set(one.hub.damaged)) == ({"kept"}, {("Session", "gone")})
            assert await Rereader(one.store, one.hub).look() == 0
            sessions.ping(1)
            await one.heartbeat.beat()
            await one.put(Record(type="Session", id="gone", deleted=True))
            await one.caught_up()
            sessions.ping(2)
            await one.heartbeat.beat()
            await until(lambda: sessions.leases == [2])
        assert (await one.store.page("Session", "", 10)).damaged == ()


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


async def test_who_has_missed_a_change_at_one_databroker_is_not_vouched_for_by_another(server: RedisServer):
    """The other one has read it, and does not know who has not: so whoever comes to it from there begins with a snapshot."""
    server.ask("FLUSHALL")
    async with (
        served(server) as one,
        served(server, Purpose.RECORDS.value, "other") as other,
        watching(one.watcher("s")) as sessions,
    ):
        await sessions.consistent.wait()
        await one.put(record("Session", "a"))
        await until(lambda: sessions.live() == {"a"})
        before = sessions.position
        async with served(server, "other", Purpose.RECORDS.value) as ahead:
            last = await ahead.put(Record(type="Session", id="a", deleted=True))
        await until(lambda: sessions.position is not None and sessions.position.version >= last.version)
        assert sessions.live() == {"a"}
        held = sessions.position
        assert held is not None
        async with watching(other.watcher("s"), held) as moved:
            await moved.ended.wait()
        assert isinstance(moved.failure, WatchExpiredError)
        with pytest.raises(WatchExpiredError):
            await other.hub.report_loss(held)  # as the service does then
        assert not other.store.lost.is_set(), "nothing is lost"
        async with watching(other.watcher("s"), before) as resumed:
            await until(lambda: ("Session", "a") in resumed.records)
            assert resumed.live() == set()
        async with watching(one.watcher("s"), held) as again:
            await again.consistent.wait()  # who knows what it has not told need not tell all the rest anew
            await one.put(record("Session", "a"))
            await one.caught_up()
            await until(lambda: again.live() == {"a"})
            async with watching(other.watcher("s"), again.position) as vouched:
                await vouched.consistent.wait()


async def test_who_had_a_snapshot_with_damage_in_it_is_not_vouched_for_by_another_databroker(server: RedisServer):
    server.ask("FLUSHALL")
    async with served(server) as one, served(server) as other:
        await one.put(record("SignInStop", "a"))
        await one.caught_up()
        await other.caught_up()
        server.ask("HSET {dw}:r:SignInStop:a b spoiled")
        async with watching(one.watcher("s", "SignInStop")) as stops:
            await stops.consistent.wait()
        async with watching(other.watcher("s", "SignInStop"), stops.position) as moved:
            await moved.ended.wait()
        assert isinstance(moved.failure, WatchExpiredError)


@pytest.mark.parametrize("version", ["1.1", "1.99", "x"])
async def test_a_version_beside_what_does_not_open_decides_nothing(server: RedisServer, version: str):
    """Lower than the true one, an older change would clear the damage; higher, nothing ever would."""
    server.ask("FLUSHALL")
    async with served(server) as one:
        start = await one.put(record("SignInStop", "z"))
        await one.put(record("SignInStop", "a"))
        await one.caught_up()
        server.ask(f"HSET {{dw}}:r:SignInStop:a v {version}")
        async with watching(one.watcher("s", "SignInStop")) as stops:
            await stops.consistent.wait()
            assert stops.live() == {"z"}
            async with watching(one.watcher("t", "SignInStop"), start) as resumed:
                await until(lambda: resumed.live() == {"a"})
            stops.ping(1)
            await one.heartbeat.beat()
            await one.put(record("SignInStop", "a"))
            await one.caught_up()
            await Rereader(one.store, one.hub).look()
            await one.caught_up()
            assert one.hub.damaged == {}
            stops.ping(2)
            await one.heartbeat.beat()
            await until(lambda: stops.leases == [2])
            assert stops.live() == {"a", "z"}


async def test_where_an_epoch_begins_is_known_though_its_first_entry_is_spoiled(server: RedisServer):
    server.ask("FLUSHALL")
    async with served(server) as one:
        start = await one.store.head()
        await one.caught_up()
        one.reader.cancel()
        await one.put(record("Session", "a"))
        await rewrite_newest(server, one.store, lambda fields: fields.update({b"n": b"x"}))
        assert not await one.store.contains(start)


async def test_what_has_vanished_is_swept_when_its_end_is_over(server: RedisServer):
    """It would not count any more, and what stays at the front of the line would keep the sweeper from what comes behind."""
    server.ask("FLUSHALL")
    async with served(server) as one:
        ended = one.clock.now() - GRACE_SECONDS - 1
        for name, ends in (("gone", ended), ("gone later", ended + 3600), ("there", ended)):
            await one.put(Record(type="Session", id=name.replace(" ", "-"), expires_at=ends))
        await one.caught_up()
        for name in ("gone", "gone-later"):
            server.ask(f"DEL {{dw}}:r:Session:{name}")
        one.hub.report((await one.store.page("Session", "", 10)).damaged)
        assert set(one.hub.damaged) == {("Session", "gone"), ("Session", "gone-later")}
        sweeper = Sweeper(one.store, ["Session"], one.clock, "me", DatabrokerMetrics(CollectorRegistry()))
        assert await sweeper.sweep() == 2
        await one.caught_up()
        assert set(one.hub.damaged) == {("Session", "gone-later")}
        assert await sweeper.sweep() == 0
