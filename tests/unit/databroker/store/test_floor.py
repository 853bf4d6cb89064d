"""Versions that were read in the feed, against what the store shows later."""

import pytest

from doorward.errors import WatchExpiredError
from doorward.records.record import NO_VERSION, Damaged, Record, RecordVersion
from doorward_databroker.store import floor as module
from doorward_databroker.store.floor import GONE_BACK, Floor, Row
from doorward_databroker.store.port import FeedEntry


def entry(number: int, name: str, epoch: int = 1) -> FeedEntry:
    version = RecordVersion(epoch, number)
    return FeedEntry(version, (Record(type="Session", id=name, version=version),))


class Known:
    def __init__(self) -> None:
        self.feed: list[FeedEntry] = []
        """What can be read of the feed later; ``read`` gives two at once."""
        self.floor = Floor(self.read_later)

    async def read_later(self, after: RecordVersion, until: RecordVersion) -> list[FeedEntry]:
        found = [one for one in self.feed if after < one.version <= until][:2]
        if any(one.unreadable for one in found):
            raise WatchExpiredError("nobody can")
        return found

    def read(self, number: int, name: str = "a", epoch: int = 1) -> None:
        self.floor.note([entry(number, name, epoch)])

    def shown(self, version: bytes | None, seen: RecordVersion | None = None) -> Row:
        rows: list[Row] = [(version, b"0", b"sealed")]
        return self.floor.checked("Session", ["a"], rows, self.floor.seen if seen is None else seen)[0]


@pytest.mark.parametrize(
    ("version", "opens"), [(b"1.4", False), (b"x", False), (b"1.5", True), (b"1.6", True), (None, True)]
)
def test_what_is_older_than_what_was_read_does_not_open(version: bytes | None, opens: bool):
    known = Known()
    known.read(5)
    assert known.shown(version)[2] == (b"sealed" if opens else GONE_BACK + b"1.5")


def test_what_was_asked_for_before_the_change_was_read_may_be_older():
    """The answer was on its way: it is no sign of anything."""
    known = Known()
    known.read(4, "b")
    seen = known.floor.seen
    known.read(5)
    assert known.shown(b"1.1", seen)[2] == b"sealed"
    assert known.shown(b"1.1")[2] == GONE_BACK + b"1.5"


@pytest.mark.parametrize(("common", "counts"), [((1, 4), False), ((1, 5), True), ((1, 9), True), (None, False)])
def test_in_a_new_epoch_what_was_read_counts_as_far_as_it_is_the_same_history(
    common: tuple[int, int] | None, counts: bool
):
    known = Known()
    known.read(5)
    known.read(7, "b")
    asked = known.floor.seen
    for _ in range(2):  # what fails half way is done again
        known.floor.begin(2, None if common is None else RecordVersion(*common))
        assert known.shown(b"1.4")[2] == (GONE_BACK + b"1.5" if counts else b"sealed")
        assert known.shown(b"1.4", asked)[2] == b"sealed", "it was asked for in the one before"
    known.read(1, "b", epoch=2)
    assert known.shown(b"1.4")[2] == (GONE_BACK + b"1.5" if counts else b"sealed")


def test_an_epoch_of_which_nobody_has_told_says_nothing_of_the_one_before():
    known = Known()
    known.read(5)
    known.read(1, "b", epoch=2)
    assert known.shown(b"1.1")[2] == b"sealed"


async def test_what_a_new_epoch_began_with_is_read_where_the_feed_is_followed_from_behind_that():
    known = Known()
    known.read(5, "b")
    known.floor.begin(2, RecordVersion(1, 5))
    known.feed = [entry(1, "x", 2), entry(2, "a", 2), entry(3, "x", 2), entry(4, "a", 2)]
    await known.floor.follow_up(RecordVersion(2, 3))
    assert known.floor.seen == RecordVersion(2, 3)
    assert known.shown(b"2.1")[2] == GONE_BACK + b"2.2"
    assert known.shown(b"2.2")[2] == b"sealed"


@pytest.mark.parametrize("left", [[], [FeedEntry(RecordVersion(2, 2), (), unreadable=frozenset({"Session"}))]])
async def test_what_cannot_be_read_later_is_left_out(left: list[FeedEntry]):
    known = Known()
    known.floor.begin(2, None)
    known.feed = left
    await known.floor.follow_up(RecordVersion(2, 3))
    assert known.floor.seen == RecordVersion(2, 3)


async def test_who_has_read_nothing_does_not_look_at_all_there_is():
    known = Known()
    known.feed = [entry(1, "a")]
    await known.floor.follow_up(RecordVersion(1, 1))
    assert known.shown(b"1.0")[2] == b"sealed"


@pytest.mark.parametrize("how", ["damaged", "spoiled"])
def test_what_does_not_open_counts_by_its_name_and_what_is_read_again_does_not(how: str):
    known = Known()
    version = RecordVersion(1, 7)
    one = (Damaged("Session", "a", version, "no key"),)
    known.floor.note([FeedEntry(version, (), **{how: one})])  # type: ignore[arg-type]  # either takes it
    known.read(5)
    assert known.floor.seen == version
    assert known.shown(b"1.6")[2] == GONE_BACK + b"1.7"


def test_nothing_is_known_at_first():
    known = Known()
    assert known.floor.seen == NO_VERSION
    assert known.shown(b"1.1")[2] == b"sealed"


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "LIMIT_RECORDS", 2)
    known = Known()
    for number, name in enumerate(("a", "b", "a", "c"), 1):
        known.read(number, name)
    assert known.shown(b"1.1")[2] == GONE_BACK + b"1.3"
    known.read(5, "d")
    assert known.shown(b"1.1")[2] == b"sealed"
