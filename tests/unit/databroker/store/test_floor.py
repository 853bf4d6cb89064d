"""Versions that were read in the feed, against what the store shows later."""

import pytest

from doorward.records.record import NO_VERSION, Damaged, Record, RecordVersion
from doorward_databroker.store import floor as module
from doorward_databroker.store.floor import Floor, Row
from doorward_databroker.store.port import FeedEntry


class Known:
    def __init__(self) -> None:
        self.newest: RecordVersion | None = None
        self.floor = Floor(lambda: self.newest)

    def read(self, number: int, name: str = "a", epoch: int = 1) -> None:
        version = RecordVersion(epoch, number)
        self.newest = max(version, self.newest or version)
        self.floor.note([FeedEntry(version, (Record(type="Session", id=name, version=version),))])

    def shown(self, version: bytes | None, seen: RecordVersion | None = None) -> Row:
        rows: list[Row] = [(version, b"0", b"sealed")]
        return self.floor.checked("Session", ["a"], rows, self.floor.seen if seen is None else seen)[0]


@pytest.mark.parametrize(
    ("version", "opens"), [(b"1.4", False), (b"x", False), (b"1.5", True), (b"1.6", True), (None, True)]
)
def test_what_is_older_than_what_was_read_does_not_open(version: bytes | None, opens: bool):
    known = Known()
    known.read(5)
    assert known.shown(version)[2] == (b"sealed" if opens else b"")


def test_what_was_asked_for_before_the_change_was_read_may_be_older():
    """The answer was on its way: it is no sign of anything."""
    known = Known()
    known.read(4, "b")
    seen = known.floor.seen
    known.read(5)
    assert known.shown(b"1.1", seen)[2] == b"sealed"
    assert known.shown(b"1.1")[2] == b""


def test_in_a_new_epoch_history_may_have_been_lost():
    known = Known()
    known.read(5)
    known.newest = RecordVersion(2, 0)
    assert known.shown(b"1.1")[2] == b"sealed"
    known.read(1, "b", epoch=2)
    assert known.shown(b"1.1")[2] == b"sealed"


def test_what_does_not_open_counts_by_its_name_and_what_is_read_again_does_not():
    known = Known()
    version = RecordVersion(1, 7)
    known.newest = version
    known.floor.note([FeedEntry(version, (), damaged=(Damaged("Session", "a", version, "no key"),))])
    known.read(5)
    assert known.floor.seen == version
    assert known.shown(b"1.6")[2] == b""


def test_nothing_is_known_at_first():
    known = Known()
    assert known.floor.seen == NO_VERSION
    assert known.shown(b"1.1")[2] == b"sealed"


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "LIMIT_RECORDS", 2)
    known = Known()
    for number, name in enumerate(("a", "b", "a", "c"), 1):
        known.read(number, name)
    assert known.shown(b"1.1")[2] == b""
    known.read(5, "d")
    assert known.shown(b"1.1")[2] == b"sealed"
