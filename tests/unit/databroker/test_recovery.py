"""After lost history: what is put back, what ends, and that nothing else is touched."""

import secrets
from collections.abc import Sequence

import pytest
from tests.support.fake_clock import FakeClock
from tests.support.key_material import keyring

from doorward.errors import NotFoundError
from doorward.keys.store import Purpose
from doorward.records.record import Damaged, Record, RecordVersion, Write
from doorward_databroker.recovery import Window, mend
from doorward_databroker.store.codec import SealedCodec
from doorward_databroker.store.memory import MemoryStore
from doorward_databroker.store.port import FeedEntry, Position


def record(name: str, data: bytes = b"x", kind: str = "Session", *, deleted: bool = False) -> Record:
    return Record(type=kind, id=name, data=b"" if deleted else data, deleted=deleted)


class Lossy:
    """A store that was seen by a window, and then loses its newest puts."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.puts: list[Sequence[Record]] = []
        self.store = self._fresh()
        self.window = Window()
        self.seen = Position(RecordVersion(1, 0), b"begin")

    def _fresh(self) -> MemoryStore:
        return MemoryStore(self.clock, SealedCodec(keyring(Purpose.RECORDS)))

    async def put(self, *records: Record) -> None:
        self.puts.append(records)
        await self._write(records)

    async def _write(self, records: Sequence[Record]) -> None:
        await self.store.put([Write(record=one) for one in records], secrets.token_hex(8))

    async def read(self) -> None:
        while entries := await self.store.changes(self.seen, 100, 0.001):
            self.window.add(entries)
            self.seen = entries[-1].position

    async def lose(self, count: int) -> None:
        """The store again, without its last ``count`` puts."""
        kept, self.puts = self.puts[: len(self.puts) - count], []
        self.store = self._fresh()
        for records in kept:
            await self.put(*records)

    async def mend(self) -> bool:
        return await mend(self.store, self.window, self.seen, self.clock)

    async def live(self, kind: str = "Session") -> dict[str, bytes]:
        page = await self.store.page(kind, "", 100)
        return {one.id: one.data for one in page.records}


@pytest.fixture
def lossy() -> Lossy:
    return Lossy()


async def test_a_lost_deletion_and_a_lost_record_are_put_back(lossy: Lossy):
    await lossy.put(record("old"), record("gone"))
    await lossy.put(record("gone", deleted=True))
    await lossy.put(record("new", b"1"))
    await lossy.put(record("old", b"2"))
    await lossy.read()
    await lossy.lose(3)
    assert await lossy.live() == {"old": b"x", "gone": b"x"}
    assert await lossy.mend()
    assert await lossy.live() == {"old": b"2", "new": b"1"}
    assert (await lossy.store.head()).version.epoch == 2


async def test_what_another_history_wrote_since_is_kept_but_a_deletion_wins(lossy: Lossy):
    await lossy.put(record("a"), record("b"))
    await lossy.put(record("a", b"lost"), record("b", deleted=True))
    await lossy.read()
    await lossy.lose(1)
    await lossy._write([record("c", b"y")])
    await lossy._write([record("a", b"theirs"), record("b", b"theirs")])
    # The same numbers in another history have another tag.
    entries = lossy.store._feed
    for place in (-2, -1):
        when, entry = entries[place]
        entries[place] = (when, FeedEntry(entry.version, entry.records, b"other"))
    await lossy.mend()
    assert await lossy.live() == {"a": b"theirs", "c": b"y"}


async def test_nothing_was_lost_then_nothing_changes(lossy: Lossy):
    await lossy.put(record("a"))
    await lossy.read()
    assert await lossy.mend()
    assert await lossy.live() == {"a": b"x"}
    assert (await lossy.store.get("Session", "a")).version == RecordVersion(1, 1)


async def test_mending_twice_changes_nothing_more(lossy: Lossy):
    await lossy.put(record("a"))
    await lossy.put(record("b"))
    await lossy.read()
    await lossy.lose(1)
    await lossy.mend()
    head = await lossy.store.head()
    await lossy.mend()
    assert (await lossy.store.head()).version == head.version


async def test_when_nobody_knows_what_was_lost_sessions_end_and_users_stay(lossy: Lossy):
    """One of the lost writes may have been a sign-out."""
    await lossy.put(record("s1"), record("u1", kind="User"))
    await lossy.put(record("s2"))
    await lossy.read()
    lossy.window = Window()  # a databroker that has just been started
    await lossy.lose(1)
    assert not await lossy.mend()
    assert await lossy.live() == {}
    assert await lossy.live("User") == {"u1": b"x"}


async def test_what_a_watcher_knows_and_the_store_does_not_counts_as_lost(lossy: Lossy):
    await lossy.put(record("s1"))
    await lossy.read()
    lossy.window.witness(Position(RecordVersion(1, 9), b"theirs"))
    assert not await lossy.mend()
    assert await lossy.live() == {}
    assert (await lossy.store.head()).version.epoch == 2


async def test_sessions_written_after_the_loss_stay(lossy: Lossy):
    await lossy.put(record("s1"))
    await lossy.read()
    lossy.window.witness(Position(RecordVersion(1, 9), b"theirs"))
    await lossy.store.recover(RecordVersion(1, 9))
    await lossy.put(record("s2"))
    await lossy.mend()
    assert await lossy.live() == {"s2": b"x"}


async def test_what_has_expired_is_not_put_back(lossy: Lossy):
    await lossy.put(record("base"))
    await lossy.put(Record(type="Session", id="short", data=b"x", expires_at=lossy.clock.now() + 5))
    await lossy.read()
    await lossy.lose(1)
    lossy.clock.advance(6)
    await lossy.mend()
    with pytest.raises(NotFoundError):
        await lossy.store.get("Session", "short")
    assert await lossy.store.stored_version("Session", "short") is None


def test_the_window_is_bounded_in_records_and_bytes():
    window = Window()
    for number in range(10_500):
        window.add([FeedEntry(RecordVersion(1, number), (record(str(number)),), b"t")])
    assert len(window.entries) == 10_000
    for number in range(100):
        window.add([FeedEntry(RecordVersion(2, number), (record("b", bytes(1024 * 1024)),), b"t")])
    assert sum(len(one.data) for entry in window.entries for one in entry.records) <= 16 * 1024 * 1024


@pytest.mark.parametrize("is_cured", [False, True])
async def test_a_lost_change_that_could_not_be_read_may_have_been_a_sign_out(lossy: Lossy, is_cured: bool):
    """It cannot be put back, so sessions end, unless what was written over it is known."""
    await lossy.put(record("in"))
    await lossy.read()
    await lossy.put(record("in", deleted=True))
    (entry,) = await lossy.store.changes(lossy.seen, 10, 0.001)
    not_held = Damaged("Session", "in", entry.version, "its key is not held")
    lossy.window.add([FeedEntry(entry.version, (), entry.tag, (not_held,))])
    lossy.seen = entry.position
    if is_cured:
        await lossy.put(record("in", b"2"))
        await lossy.read()
    await lossy.lose(1 + is_cured)
    assert await lossy.mend() == is_cured
    assert await lossy.live() == ({"in": b"2"} if is_cured else {})


async def test_a_lost_change_that_named_no_record_ends_sessions(lossy: Lossy):
    await lossy.put(record("in"))
    await lossy.read()
    await lossy.put(record("other", deleted=True))
    (entry,) = await lossy.store.changes(lossy.seen, 10, 0.001)
    lossy.window.add([FeedEntry(entry.version, (), entry.tag, unreadable=frozenset({"Session"}))])
    lossy.seen = entry.position
    await lossy.lose(1)
    assert not await lossy.mend()
    assert await lossy.live() == {}
