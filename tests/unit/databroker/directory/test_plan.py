"""What is written: only what differs, in an order that never lies, and never because something broke."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.databroker.directory.builders import roster, settings

from doorward.identity.directory import DirectoryUser, directory_user_id
from doorward_databroker.directory.plan import BATCH, Plan, Stored, make_plan
from doorward_databroker.directory.port import RemovalsRefusedError
from doorward_databroker.directory.roster import Roster

NOW = 1_800_000_000.0


def plan(made: Roster, stored: Stored | None = None, *, accept: bool = True, **changes: object) -> Plan:
    return make_plan(settings(**changes), made, stored or Stored(), NOW, accept_removals=accept)


def groups_of(stored: Stored, person: str) -> set[str] | None:
    """The group ids that the records give somebody, as an authorizer would read them."""
    data = stored.people.get(directory_user_id("corp", "sub", person))
    if data is None:
        return None
    entry = DirectoryUser.from_bytes(data)
    if not entry.groups_known:
        return None
    by_number = {group.number: group.group_id for group in stored.groups.values()}
    return {by_number[number] for number in entry.group_numbers}


def test_a_second_run_writes_nothing_but_that_it_was_made():
    first = plan(roster({"alice": ["a", "b"], "bob": []}))
    again = plan(roster({"alice": ["a", "b"], "bob": []}), first.after)
    assert [write.record.type for write in again.writes] == ["DirectoryState"]


def test_groups_come_before_who_is_in_them_and_go_after():
    first = plan(roster({"alice": ["a"]}))
    assert [w.record.type for w in first.writes] == [
        "DirectoryState", "DirectoryGroup", "DirectoryUser", "DirectoryState",
    ]  # fmt: skip
    second = plan(roster({"alice": ["b"]}), first.after)
    kinds = [(w.record.type, w.record.deleted) for w in second.writes]
    assert kinds == [
        ("DirectoryState", False), ("DirectoryGroup", False), ("DirectoryUser", False), ("DirectoryGroup", True),
        ("DirectoryState", False),
    ]  # fmt: skip


def test_a_number_is_never_given_to_another_group():
    """An entry that was not rewritten yet would otherwise be in the new group."""
    first = plan(roster({"alice": ["a"]}))
    second = plan(roster({"alice": []}, {}), first.after)
    third = plan(roster({"alice": ["b"]}), second.after)
    assert third.after.groups["b"].number != first.after.groups["a"].number


def test_nested_groups_count_and_circles_end():
    made = roster({"alice": ["leaf"], "bob": []}, {"leaf": "Leaf", "mid": "Mid", "top": "Top", "other": "Other"})
    for group, child in (("mid", "leaf"), ("top", "mid"), ("leaf", "top"), ("top", "missing"), ("other", "other")):
        made.nested(group, child)
    after = plan(made).after
    assert groups_of(after, "alice") == {"leaf", "mid", "top"}
    assert groups_of(after, "bob") == set()


def test_two_entries_that_join_alike_have_no_known_groups():
    made = Roster()
    made.group("a", name="A")
    for entry in ("one", "two"):
        made.person(entry, join_value="same")
        made.member("a", entry)
    made.person("three", join_value="")
    after = plan(made).after
    assert groups_of(after, "same") is None
    assert len(after.people) == 1


@pytest.mark.parametrize(
    ("groups", "known"),
    [
        ({"a": "Admins", "b": "Admins"}, False),
        ({"a": "b", "b": "Boys"}, False),
        ({"a": "Admins", "b": "Boys"}, True),
        ({"a": "a", "b": "b"}, True),
    ],
)
def test_a_group_that_takes_anothers_name_is_taken_for_neither(groups: Mapping[str, str], known: bool):
    """Where people make groups themselves, one called `Admins` must not open what is meant for the other."""
    after = plan(roster({"alice": ["a"], "mallory": ["b"], "carol": []}, dict(groups))).after
    assert (groups_of(after, "mallory") is not None) == known
    assert (groups_of(after, "alice") is not None) == known
    assert groups_of(after, "carol") == set()
    assert bool(after.state.ambiguous) != known


def test_a_group_takes_anothers_name_after_its_people_have_stopped_counting():
    """Between two puts, or when the second fails, they would be in the group whose name it took."""
    names = {"a": "Admins", "m": "Mine"}
    first = plan(roster({"alice": ["a"], "mallory": ["m"], "eve": ["m"]}, names))
    second = plan(roster({"alice": ["a"], "mallory": ["m"], "eve": []}, {"a": "Admins", "m": "Admins"}), first.after)
    assert [write.record.type for write in second.writes] == [
        *["DirectoryUser"] * 3,
        "DirectoryGroup",
        "DirectoryState",
    ]


def test_names_that_do_not_count_collide_with_nothing():
    after = plan(roster({"alice": ["a"]}, {"a": "Admins", "b": "Admins"}), group_names=False).after
    assert groups_of(after, "alice") == {"a"}
    assert [group.name for group in after.groups.values()] == ["", ""]


def test_s66_whoever_vanishes_stays_shut_out_for_good_and_loses_sessions_once():
    first = plan(roster({"alice": ["a"], "bob": ["a"]}))
    second = plan(roster({"alice": ["a"]}), first.after)
    (gone,) = second.inactive
    entry = DirectoryUser.from_bytes(second.after.people[gone])
    assert (entry.active, entry.removed, entry.group_numbers) == (False, True, ())
    # Without an end, so that nobody becomes one of whom the directory has never heard; and without anything about the person.
    (write,) = [write for write in second.writes if write.record.id == gone]
    assert write.record.expires_at is None
    assert (entry.display_name, entry.email, entry.join_value) == ("", "", "")
    third = plan(roster({"alice": ["a"]}), second.after)
    assert (third.inactive, len(third.writes)) == ([], 1)
    back = plan(roster({"alice": ["a"], "bob": ["a"]}), third.after)
    assert groups_of(back.after, "bob") == {"a"}


def test_an_older_version_s_entry_of_somebody_who_left_is_written_anew_without_an_end():
    first = plan(roster({"alice": ["a"], "bob": ["a"]}))
    (record_id,) = plan(roster({"alice": ["a"]}), first.after).inactive
    old = replace(DirectoryUser.from_bytes(first.after.people[record_id]), active=False, removed=True)
    first.after.people[record_id] = old.to_bytes()
    made = plan(roster({"alice": ["a"]}), first.after)
    assert made.inactive == []
    (write,) = [write for write in made.writes if write.record.id == record_id]
    assert (write.record.expires_at, DirectoryUser.from_bytes(write.record.data).display_name) == (None, "")


def test_whoever_is_disabled_loses_sessions():
    first = plan(roster({"alice": ["a"], "bob": []}))
    second = plan(roster({"alice": ["a"], "bob": []}, inactive=frozenset({"alice"})), first.after)
    assert second.inactive == [directory_user_id("corp", "sub", "alice")]


@pytest.mark.parametrize(
    "broken",
    [
        roster({}),
        roster({f"u{n}": [] for n in range(100)}, {}),
        roster({f"u{n}": [] for n in range(100)}, {f"g{n}": f"G{n}" for n in range(20)}),
        roster({f"u{n}": [f"g{n % 20}"] for n in range(70)}),
        roster({f"u{n}": [f"g{n % 20}"] for n in range(100)}, inactive=frozenset(f"u{n}" for n in range(30))),
    ],
    ids=["nobody", "no groups", "empty groups", "a third missing", "a third disabled"],
)
def test_an_answer_that_would_empty_the_directory_is_not_believed(broken: Roster):
    """A filter with a typing mistake must not sign a company out, nor free it of the groups that it is denied for."""
    first = plan(roster({f"u{n}": [f"g{n % 20}"] for n in range(100)}))
    with pytest.raises(RemovalsRefusedError, match="--accept-removals"):
        plan(broken, first.after, accept=False)
    assert plan(broken, first.after).writes


def test_a_few_may_always_go():
    first = plan(roster({f"u{n}": ["g"] for n in range(12)}))
    assert len(plan(roster({f"u{n}": ["g"] for n in range(3)}), first.after, accept=False).inactive) == 9


def test_batches_hold_no_more_than_one_put_takes():
    made = plan(roster({f"u{n}": ["g"] for n in range(1000)}))
    sizes = [len(batch) for batch in made.batches()]
    assert sum(sizes) == len(made.writes)
    assert max(sizes) == BATCH


NAMES = st.sampled_from("abcdefg")
ROSTERS = st.dictionaries(st.sampled_from([f"u{n}" for n in range(6)]), st.lists(NAMES, unique=True), max_size=6)


@given(st.lists(ROSTERS, min_size=1, max_size=5))
def test_after_any_history_the_records_say_what_the_directory_says(history: list[dict[str, list[str]]]):
    """By differences, through every way that people and groups come and go."""
    stored = Stored()
    written: dict[tuple[str, str], bytes] = {}
    for people in history:
        made = plan(roster(people), stored)
        stored = made.after
        for write in made.writes:
            key = (write.record.type, write.record.id)
            if write.record.deleted:
                written.pop(key, None)
            else:
                written[key] = write.record.data
    assert {key[1]: data for key, data in written.items() if key[0] == "DirectoryUser"} == stored.people
    last = history[-1]
    for name in {person for people in history for person in people}:
        assert groups_of(stored, name) == (set(last[name]) if name in last else None)
