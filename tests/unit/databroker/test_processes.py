"""Who is there: told by each process, shared by the databrokers, forgotten after silence."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.fake_clock import FakeClock

from doorward.api.process.v1.process_pb2 import Process
from doorward.errors import InvalidArgumentError
from doorward.rpc.planes import Plane
from doorward.runtime.reporter import behind
from doorward_databroker.processes import LIVE_SECONDS, ProcessTable, checked


def process(name: str = "a", plane: str = "authorize", sequence: int = 1, generation: str = "g1") -> Process:
    return Process(plane=plane, id=name, sequence=sequence, generation=generation)


def names(table: ProcessTable) -> list[str]:
    return [f"{item.plane}/{item.id}:{item.generation}" for item in table.live()]


def test_who_is_silent_is_forgotten():
    clock = FakeClock()
    table = ProcessTable(clock)
    table.report(process("a"))
    clock.advance(LIVE_SECONDS - 1)
    table.report(process("b", "proxy"))
    assert names(table) == ["authorize/a:g1", "proxy/b:g1"]
    clock.advance(1.5)
    assert names(table) == ["proxy/b:g1"]


def test_who_leaves_is_forgotten_at_once_whatever_others_still_say():
    clock = FakeClock()
    here, there = ProcessTable(clock), ProcessTable(clock)
    here.report(process("a"))
    there.merge(here.shared())
    here.leave("authorize", "a")
    here.merge(there.shared())
    assert names(here) == []


def test_databrokers_share_what_they_hear_and_age_goes_along():
    clock = FakeClock()
    here, there = ProcessTable(clock), ProcessTable(clock)
    here.report(process("a", sequence=1, generation="old"))
    there.report(process("a", sequence=2, generation="new"))
    there.merge(here.shared())
    assert names(there) == ["authorize/a:new"]
    here.merge(there.shared())
    assert names(here) == ["authorize/a:new"]
    clock.advance(2)
    third = ProcessTable(clock)
    third.merge(here.shared())
    clock.advance(2)
    assert names(third) == []


@pytest.mark.parametrize(
    "shared",
    [{"!": [0.0]}, {"AAAA": [0.0]}, {"": []}, {"": [0.0, 1.0]}, {"": None}],
    ids=["no base64", "no message", "no age", "two ages", "nothing"],
)
def test_what_no_databroker_says_is_refused(shared: dict[str, list[object]]):
    with pytest.raises((ValueError, TypeError)):
        ProcessTable(FakeClock()).merge(shared)


@given(st.dictionaries(st.text(), st.lists(st.one_of(st.floats(), st.text(), st.none()), max_size=2)))
def test_no_gossip_makes_a_process_that_never_reported(shared: dict[str, list[object]]):
    table = ProcessTable(FakeClock())
    with contextlib.suppress(ValueError):
        table.merge(shared)
    assert all(len(item.id) < 100 for item in table.live())


def test_a_process_is_of_the_plane_that_its_caller_is():
    """A proxy must not be able to say that the authorizers are ready."""
    assert checked(process(plane="authorize"), Plane.PROXY).plane == "proxy"
    for name in ("", "x" * 65, "a b", "a\n", "é"):
        with pytest.raises(InvalidArgumentError):
            checked(process(name), Plane.PROXY)
    with pytest.raises(InvalidArgumentError):
        checked(process(generation="x" * 501), Plane.PROXY)


def test_behind_names_who_does_not_run_a_generation_and_planes_without_processes():
    found = [process("a"), process("b", generation="g0"), process("c", "proxy", generation="g0")]
    assert behind(found, ["authorize", "authenticate"], "g1") == ["authorize/b", "authenticate"]
    assert behind(found, ["proxy"], "g0") == []
    assert behind([], ["proxy"], "g0") == ["proxy"]
