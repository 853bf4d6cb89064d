"""The copy against a databroker under the test's control: order, repeats, deletions, swaps, freshness."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc.aio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.deployment import short_folder
from tests.support.fake_clock import FakeClock

from doorward.api.databroker.v1 import databroker_pb2 as pb
from doorward.api.databroker.v1 import databroker_pb2_grpc
from doorward.records import packing
from doorward.records.building import Building
from doorward.records.record import Record, RecordVersion, record_message, version_message
from doorward.records.replica import Replica


class Broker(databroker_pb2_grpc.DatabrokerServiceServicer):
    """Says what the test tells it to, to one watcher after another."""

    def __init__(self) -> None:
        self.says: asyncio.Queue[pb.WatchResponse | None] = asyncio.Queue()
        self.starts: list[pb.WatchRequest.Start] = []
        self.stamps: list[int] = []
        self.open = 0

    async def Watch(
        self, request_iterator: AsyncIterator[pb.WatchRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.WatchResponse]:
        self.starts.append((await anext(aiter(request_iterator))).start)
        self.open += 1

        async def read() -> None:
            async for request in request_iterator:
                if request.HasField("ping"):
                    self.stamps.append(request.ping.stamp)

        reading = asyncio.create_task(read())
        try:
            while (response := await self.says.get()) is not None:
                yield response
            await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        finally:
            self.open -= 1
            reading.cancel()

    def batch(self, version: int, *records: Record) -> None:
        message = pb.WatchResponse.Batch(
            records=[record_message(record) for record in records],
            version=version_message(RecordVersion(1, version) if version else RecordVersion(0, 0)),
        )
        self.says.put_nowait(pb.WatchResponse(batch=message))

    def consistent(self, version: int, epoch: int = 1, types: Sequence[str] = ()) -> None:
        at = version_message(RecordVersion(epoch, version))
        self.says.put_nowait(pb.WatchResponse(consistent=pb.WatchResponse.Consistent(version=at, types=types)))


def record(
    name: str, version: int, data: bytes = b"x", *, deleted: bool = False, end: float | None = None, kind: str = "T"
) -> Record:
    return Record(type=kind, id=name, version=RecordVersion(1, version), data=data, deleted=deleted, expires_at=end)


class Small:
    """Payloads that begin with ``big`` are larger than they must be."""

    def pack(self, record_id: str, payload: bytes) -> bytes | None:
        return payload.removeprefix(b"big") if payload.startswith(b"big") else None

    def unpack(self, record_id: str, packed: bytes) -> bytes:
        return b"big" + packed


class Following:
    def __init__(self, broker: Broker, replica: Replica, clock: FakeClock) -> None:
        self.broker, self.replica, self.clock = broker, replica, clock
        self.heard: list[str] = []
        replica.subscribe(lambda _, name: self.heard.append(name))

    async def watch_number(self, count: int) -> None:
        """The replica has begun to watch for the ``count``th time, and the watch before is over."""
        await self._until(lambda: len(self.broker.starts) == count and self.broker.open == 1)

    async def made_small(self) -> None:
        """What was kept as it came has become small."""
        making = self.replica._making_small
        assert making is not None
        await asyncio.wait_for(making, 5)

    async def read_anew(self, version: int) -> None:
        """The replica holds a new snapshot of ``version``."""
        await self._until(lambda: self.replica.version == RecordVersion(1, version))

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.005)

    async def reach(self, version: int, epoch: int = 1) -> None:
        assert await self.replica.wait_for_version(RecordVersion(epoch, version), 5)


@pytest.fixture
async def following() -> AsyncIterator[Following]:
    with short_folder() as folder:
        broker, clock = Broker(), FakeClock()
        server = grpc.aio.server()
        databroker_pb2_grpc.add_DatabrokerServiceServicer_to_server(broker, server)
        server.add_insecure_port(f"unix:{folder}/b")
        await server.start()
        channel = grpc.aio.insecure_channel(f"unix:{folder}/b", options=[("grpc.default_authority", "localhost")])
        replica = Replica(channel, ["T"], "w", clock, 5.0, {"T": Small()}, if_known=["Later"])
        task = asyncio.create_task(replica.run())
        try:
            yield Following(broker, replica, clock)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await channel.close()
            await server.stop(None)


async def test_nothing_is_known_before_the_snapshot_is_whole(following: Following):
    following.broker.batch(0, record("a", 1))
    assert not following.replica.ready.is_set()
    assert following.replica.get("T", "a") is None
    following.broker.consistent(1)
    await following.reach(1)
    assert following.replica.get("T", "a") == b"x"
    assert following.replica.get("T", "a") is following.replica.get("T", "a")


async def test_records_of_the_first_snapshot_become_small_once_it_is_served(following: Following):
    replica = following.replica
    following.broker.batch(0, *(record(f"r{number}", number, b"bigx") for number in range(1, 100)))
    following.broker.consistent(99)
    await following.reach(99)
    asked = replica.get("T", "r1")
    assert asked == b"bigx"
    following.broker.batch(100, record("r2", 100, b"bigger"))
    await following.reach(100)
    await following.made_small()
    assert {len(packed) for packed in replica._entries["T"].values()} == {13 + len("x"), 13 + len("ger")}
    assert replica.get("T", "r1") is asked
    assert replica.get("T", "r2") == b"bigger"
    assert replica.get("T", "r3") == b"bigx"


async def test_a_later_snapshot_says_only_what_is_different(following: Following):
    following.broker.batch(0, record("a", 1, b"bigx"), record("b", 2, b"bigx"), record("c", 3, b"bigx"))
    following.broker.consistent(3)
    await following.reach(3)
    await following.made_small()
    following.heard.clear()
    following.broker.says.put_nowait(None)
    following.broker.consistent(3, types=["Later"])  # it serves more than it did
    await following.watch_number(3)
    following.broker.batch(0, record("a", 1, b"bigx"), record("b", 4, b"bigy"), record("d", 5, b"bigx"))
    following.broker.consistent(5, types=["Later"])
    await following.read_anew(5)
    assert sorted(following.heard[:2]) == ["b", "c"], "first what is another or gone"
    assert following.heard[2:] == ["d"]
    assert [following.replica.get("T", name) for name in "abcd"] == [b"bigx", b"bigy", None, b"bigx"]


async def test_a_type_that_an_older_databroker_does_not_know_is_unknown(following: Following):
    following.broker.batch(0, record("a", 1))
    following.broker.consistent(1)
    await following.reach(1)
    assert list(following.broker.starts[0].types) == ["T"]
    assert list(following.broker.starts[0].types_if_known) == ["Later"]
    assert following.replica.knows("T")
    assert not following.replica.knows("Later")
    assert following.replica.get("Later", "a") is None


async def test_what_an_older_databroker_does_not_tell_is_not_kept_from_a_newer_one(following: Following):
    broker, replica = following.broker, following.replica
    broker.batch(0, record("a", 1), record("l", 2, kind="Later"))
    broker.consistent(2, types=["Later"])
    await following.reach(2)
    assert replica.knows("Later")
    assert replica.get("Later", "l") == b"x"

    broker.says.put_nowait(None)  # the next one is older: it resumes, and says that it does not serve this type
    broker.batch(3, record("a", 3, b"y"))
    broker.consistent(3)
    await following.watch_number(3)
    broker.batch(0, record("a", 3, b"y"))  # so everything is read anew
    broker.consistent(4)
    await following.read_anew(4)
    assert broker.starts[1].HasField("after")
    assert not broker.starts[2].HasField("after")
    assert not replica.knows("Later")
    assert replica.get("Later", "l") is None
    assert following.heard[-1] == "l", "who depends on it is told"

    broker.says.put_nowait(None)  # back at a newer one, where it was deleted meanwhile
    broker.batch(5)
    broker.consistent(5, types=["Later"])
    await following.watch_number(5)
    broker.batch(0, record("a", 3, b"y"), record("m", 6, kind="Later"))
    broker.consistent(6, types=["Later"])
    await following.read_anew(6)
    assert replica.knows("Later")
    assert replica.get("Later", "l") is None
    assert replica.get("Later", "m") == b"x"


async def test_a_deletion_in_the_feed_beats_the_snapshot_in_either_order(following: Following):
    following.broker.batch(0, record("a", 1), record("b", 4))
    following.broker.batch(3, record("a", 3, deleted=True), record("b", 2, deleted=True))
    following.broker.batch(0, record("a", 1))
    following.broker.consistent(4)
    await following.reach(4)
    assert following.replica.get("T", "a") is None
    assert following.replica.get("T", "b") == b"x"
    assert following.replica.count("T") == 1, "a tombstone is not kept"


async def test_a_repeated_change_does_not_undo_a_later_one(following: Following):
    """A batch may begin before the point that the snapshot has reached."""
    following.broker.batch(0, record("a", 1))
    following.broker.consistent(3)
    following.broker.batch(5, record("a", 2, b"old"), record("gone", 3), record("b", 5))
    await following.reach(5)
    assert following.replica.get("T", "a") == b"x"
    assert following.replica.get("T", "gone") is None
    assert following.heard[-1] == "b"


async def test_s66_an_expired_record_is_not_there(following: Following):
    following.broker.batch(0, record("a", 1, end=following.clock.now() + 10))
    following.broker.consistent(1)
    await following.reach(1)
    assert following.replica.get("T", "a") == b"x"
    following.clock.advance(10)
    assert following.replica.get("T", "a") is None


async def test_a_replica_whose_pings_have_ended_begins_again(following: Following, monkeypatch: pytest.MonkeyPatch):
    """No ping, no lease: it would be stale for ever."""
    following.broker.batch(0, record("a", 1))
    following.broker.consistent(1)
    await following.reach(1)
    await following._until(lambda: bool(following.broker.stamps))
    failing = [LookupError("planted")]
    clock = following.clock.monotonic

    def once() -> float:
        task = asyncio.current_task()
        if failing and task is not None and "ping" in repr(task.get_coro()):
            raise failing.pop()
        return clock()

    monkeypatch.setattr(following.clock, "monotonic", once)
    await following._until(lambda: not failing)
    following.broker.batch(2, record("a", 2, b"y"))
    await following._until(lambda: len(following.broker.starts) == 2)
    stamps = len(following.broker.stamps)
    await following._until(lambda: len(following.broker.stamps) > stamps)


async def test_a_change_is_seen_though_the_old_value_was_asked_for(following: Following):
    following.broker.batch(0, record("a", 1))
    following.broker.consistent(1)
    await following.reach(1)
    assert following.replica.get("T", "a") == b"x"
    following.broker.batch(2, record("a", 2, b"y"))
    await following.reach(2)
    assert following.replica.get("T", "a") == b"y"
    following.broker.batch(3, record("a", 3, deleted=True))
    await following.reach(3)
    assert following.replica.get("T", "a") is None


async def test_it_follows_only_while_a_databroker_that_knows_its_place_tells_it(following: Following):
    assert not following.replica.is_following
    following.broker.consistent(1)
    await following.reach(1)
    assert following.replica.is_following
    following.broker.says.put_nowait(None)
    await following.watch_number(2)
    assert not following.replica.is_following
    following.broker.consistent(2)
    await following.reach(2)
    assert following.replica.is_following


async def test_a_lost_databroker_is_resumed_by_version_and_the_copy_stays(following: Following):
    following.broker.batch(0, record("a", 1))
    following.broker.consistent(1)
    await following.reach(1)
    following.broker.says.put_nowait(None)
    following.broker.consistent(1)
    following.broker.batch(2, record("b", 2))
    await following.reach(2)
    assert following.broker.starts[1].after.number == 1
    assert following.replica.get("T", "a") == b"x"


async def test_data_are_fresh_only_from_the_stamp_that_was_echoed(following: Following):
    following.broker.consistent(0, epoch=1)
    await following.replica.ready.wait()
    assert not following.replica.is_fresh()
    while not following.broker.stamps:  # another task's
        await asyncio.sleep(0.01)
    following.clock.advance(4)
    lease = pb.WatchResponse.Lease(stamp=following.broker.stamps[0])
    following.broker.says.put_nowait(pb.WatchResponse(lease=lease))
    following.broker.batch(1)
    await following.reach(1)
    assert following.replica.is_fresh()
    assert following.replica.data_age_seconds == pytest.approx(4)
    following.clock.advance(1)
    assert not following.replica.is_fresh()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=12),
    st.integers(0, 12),
    st.sampled_from([0, 30, 1_000]),
    st.randoms(use_true_random=False),
)
async def test_any_snapshot_and_any_feed_give_the_last_state(
    changes: list[tuple[str, bool]], seen: int, room: int, shuffle: Any
):
    """However much of the feed a fuzzy snapshot has already seen, how often it is repeated, and how much of it waits to be made small."""
    small = {"T": Small()}
    replica = Replica(grpc.aio.insecure_channel("unix:/nowhere"), ["T"], "w", FakeClock(), 5.0, small)
    feed = [record(name, number, b"big%d" % number, deleted=gone) for number, (name, gone) in enumerate(changes, 1)]
    expected = {item.id: item.data for item in feed}
    for item in feed:
        if item.deleted:
            expected.pop(item.id, None)
        else:
            expected[item.id] = item.data
    snapshot = list({item.id: item for item in feed[:seen]}.values())
    snapshot = [item for item in snapshot if not item.deleted]
    shuffle.shuffle(snapshot)
    start = shuffle.randint(0, min(seen, len(feed)))
    until = shuffle.randint(start, len(feed))
    building = Building(["T"], small, room)
    await replica._build([record_message(item) for item in snapshot], building)
    await replica._build([record_message(item) for item in feed[start : max(until, seen)]], building)
    await replica._swap(building, frozenset())
    replica.version = RecordVersion(1, max(until, seen))
    again = shuffle.randint(0, max(until, seen))
    await replica._apply([record_message(item) for item in feed[again : again + 3]])
    await building.make_small()
    await replica._apply([record_message(item) for item in feed[again + 3 :]])
    for name, packed in replica._entries["T"].items():
        assert packing.smaller(packing.id_of(name), packed, Small()) == packed, "it is not small"
    assert {name: data for name in "abc" if (data := replica.get("T", name)) is not None} == expected
