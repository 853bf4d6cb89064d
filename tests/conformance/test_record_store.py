"""What every record store must do: the reference, Valkey and Debian's Redis, all through the sealing codec."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, aclosing
from dataclasses import dataclass

import pytest
from tests.support.fake_clock import FakeClock
from tests.support.key_material import keyring
from tests.support.records import metered, plain
from tests.support.redis_server import RedisServer, Topology, topology

from doorward.api.databroker.v1 import databroker_pb2
from doorward.errors import (
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    WatchExpiredError,
)
from doorward.identity.directory import DirectoryUser
from doorward.keys.store import Purpose
from doorward.records.record import NO_VERSION, Fence, Record, RecordVersion, Write, record_of
from doorward_databroker.store.codec import SealedCodec
from doorward_databroker.store.memory import MemoryStore
from doorward_databroker.store.port import Expired, FeedEntry, Position, RecordStore
from doorward_databroker.store.redis import RedisStore


@dataclass
class Bench:
    store: RecordStore
    clock: FakeClock
    server: RedisServer | None


TOPOLOGIES = ("acl-valkey", "redis", "sentinel", "cluster", "tls")
ALSO = ("sentinel-valkey", "cluster-valkey")
everywhere = pytest.mark.parametrize("bench", ["memory", *TOPOLOGIES, *ALSO], indirect=True)
"""For the promises that depend most on how a server answers; all others would cost more seconds than they could find out."""


@pytest.fixture(scope="module")
def topologies() -> Iterator[Callable[[str], Topology]]:
    """Servers that all tests of a process share; each test finds them empty."""
    with ExitStack() as stack:
        started: dict[str, Topology] = {}

        def get(name: str) -> Topology:
            if name not in started:
                started[name] = stack.enter_context(topology(name))
            started[name].forget_everything()
            return started[name]

        yield get


@pytest.fixture(params=["memory", "metered", *TOPOLOGIES])
async def bench(request: pytest.FixtureRequest, topologies: Callable[[str], Topology]) -> AsyncIterator[Bench]:
    clock = FakeClock()
    codec = SealedCodec(keyring(Purpose.RECORDS))
    if request.param in {"memory", "metered"}:
        yield Bench((metered if request.param == "metered" else plain)(MemoryStore(clock, codec)), clock, None)
        return
    servers = topologies(request.param)
    store = RedisStore(servers.link(), codec, clock)
    try:
        yield Bench(store, clock, servers.primary)
    finally:
        await store.close()


def session(name: str, data: bytes = b"x", user: str = "u1", **more: object) -> Record:
    return Record(type="Session", id=name, data=data, indexes={"user_id": (user,)}, **more)  # type: ignore[arg-type]


async def put(bench: Bench, *records: Record, request: str = "", **conditions: object) -> tuple[RecordVersion, ...]:
    writes = [Write(record=record, **conditions) for record in records]  # type: ignore[arg-type]
    return await bench.store.put(writes, request or f"r{id(writes)}-{bench.clock.now()}-{records}")


async def under(bench: Bench, user: str) -> list[str]:
    return [record.id for record in (await bench.store.query("Session", "user_id", user, "", 10)).records]


async def expired(bench: Bench, before: float, limit: int = 10) -> list[str]:
    return [one.id for one in await bench.store.expired("Session", before, limit)]


async def read_all(bench: Bench, after: Position) -> list[FeedEntry]:
    found: list[FeedEntry] = []
    while entries := await bench.store.changes(found[-1].position if found else after, 100, 0.01):
        found += entries
    return found


async def test_a_put_is_read_back_with_its_version(bench: Bench):
    (version,) = await put(bench, session("a", b"payload"))
    record = await bench.store.get("Session", "a")
    assert (record.data, record.version, record.indexes) == (b"payload", version, {"user_id": ("u1",)})
    assert version == RecordVersion(1, 1)
    assert (await bench.store.head()).version == version


async def test_versions_grow_by_one_for_each_record(bench: Bench):
    first = await put(bench, session("a"), session("b"))
    second = await put(bench, session("a", b"2"))
    assert [v.number for v in (*first, *second)] == [1, 2, 3]


async def test_a_batch_with_a_failed_condition_writes_nothing(bench: Bench):
    await put(bench, session("a"))
    writes = [Write(record=session("b")), Write(record=session("a"), absent=True)]
    with pytest.raises(ConflictError):
        await bench.store.put(writes, "r")
    with pytest.raises(NotFoundError):
        await bench.store.get("Session", "b")
    assert (await bench.store.head()).version.number == 1


@everywhere
async def test_compare_and_set_lets_one_of_many_win(bench: Bench):
    (version,) = await put(bench, session("a"))
    attempts = [
        bench.store.put([Write(record=session("a", b"%d" % n), expected=version)], f"cas-{n}") for n in range(8)
    ]
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    assert sum(isinstance(outcome, tuple) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, ConflictError) for outcome in outcomes) == 7


async def test_create_only_lets_one_of_many_win(bench: Bench):
    """Two redemptions of one code at the same moment must not both succeed."""
    record = Record(type="SpentCode", id="c", expires_at=bench.clock.now() + 60)
    attempts = [bench.store.put([Write(record=record, absent=True)], f"spend-{n}") for n in range(8)]
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    assert sum(isinstance(outcome, tuple) for outcome in outcomes) == 1


@everywhere
async def test_a_repeated_request_returns_the_first_outcome(bench: Bench):
    first = await put(bench, session("a", b"1"), request="same")
    again = await put(bench, session("a", b"1"), request="same")
    assert again == first
    assert (await bench.store.head()).version.number == 1


async def test_a_deletion_is_a_tombstone_and_repeatable(bench: Bench):
    await put(bench, session("a"))
    await put(bench, Record(type="Session", id="a", deleted=True))
    with pytest.raises(NotFoundError):
        await bench.store.get("Session", "a")
    await put(bench, Record(type="Session", id="never", deleted=True))
    assert (await bench.store.page("Session", "", 10)).records == ()


async def test_s66_expiry_is_judged_at_the_read(bench: Bench):
    await put(bench, session("a", expires_at=bench.clock.now() + 10))
    assert (await bench.store.get("Session", "a")).id == "a"
    bench.clock.advance(10)
    with pytest.raises(NotFoundError):
        await bench.store.get("Session", "a")
    assert await expired(bench, bench.clock.now()) == ["a"]


async def test_pages_list_every_live_record_once(bench: Bench):
    await put(bench, *(session(f"s{n:03d}") for n in range(25)))
    await put(bench, Record(type="Session", id="s003", deleted=True))
    found: list[str] = []
    after = ""
    while True:
        page = await bench.store.page("Session", after, 7)
        found += [record.id for record in page.records]
        after = page.next_id
        if not after:
            break
    assert found == [f"s{n:03d}" for n in range(25) if n != 3]


async def test_queries_follow_the_index_as_it_is_now(bench: Bench):
    await put(bench, session("a", user="u1"), session("b", user="u2"), session("c", user="u1"))
    assert await under(bench, "u1") == ["a", "c"]
    await put(bench, session("a", user="u2"))
    assert await under(bench, "u1") == ["c"]
    assert await under(bench, "u2") == ["a", "b"]


@pytest.mark.parametrize("other", ["U1", "u1 ", "u1\0", "u\u0661", "\uff551"])
async def test_s67_names_are_compared_as_they_are(bench: Bench, other: str):
    """No store folds case, width or blanks: nobody is found, or ended, under another one's name."""
    await put(bench, session("a", user="u1"), session("A", user=other))
    assert await under(bench, "u1") == ["a"]
    assert await under(bench, other) == ["A"]
    await put(bench, Record(type="Session", id="A", deleted=True), request="end")
    assert (await bench.store.get("Session", "a")).indexes == {"user_id": ("u1",)}
    with pytest.raises(NotFoundError):
        await bench.store.get("Session", "A")


@everywhere
async def test_the_feed_has_no_gaps_and_keeps_a_put_together(bench: Bench):
    start = await bench.store.head()
    await put(bench, session("a"), session("b"))
    await put(bench, Record(type="Session", id="a", deleted=True))
    entries = await bench.store.changes(start, 100, 0.1)
    assert [[(r.id, r.deleted) for r in entry.records] for entry in entries] == [
        [("a", False), ("b", False)],
        [("a", True)],
    ]
    for entry in entries:
        rest = await bench.store.changes(entry.position, 100, 0.01)
        assert rest == [other for other in entries if other.version > entry.version]


@everywhere
async def test_a_reader_that_waits_hears_of_the_next_change(bench: Bench):
    start = await bench.store.head()
    waiting = asyncio.create_task(bench.store.changes(start, 10, 5))
    await asyncio.sleep(0)
    await put(bench, session("a"))
    entries = await asyncio.wait_for(waiting, 5)
    if not entries:  # the reader may have looked between the two
        entries = await bench.store.changes(start, 10, 5)
    assert entries[0].records[0].id == "a"


@pytest.mark.parametrize("after", [RecordVersion(1, 99), RecordVersion(7, 1), RecordVersion(7, 0)])
async def test_a_position_outside_the_history_is_refused(bench: Bench, after: RecordVersion):
    await put(bench, session("a"))
    with pytest.raises(WatchExpiredError):
        await bench.store.changes(Position(after), 10, 0.01)


async def test_what_is_not_in_the_feed_has_no_version(bench: Bench):
    record = Record(type="SpentCode", id="c", expires_at=bench.clock.now() + 60)
    assert await put(bench, record, request="first") == (RecordVersion(1, 0),)
    assert (await bench.store.get("SpentCode", "c")).version == NO_VERSION
    assert (await bench.store.head()).version == RecordVersion(1, 0)
    await bench.store.recover(RecordVersion(1, 0))
    assert await put(bench, record) == (RecordVersion(2, 0),)
    assert await put(bench, record, request="first") == (RecordVersion(1, 0),)


@everywhere
async def test_recovery_begins_a_new_epoch_once(bench: Bench):
    await put(bench, session("a"))
    head = await bench.store.head()
    first, second = [await bench.store.recover(head.version) for _ in range(2)]
    assert first == second == Position(RecordVersion(2, 0), first.tag)
    bench.store.begin(2, head.version)
    assert (await bench.store.get("Session", "a")).version == head.version
    assert await put(bench, session("b")) == (RecordVersion(2, 1),)


@everywhere
async def test_a_lease_has_one_holder_and_a_growing_number(bench: Bench):
    first = await bench.store.acquire_lease("l", "one", 30)
    assert first is not None
    assert await bench.store.acquire_lease("l", "two", 30) is None
    assert not await bench.store.renew_lease("l", "two", 30)
    assert await bench.store.renew_lease("l", "one", 30)
    await bench.store.release_lease("l", "two")
    assert await bench.store.acquire_lease("l", "two", 30) is None
    await bench.store.release_lease("l", "one")
    second = await bench.store.acquire_lease("l", "two", 30)
    assert second is not None
    assert second > first


async def test_a_write_under_a_lease_that_was_taken_again_is_refused(bench: Bench):
    """A worker that slept through its lease must not undo what its successor has written."""
    first = await bench.store.acquire_lease("l", "one", 10)
    assert first is not None
    old = Fence("l", "one", first)
    await bench.store.put([Write(record=session("a", b"1"))], "r1", old)
    bench.clock.advance(11)
    if bench.server is not None:
        bench.server.ask("DEL {dw}:l:l")  # the server's clock stands where it is
    second = await bench.store.acquire_lease("l", "two", 10)
    assert second is not None
    await bench.store.put([Write(record=session("a", b"2"))], "r2", Fence("l", "two", second))
    with pytest.raises(ConflictError):
        await bench.store.put([Write(record=session("a", b"3"))], "r3", old)
    with pytest.raises(ConflictError):
        await bench.store.put([Write(record=session("a", b"3"))], "r4", Fence("l", "one", second))
    assert (await bench.store.get("Session", "a")).data == b"2"


async def test_fencing_numbers_grow_over_epochs(bench: Bench):
    first = await bench.store.acquire_lease("l", "one", 10)
    await bench.store.recover((await bench.store.head()).version)
    second = await bench.store.acquire_lease("l", "one", 10)
    assert first is not None
    assert second is not None
    assert second > 2 * 2**32 > first


async def test_a_record_is_found_under_each_of_its_values(bench: Bench):
    def member(*groups: str) -> Record:
        return Record(type="DirectoryUser", id="d/1", indexes={"join_value": groups, "directory_id": ("d",)})

    async def members(group: str) -> list[str]:
        return [r.id for r in (await bench.store.query("DirectoryUser", "join_value", group, "", 10)).records]

    await put(bench, member("g1", "g2"))
    assert [await members(group) for group in ("g1", "g2", "g3")] == [["d/1"], ["d/1"], []]
    await put(bench, member("g2", "g3"))
    assert [await members(group) for group in ("g1", "g2", "g3")] == [[], ["d/1"], ["d/1"]]
    await put(bench, Record(type="DirectoryUser", id="d/1", deleted=True))
    assert [await members(group) for group in ("g1", "g2", "g3")] == [[], [], []]


async def test_a_record_is_found_under_what_its_payload_says(bench: Bench):
    def member(name: str, *groups: int) -> Record:
        entry = DirectoryUser(directory_id="d", entry_id=name, join_value=name, group_numbers=groups)
        return Record(type="DirectoryUser", id=f"d/{name}", data=entry.to_bytes())

    async def members(*groups: str) -> list[str]:
        async with aclosing(bench.store.found("DirectoryUser", "group", groups, 2)) as pages:
            return sorted({record.id async for page in pages for record in page.records})

    await put(bench, *(member(name, 1) for name in "abcde"), member("f", 1, 2))
    assert await members("d/1") == [f"d/{name}" for name in "abcdef"]
    assert await members("d/2", "d/3") == ["d/f"]
    await put(bench, member("f", 3), Record(type="DirectoryUser", id="d/a", deleted=True))
    assert await members("d/1", "d/3") == [f"d/{name}" for name in "bcdef"]
    assert await members("d/2") == await members("") == await members() == []
    page = await bench.store.query("DirectoryUser", "group", "d/1", "d/b", 2)
    assert ([record.id for record in page.records], page.damaged) == (["d/c", "d/d"], ())
    with pytest.raises(InvalidArgumentError):
        await bench.store.query("DirectoryUser", "groups", "d/1", "", 2)


async def test_many_puts_at_once_all_happen_in_one_order(bench: Bench):
    puts = [bench.store.put([Write(record=session(f"s{n}"))], f"m{n}") for n in range(300)]
    versions = [version for (version,) in await asyncio.gather(*puts)]
    assert sorted(version.number for version in versions) == list(range(1, 301))
    entries = await read_all(bench, Position(RecordVersion(1, 0)))
    assert [entry.version.number for entry in entries] == list(range(1, 301))


async def test_a_position_of_another_history_is_refused_by_its_tag(bench: Bench):
    start = await bench.store.head()
    await put(bench, session("a"))
    (entry,) = await bench.store.changes(start, 10, 0.1)
    assert await bench.store.contains(entry.position)
    assert not await bench.store.contains(Position(entry.version, b"other"))
    with pytest.raises(WatchExpiredError):
        await bench.store.changes(Position(entry.version, b"other"), 10, 0.01)


@everywhere
async def test_history_is_trimmed_by_count_and_age_but_its_last_entry_stays(bench: Bench):
    for n in range(5):
        await put(bench, session(f"a{n}"))
    bench.clock.advance(100)
    for n in range(3):
        await put(bench, session(f"b{n}"))
    assert await bench.store.trim(7, 1000) == 1
    assert await bench.store.trim(100, 50) == 4
    with pytest.raises(WatchExpiredError):
        await bench.store.changes(Position(RecordVersion(1, 1)), 10, 0.01)
    assert len(await bench.store.changes(Position(RecordVersion(1, 6)), 10, 0.01)) == 2
    bench.clock.advance(100)
    assert await bench.store.trim(100, 50) == 2
    head = await bench.store.head()
    assert await bench.store.changes(head, 10, 0.01) == []


async def test_history_is_not_trimmed_below_a_running_snapshot(bench: Bench):
    for n in range(5):
        await put(bench, session(f"a{n}"))
    await bench.store.hold("snapshot", 60)
    assert await bench.store.trim(1, 1000) == 0
    await bench.store.release("snapshot")
    assert await bench.store.trim(1, 1000) == 4
    await put(bench, session("b"))
    await bench.store.hold("one that died", 60)
    bench.clock.advance(61)
    assert await bench.store.trim(1, 1000) == 1


@everywhere
async def test_a_snapshot_holds_the_live_records_serialized(bench: Bench):
    await put(bench, session("a", b"1"), session("b"), session("c", expires_at=bench.clock.now() + 5))
    await put(bench, Record(type="Session", id="b", deleted=True))
    bench.clock.advance(6)
    (page,) = [page async for page in bench.store.snapshot("Session", 10)]
    assert [record_of(databroker_pb2.Record.FromString(raw)).id for raw in page.records] == ["a"]
    assert record_of(databroker_pb2.Record.FromString(page.records[0])).data == b"1"


async def test_a_snapshot_of_many_records_comes_in_pages_and_can_be_left(bench: Bench):
    names = [f"s{number:03}" for number in range(230)]
    await put(bench, *map(session, names))
    pages = [page async for page in bench.store.snapshot("Session", 100)]
    found = [record_of(databroker_pb2.Record.FromString(raw)).id for page in pages for raw in page.records]
    assert found == names
    assert all(len(page.records) <= 100 for page in pages)
    async with aclosing(bench.store.snapshot("Session", 10)) as left:
        assert len((await anext(left)).records) == 10
    assert [page.records async for page in bench.store.snapshot("Grant", 10) if page.records] == []


@everywhere
async def test_heartbeats_are_heard_by_the_others(bench: Bench):
    await bench.store.beat("one", b"1")
    beat = await bench.store.beat("two", b"2")
    assert beat.peers == {"one": b"1", "two": b"2"}
    assert (await bench.store.beat("three", b"")).peers == beat.peers
    assert beat.head == await bench.store.head()


async def test_a_tombstone_has_a_version_and_a_missing_record_none(bench: Bench):
    assert await bench.store.stored_version("Session", "a") is None
    await put(bench, session("a"))
    assert await bench.store.stored_version("Session", "a") == (RecordVersion(1, 1), False)
    await put(bench, Record(type="Session", id="a", deleted=True))
    assert await bench.store.stored_version("Session", "a") == (RecordVersion(1, 2), True)
    await put(bench, session("a"), request="again")
    assert (await bench.store.get("Session", "a")).version == RecordVersion(1, 3)


async def test_the_first_to_end_are_swept_first(bench: Bench):
    now = bench.clock.now()
    await put(bench, session("late", expires_at=now + 30), session("soon", expires_at=now + 10), session("never"))
    assert await expired(bench, now + 100) == ["soon", "late"]
    assert await expired(bench, now + 100, 1) == ["soon"]
    await put(bench, session("soon"))
    assert await expired(bench, now + 100) == ["late"]


async def test_what_has_expired_is_told_with_the_version_that_did(bench: Bench):
    now = bench.clock.now()
    (version,) = await put(bench, session("a", expires_at=now + 10))
    assert await bench.store.expired("Session", now + 100, 10) == [Expired("a", version)]
    deletion = Write(record=Record(type="Session", id="a", deleted=True), expected=version)
    await put(bench, session("a", expires_at=now + 500), request="meanwhile")
    with pytest.raises(ConflictError):
        await bench.store.put([deletion], "sweep")
    assert await expired(bench, now + 100) == []


@pytest.mark.parametrize(
    "record",
    [
        Record(type="Nothing", id="a"),
        Record(type="Session", id=""),
        Record(type="Session", id="a b"),
        Record(type="Session", id="a\n"),
        Record(type="Session", id="x" * 257),
        Record(type="Session", id="ä"),
        Record(type="Session", id="a", data=bytes(1024 * 1024 + 1)),
        Record(type="Session", id="a", indexes={"email": ("x",)}),
        Record(type="SpentCode", id="a"),
    ],
    ids=["type", "empty-id", "blank", "newline", "long-id", "non-ascii", "oversize", "index", "no-end"],
)
async def test_what_may_not_be_stored_is_refused(bench: Bench, record: Record):
    with pytest.raises(InvalidArgumentError):
        await put(bench, record)


@pytest.mark.parametrize("ends", [-0.001, 253_402_300_800.0, 1e300, float("inf"), float("nan")])
async def test_an_end_that_no_clock_shows_is_refused_before_anything_is_written(bench: Bench, ends: float):
    await put(bench, session("a"))
    before = await bench.store.head()
    for record in (
        session("a", b"2", expires_at=ends),
        Record(type="Session", id="a", deleted=True, expires_at=ends),
        Record(type="SpentCode", id="c", expires_at=ends),
    ):
        with pytest.raises(InvalidArgumentError, match="Unix epoch"):
            await put(bench, session("b"), record)
    assert await bench.store.head() == before
    assert (await bench.store.get("Session", "a")).data == b"x"
    assert await bench.store.stored_version("Session", "b") is None
    assert await read_all(bench, before) == []


async def test_the_last_end_there_is_can_be_put_and_its_deletion_is_told(bench: Bench):
    start = await bench.store.head()
    await put(bench, session("a", expires_at=253_402_300_799.0))
    await put(bench, Record(type="SpentCode", id="c", expires_at=253_402_300_799.0))
    await put(bench, Record(type="Session", id="a", deleted=True))
    assert [[(r.id, r.deleted) for r in entry.records] for entry in await read_all(bench, start)] == [
        [("a", False)],
        [("a", True)],
    ]
    assert (await bench.store.stored_version("Session", "a")) == (RecordVersion(1, 2), True)
    assert (await bench.store.get("SpentCode", "c")).id == "c"


async def test_the_oldest_entry_is_the_first_until_it_is_trimmed(bench: Bench):
    assert await bench.store.oldest() is None
    for name in ("a", "b", "c"):
        await put(bench, session(name), session(f"{name}2"))
    assert await bench.store.oldest() == RecordVersion(1, 2)
    await bench.store.trim(1, 0)
    assert await bench.store.oldest() == RecordVersion(1, 6)
