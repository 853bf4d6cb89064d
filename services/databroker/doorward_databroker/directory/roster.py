"""Everything that a directory holds, in little memory: people and groups by number, memberships as arrays of numbers."""

from __future__ import annotations

from array import array
from collections import defaultdict
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Person:
    """One entry. Two with one ``join_value`` are told apart by nobody."""

    entry_id: str
    join_value: str
    """Empty when the entry lacks it: then nobody joins it."""
    active: bool
    display_name: str
    email: str


@dataclass(frozen=True, slots=True)
class Group:
    """One group."""

    group_id: str
    name: str
    email: str


@dataclass(slots=True)
class Roster:
    """Filled by a source, then read once. Members and nested groups that were never listed themselves do not count."""

    people: list[Person] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    _people_by_id: dict[str, int] = field(default_factory=dict)
    _groups_by_id: dict[str, int] = field(default_factory=dict)
    _members: dict[int, array[int]] = field(default_factory=dict)
    _nested: list[tuple[str, str]] = field(default_factory=list)

    def person(
        self, entry_id: str, *, join_value: str, active: bool = True, display_name: str = "", email: str = ""
    ) -> None:
        """Add somebody. Naming an entry again replaces it: a listing may show one twice while it changes."""
        person = Person(entry_id, join_value, active, display_name[:320], email[:320])
        known = self._people_by_id.get(entry_id)
        if known is not None:
            self.people[known] = person
            return
        self._people_by_id[entry_id] = len(self.people)
        self.people.append(person)

    def forget_people(self) -> None:
        """Begin the people again; nobody belongs to a group yet."""
        self.people.clear()
        self._people_by_id.clear()

    def group(self, group_id: str, *, name: str, email: str = "") -> None:
        """Add a group."""
        group = Group(group_id, name[:320], email[:320])
        known = self._groups_by_id.get(group_id)
        if known is not None:
            self.groups[known] = group
            return
        self._groups_by_id[group_id] = len(self.groups)
        self.groups.append(group)

    def has_person(self, entry_id: str) -> bool:
        """Whether somebody was listed."""
        return entry_id in self._people_by_id

    def member(self, group_id: str, entry_id: str) -> None:
        """Say that somebody belongs to a group. Both were listed before; who was not does not count."""
        group, person = self._groups_by_id.get(group_id), self._people_by_id.get(entry_id)
        if group is not None and person is not None:
            self._members.setdefault(group, array("I")).append(person)

    def nested(self, group_id: str, child_id: str) -> None:
        """Say that the members of ``child_id`` belong to ``group_id`` too; either may be listed later."""
        self._nested.append((group_id, child_id))

    def memberships(self) -> list[array[int]]:
        """For each person, in order, the positions of their groups: sorted, each once, nested ones included."""
        parents: dict[int, set[int]] = defaultdict(set)
        for group_id, child_id in self._nested:
            group, child = self._groups_by_id.get(group_id), self._groups_by_id.get(child_id)
            if group is not None and child is not None and group != child:
                parents[child].add(group)
        found = [array("I") for _ in self.people]
        for group, members in self._members.items():
            above = _above(group, parents)
            for person in set(members):
                found[person].extend(above)
        for position, numbers in enumerate(found):
            if len(numbers) > 1:
                found[position] = array("I", sorted(set(numbers)))
        return found


def _above(group: int, parents: dict[int, set[int]]) -> array[int]:
    """``group`` and all groups round it, however deep; circles end where they began."""
    seen, waiting = {group}, [group]
    while waiting:
        for parent in parents.get(waiting.pop(), ()):
            if parent not in seen:
                seen.add(parent)
                waiting.append(parent)
    return array("I", sorted(seen))
