"""The fan-out over the reference store: what each watcher is told, and what it is never told."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import structlog
from structlog.testing import capture_logs
from tests.support.broker import Broker, broker, until, watching
from tests.support.fake_clock import FakeClock
from tests.support.key_material import keyring

from doorward.api.databroker.v1 import databroker_pb2 as pb
from doorward.clock import SystemClock
from doorward.errors import UnavailableError, WatchExpiredError
from doorward.keys.store import Purpose
from doorward.records.record import Record, RecordVersion
from doorward.telemetry.seldom import SECONDS
from doorward_databroker import watch
from doorward_databroker.store.codec import SealedCodec
from doorward_databroker.store.memory import MemoryStore
from doorward_databroker.store.port import Damaged, FeedEntry, Position
from doorward_databroker.watcher import QUEUE_LIMIT


def session(name: str, data: bytes = b"x") -> Record:
    return Record(type="Session", id=name, data=data, indexes={"user_id": ("u",)})


@pytest.fixture
async def one() -> AsyncIterator[Broker]:
    clock = SystemClock()
    async with broker(MemoryStore(clock, SealedCodec(keyring(Purpose.RECORDS))), clock) as made:
        yield made


async def test_a_snapshot_then_every_change_of_the_wanted_types(one: Broker):
    await one.put(session("a"), Record(type="User", id="u"))
    async with watching(one.watcher("w")) as watcher:
        await watcher.consistent.wait()
        assert watcher.live() == {"a"}
        await one.put(session("b"))
        await one.put(Record(type="User", id="v"))
        last = await one.put(Record(type="Session", id="a", deleted=True))
        await until(lambda: watcher.position is not None and watcher.position.version == last.version)
        assert watcher.live() == {"b"}


async def test_changes_of_other_types_move_the_position_on(one: Broker):
    """Else a watcher of a quiet type would resume from before the retained history."""
    async with watching(one.watcher("w")) as watcher:
        await watcher.consistent.wait()
        last = await one.put(Record(type="User", id="u"))
        await until(lambda: watcher.position is not None and watcher.position.version == last.version)


async def test_a_watcher_resumes_where_it_was(one: Broker):
    async with watching(one.watcher("w")) as watcher:
        await watcher.consistent.wait()
        await one.put(session("a"))
        await until(lambda: watcher.live() == {"a"})
        position = watcher.position
    await one.put(session("b"))
    async with watching(one.watcher("w"), position) as resumed:
        await until(lambda: resumed.live() == {"b"})


@pytest.mark.parametrize(
    "after", [Position(RecordVersion(1, 1), b"another"), Position(RecordVersion(7, 1)), Position(RecordVersion(0, 5))]
)
async def test_a_watcher_of_another_history_is_sent_back_to_a_snapshot(one: Broker, after: Position):
    await one.put(session("a"))
    await one.caught_up()
    async with watching(one.watcher("w"), after) as watcher:
        await watcher.ended.wait()
    assert isinstance(watcher.failure, WatchExpiredError)


async def test_every_watcher_of_the_same_types_gets_the_same_bytes(one: Broker):
    async with watching(one.watcher("w")) as first, watching(one.watcher("x")) as second:
        await first.consistent.wait()
        await second.consistent.wait()
        await one.put(session("a"))
        await until(lambda: len(first.messages) == len(second.messages) == 2)
        assert first.messages[-1] is second.messages[-1]


async def test_a_slow_watcher_is_cut_and_costs_no_more_memory(one: Broker):
    watcher = one.watcher("slow").watcher
    stream = one.hub.watch(watcher, None)
    await anext(stream)
    for number in range(QUEUE_LIMIT + 5):
        watcher.offer(b"%d" % number)
    assert watcher.queue.qsize() == QUEUE_LIMIT + 1
    with pytest.raises(UnavailableError, match="fell behind"):
        async for _ in stream:
            pass
    assert watcher not in one.hub.watchers
    big = one.watcher("big").watcher
    for _ in range(5):
        big.offer(bytes(10 * 1024 * 1024))
    assert big.cut == "fell behind"
    assert big.queued_bytes <= 32 * 1024 * 1024


async def test_a_hub_says_whether_a_snapshot_is_being_read(one: Broker):
    """Who has more time then gives way."""
    await one.put(session("a"))
    whole, given_up = (one.hub.watch(one.watcher(name).watcher, None) for name in "wx")
    await anext(whole)
    await anext(given_up)
    await given_up.aclose()
    assert one.hub.is_showing
    assert pb.WatchResponse.FromString(await anext(whole)).HasField("consistent")
    assert not one.hub.is_showing
    await whole.aclose()


async def test_what_is_sent_at_once_overtakes_nothing(one: Broker):
    """A watcher applies by version what it gets, but a lease vouches for all that came before it."""
    watcher = one.watcher("w").watcher
    told: list[bytes] = []
    takes = True

    def at_once(data: bytes) -> bool:
        if takes:
            told.append(data)
        return takes

    watcher.at_once = at_once
    watcher.offer(b"before the snapshot is through")
    assert told == []
    stream = one.hub.watch(watcher, None)
    await anext(stream)

    async def follow() -> None:
        async for data in stream:
            told.append(data)
            if data == b"2":
                await going_on.wait()

    going_on = asyncio.Event()
    following = asyncio.create_task(follow())
    await until(lambda: watcher.is_waiting)
    watcher.offer(b"1")
    assert told[1:] == [b"1"], "nothing waits, so it needs no queue"
    takes = False
    watcher.offer(b"2")
    takes = True
    watcher.offer(b"3")
    await until(lambda: told[-1] == b"2")
    watcher.offer(b"4")
    assert told[-1] == b"2", "what comes before is still on its way"
    going_on.set()
    await until(lambda: watcher.is_waiting)
    watcher.offer(b"5")
    assert told[1:] == [b"1", b"2", b"3", b"4", b"5"]
    watcher.end("enough")
    watcher.offer(b"6")
    with pytest.raises(UnavailableError, match="enough"):
        await following
    assert told[-1] == b"5"


async def test_a_lease_comes_after_what_it_vouches_for(one: Broker):
    async with watching(one.watcher("w")) as watcher:
        await watcher.consistent.wait()
        watcher.ping(7)
        await one.put(session("a"))
        await one.heartbeat.beat()
        await until(lambda: watcher.leases)
        assert watcher.leases == [7]
        assert watcher.live() == {"a"}


async def test_a_watcher_that_never_pinged_gets_no_lease(one: Broker):
    async with watching(one.watcher("w")) as watcher:
        await watcher.consistent.wait()
        await one.heartbeat.beat()
        await one.put(session("a"))
        await until(lambda: watcher.live() == {"a"})
        assert watcher.leases == []


async def test_a_watcher_that_knows_more_than_the_store_is_told_at_once(one: Broker):
    """An older store was put back. Its next puts would get the numbers that the watcher waits for, one by one."""
    await one.put(session("a"))
    await one.caught_up()
    async with watching(one.watcher("w"), Position(RecordVersion(1, 50), b"tag")) as watcher, asyncio.timeout(1):
        await watcher.ended.wait()
    assert isinstance(watcher.failure, WatchExpiredError)
    await one.hub.report_loss(Position(RecordVersion(1, 50), b"tag"))
    await until(lambda: one.hub.mended_epoch == 2)
    await one.put(session("b"))
    async with watching(one.watcher("w")) as watcher:
        await watcher.consistent.wait()
        assert watcher.live() >= {"b"}


async def test_a_type_with_a_damaged_record_is_not_vouched_for_until_it_is_written_anew(one: Broker):
    """A record that does not open may be a deletion; deciding by what was known before would let somebody in."""
    async with watching(one.watcher("s")) as sessions, watching(one.watcher("u", "User")) as users:
        await sessions.consistent.wait()
        await users.consistent.wait()
        sessions.ping(1)
        users.ping(2)
        damaged = Damaged("Session", "a", RecordVersion(1, 1), "does not open")
        await one.hub._hand_out([FeedEntry(RecordVersion(1, 1), (), b"t", (damaged,))])
        assert not one.hub.vouches_for(frozenset({"Session"}))
        one.hub._position = await one.store.head()
        await one.heartbeat.beat()
        await until(lambda: users.leases == [2])
        assert sessions.leases == []
        await one.put(session("a"))
        await one.caught_up()
        assert not one.hub.vouches_for(frozenset({"Session"})), "a change that is not newer says nothing about it"
        await one.put(session("a"))
        await one.caught_up()
        await one.heartbeat.beat()
        await until(lambda: sessions.leases == [1])


async def test_what_is_damaged_stays_so_whatever_was_said_of_it_before(one: Broker):
    """A watcher that resumes has older changes replayed to it, and old damage."""
    begin = await one.store.head()
    await one.put(session("a"))
    await one.put(session("a"))
    await one.caught_up()
    newest = Damaged("Session", "a", RecordVersion(1, 2), "spoiled where it is stored")
    no_version = Damaged("Session", "b", RecordVersion(0, 0), "spoiled, its version too")
    one.hub.report([newest, no_version])
    one.hub.report([Damaged("Session", "a", RecordVersion(1, 1), "older")])
    await one.put(session("c"))
    async with watching(one.watcher("w"), begin) as resumed:
        await until(lambda: resumed.live() == {"a", "c"})
    assert set(one.hub.damaged) == {("Session", "a"), ("Session", "b")}
    assert one.hub.damaged["Session", "a"].version == newest.version
    await one.put(session("a"), session("b"))
    await one.caught_up()
    assert one.hub.damaged == {}


async def test_a_lease_from_before_the_snapshot_was_whole_is_lost_when_the_snapshot_comes_upon_damage(one: Broker):
    await one.put(session("a"))
    await one.caught_up()
    for is_damaged in (True, False):
        watcher = one.watcher("w", "Session", "User").watcher
        stream = one.hub.watch(watcher, None)
        await anext(stream)
        watcher.stamp = 7
        await one.heartbeat.beat()
        if is_damaged:
            one.hub.report([Damaged("User", "u", RecordVersion(1, 1), "does not open")])
        while pb.WatchResponse.FromString(await anext(stream)).WhichOneof("message") != "consistent":
            pass
        following = asyncio.ensure_future(anext(stream))
        if is_damaged:
            await until(lambda: watcher.is_waiting)  # noqa: B023  # within its turn
            assert watcher.queue.empty()
            watcher.end("enough")
            with pytest.raises(UnavailableError):
                await following
            one.hub.damaged.clear()
        else:
            assert pb.WatchResponse.FromString(await following).lease.stamp == 7
            await stream.aclose()


async def test_a_clock_that_disagrees_with_the_stores_extends_nothing():
    fake = FakeClock()
    store = MemoryStore(SystemClock(), SealedCodec(keyring(Purpose.RECORDS)))
    async with broker(store, fake) as one, watching(one.watcher("w")) as watcher:
        await watcher.consistent.wait()
        watcher.ping(1)
        with pytest.raises(UnavailableError, match="clock"):
            await one.heartbeat.beat()
        assert watcher.leases == []
        task = asyncio.create_task(one.heartbeat.run())
        await until(lambda: one.heartbeat.problem is not None and "clock" in one.heartbeat.problem)
        task.cancel()


async def test_a_revoke_is_applied_once_the_watcher_has_acknowledged(one: Broker):
    await one.put(session("a"))
    async with watching(one.watcher("w")) as watcher:
        await watcher.consistent.wait()
        watcher.ping(1)
        outcome = await one.revoker.revoke(["a"])
        assert (outcome.revoked, outcome.pending) == (1, ())
        assert watcher.live() == set()


async def test_a_revoke_waits_for_a_watcher_that_may_hold_a_lease_and_names_it(one: Broker):
    await one.put(session("a"))
    silent = one.watcher("w")
    silent.acknowledges = False
    async with watching(silent):
        await silent.consistent.wait()
        silent.ping(1)
        assert (await one.revoker.revoke(["a"])).pending == ("w",)
    assert (await one.revoker.revoke(["a"])).pending == ("w",)  # gone, but its lease may still last


async def test_s43_a_revoke_waits_for_the_watchers_of_every_databroker(one: Broker):
    """An authorizer on another replica of the databroker lets the session in for as long as it has not heard."""
    await one.put(session("a"))
    async with broker(one.store, one.clock, "two") as two:
        slow = two.watcher("w2")
        slow.acknowledges = False
        async with watching(slow):
            await slow.consistent.wait()
            slow.ping(1)
            await two.heartbeat.beat()
            assert (await one.revoker.revoke(["a"])).pending == ("w2",)
            slow.watcher.acknowledged = (await one.store.head()).version
            waiting = asyncio.create_task(one.revoker.revoke(["a"]))
            await asyncio.sleep(0.01)
            slow.watcher.acknowledged = (await one.store.head()).version
            await two.heartbeat.beat()
            assert (await waiting).pending == ()


async def test_a_databroker_that_fell_silent_is_waited_for_until_its_leases_have_run_out():
    clock = FakeClock()
    store = MemoryStore(clock, SealedCodec(keyring(Purpose.RECORDS)))
    async with broker(store, clock, "one") as one, broker(store, clock, "two") as two:
        watcher = two.watcher("w")
        async with watching(watcher):
            await watcher.consistent.wait()
            watcher.ping(1)
            await two.heartbeat.beat()
            version = (await one.put(session("a"))).version
            one.peers.hear(await store.beat("one", b""))
            assert one.peers.behind(version) == {"w"}
            clock.advance(4.9)
            one.peers.hear(await store.beat("one", b""))
            assert one.peers.behind(version) == {"w"}
            clock.advance(0.2)
            one.peers.hear(await store.beat("one", b""))
            assert one.peers.behind(version) == set()


async def test_a_heartbeat_that_cannot_be_read_is_waited_for(one: Broker):
    await one.store.beat("odd", b"\xff not json")
    one.peers.hear(await one.store.beat("one", b""))
    assert one.peers.behind(RecordVersion(1, 1)) == {"databroker odd"}


async def test_s43_nobody_is_served_before_every_databroker_has_put_back_what_it_knew(one: Broker):
    """The one that knows least is ready first; what the other one still has to put back may be a sign-out."""
    await one.put(session("a"))
    async with broker(one.store, one.clock, "two") as two:
        for side in (one, two, one):
            await side.caught_up()
            await side.heartbeat.beat()
        for side in (one, two):
            side.reader.cancel()  # it would notice as well, and begin yet another epoch
        one.store.lost.set()
        first = asyncio.create_task(one.hub._start_over("lost"))
        await until(lambda: one.hub.mended_epoch == 2)
        await one.heartbeat.beat()
        assert not one.hub.mended.is_set()
        assert one.peers.unmended(2) == ["two"]
        one.store.lost.set()
        second = asyncio.create_task(two.hub._start_over("lost"))
        await until(lambda: two.hub.mended_epoch == 2)
        await two.heartbeat.beat()
        await one.heartbeat.beat()
        await asyncio.gather(first, second)
        assert one.hub.mended.is_set()
        assert two.hub.mended.is_set()


async def test_a_databroker_that_died_is_not_waited_for_for_long(one: Broker, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(watch, "OTHERS_SECONDS", 0.05)
    async with broker(one.store, one.clock, "two") as two:
        await two.caught_up()
        await two.heartbeat.beat()
    await one.put(session("a"))
    await one.caught_up()
    await one.heartbeat.beat()
    await one.hub._start_over("lost")
    assert one.hub.mended.is_set()
    assert one.peers.unmended(2) == ["two"]


async def test_a_databroker_whose_heartbeat_the_store_has_lost_is_still_waited_for():
    clock = FakeClock()
    store = MemoryStore(clock, SealedCodec(keyring(Purpose.RECORDS)))
    async with broker(store, clock, "one") as one, broker(store, clock, "two") as two:
        async with watching(two.watcher("w")) as watcher:
            await watcher.consistent.wait()
            watcher.ping(1)
            await two.heartbeat.beat()
            one.peers.hear(await store.beat("one", b""))
            version = (await one.put(session("a"))).version
            store._peers.clear()
            clock.advance(4.9)
            one.peers.hear(await store.beat("one", b""))
            assert one.peers.behind(version) == {"w"}
            clock.advance(0.2)
            one.peers.hear(await store.beat("one", b""))
            assert one.peers.behind(version) == set()


class _Away(MemoryStore):
    """Has nothing to say, and counts who asks."""

    asked = 0

    async def head(self) -> Position:
        self.asked += 1
        raise UnavailableError("away")


async def test_a_store_that_is_away_is_logged_seldom_however_often_it_is_asked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(watch, "_PAUSE_SECONDS", 0.0)
    clock = FakeClock()
    store = _Away(clock, SealedCodec(keyring(Purpose.RECORDS)))
    with capture_logs() as logs:
        monkeypatch.setattr(watch, "_log", structlog.stdlib.get_logger("watch"))
        hub = watch.WatchHub(store, clock)
        running = asyncio.create_task(hub.run())
        try:
            await until(lambda: store.asked > 50)
            asked = store.asked
            clock.advance(SECONDS)
            await until(lambda: store.asked > asked + 1)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    assert [log["event"] for log in logs] == ["the feed cannot be read"] * 2
    assert [log["log_level"] for log in logs] == ["warning"] * 2
    assert logs[1]["left_out"] >= 50


async def test_a_place_that_was_trimmed_is_no_witness_of_a_loss_and_one_that_is_missing_is(one: Broker):
    """Else an authorizer that was away for a day would make everybody sign in again."""
    first = await one.put(session("a"))
    for number in range(3):
        last = await one.put(session("a", b"%d" % number))
    await one.caught_up()
    await one.store.trim(2, 0)
    await one.hub.report_loss(Position(first.version, b"its own"))
    assert not one.store.lost.is_set()
    for missing in (Position(RecordVersion(1, last.version.number + 1), b"newer"), Position(last.version, b"another")):
        await one.hub.report_loss(missing)
        assert one.store.lost.is_set()
        one.store.lost.clear()
