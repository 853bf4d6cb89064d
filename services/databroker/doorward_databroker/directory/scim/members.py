"""What SCIM's resources mean for policy: directory people and groups, kept up to date change by change.

The same rules as for a directory that is read (``doorward_databroker.directory.plan``): one entry for each joining value, groups by
numbers that are never given twice, nothing known where two entries or two groups could be taken for each other.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from doorward.config.directory_settings import DirectorySettings
from doorward.identity.directory import (
    GROUP_TYPE,
    STATE_TYPE,
    USER_TYPE,
    DirectoryGroup,
    DirectoryState,
    DirectoryUser,
    directory_group_id,
    directory_user_id,
)
from doorward.records.record import Record, Write
from doorward_databroker.directory.plan import Stored, gone, only_loses


@dataclass(frozen=True, slots=True)
class PushedPerson:
    """A user resource, as far as policy is concerned."""

    join_value: str
    active: bool
    display_name: str
    email: str


@dataclass(slots=True)
class PushedGroup:
    """A group resource, as far as policy is concerned."""

    name: str
    number: int
    people: tuple[str, ...] = ()
    """Resource ids of users; as a set they would take ten times as much."""
    children: set[str] = field(default_factory=set)
    """Resource ids of groups."""


@dataclass(slots=True)
class Changes:
    """What has to be written, and who stops counting."""

    first: list[Write] = field(default_factory=list)
    """What takes something away from somebody: written before ``writes``."""
    writes: list[Write] = field(default_factory=list)
    inactive: list[str] = field(default_factory=list)


class Members:
    """The whole of one directory that pushes. Concurrency: one change at a time."""

    def __init__(self, settings: DirectorySettings, state: DirectoryState) -> None:
        self._settings = settings
        self.state = state
        self.people: dict[str, PushedPerson] = {}
        self.groups: dict[str, PushedGroup] = {}
        self.stored: dict[str, bytes] = {}
        """Payloads of ``DirectoryUser`` records, as written."""
        self._by_join: dict[str, tuple[str, ...]] = {}
        self._groups_of: dict[str, tuple[str, ...]] = {}
        """Groups that name somebody; a set would take six times as much."""
        self._parents: dict[str, set[str]] = defaultdict(set)
        self._callings: Counter[str] = Counter()
        self._shared: set[str] = set()
        """Callings of more than one group."""
        self._touched: set[str] = set()
        """Resource ids of people whose entry may have changed."""
        self._lost: set[str] = set()
        """Joining values that somebody has given up."""
        self._group_writes: dict[str, Write] = {}

    def new_number(self) -> int:
        """A number that no group has had."""
        number = self.state.next_group_number
        self.state = replace(self.state, next_group_number=number + 1)
        return number

    def set_person(self, person_id: str, person: PushedPerson) -> None:
        """A user resource is new or has changed."""
        self._forget_join(person_id)
        self.people[person_id] = person
        joined = self._by_join[person.join_value] = (*self._by_join.get(person.join_value, ()), person_id)
        self._touched.update(joined)

    def remove_person(self, person_id: str) -> set[str]:
        """A user resource is gone; the groups that it was in."""
        self._forget_join(person_id)
        self.people.pop(person_id, None)
        groups = set(self._groups_of.pop(person_id, ()))
        for group_id in groups:
            group = self.groups[group_id]
            group.people = tuple(one for one in group.people if one != person_id)
        return groups

    def groups_of(self, person_id: str) -> tuple[str, ...]:
        """The groups that name somebody themselves."""
        return self._groups_of.get(person_id, ())

    def set_group(self, group_id: str, name: str, number: int, people: Iterable[str], children: Iterable[str]) -> None:
        """A group resource is new or has changed."""
        before = self.groups.get(group_id)
        new_people = {person_id for person_id in people if person_id in self.people}
        group = PushedGroup(name, number, tuple(new_people), set(children) - {group_id})
        old_people = set(before.people) if before is not None else set()
        old_children = before.children if before is not None else set()
        old_callings = self._called(group_id, before)
        new_callings = self._called(group_id, group)
        self.groups[group_id] = group
        for person_id in old_people - new_people:
            self._leave(person_id, group_id)
        for person_id in new_people - old_people:
            self._groups_of[person_id] = (*self._groups_of.get(person_id, ()), group_id)
        for child in old_children - group.children:
            self._touched |= self._everybody_in(child)
            self._parents[child].discard(group_id)
        for child in group.children - old_children:
            self._parents[child].add(group_id)
            self._touched |= self._everybody_in(child)
        self._touched |= old_people ^ new_people
        if old_callings != new_callings or before is None:
            self._count(old_callings, -1)
            self._count(new_callings, 1)
            self._touched |= self._everybody_in(group_id)
            self._touch_callers(old_callings, new_callings)
            self._group_writes[group_id] = Write(
                record=Record(
                    type=GROUP_TYPE,
                    id=directory_group_id(self._settings.id, number),
                    data=self._group_data(group_id, group),
                )
            )

    def remove_group(self, group_id: str) -> None:
        """A group resource is gone."""
        group = self.groups.get(group_id)
        if group is None:
            return
        self._touched |= self._everybody_in(group_id)
        callings = self._called(group_id, group)
        for person_id in group.people:
            self._leave(person_id, group_id)
        for child in group.children:
            self._parents[child].discard(group_id)
        for parent in self._parents.pop(group_id, set()):
            self.groups[parent].children.discard(group_id)
        del self.groups[group_id]
        self._count(callings, -1)
        self._touch_callers(callings, set())
        record_id = directory_group_id(self._settings.id, group.number)
        self._group_writes[group_id] = Write(record=Record(type=GROUP_TYPE, id=record_id, deleted=True))

    def changes(self, now: float) -> Changes:
        """What the changes since the last call mean for the records: groups first, then people, then what is gone."""
        made = Changes()
        made.writes += [write for write in self._group_writes.values() if not write.record.deleted]
        for person_id in sorted(self._touched):
            person = self.people.get(person_id)
            if person is not None and person.join_value:
                self._put(self._entry(person.join_value), made)
        for value in sorted(self._lost):
            if value and not self._by_join.get(value):
                self._put_gone(self._entry_id(value), made)
            elif value:
                self._put(self._entry(value), made)
        made.writes += [write for write in self._group_writes.values() if write.record.deleted]
        self._touched.clear()
        self._lost.clear()
        self._group_writes.clear()
        names = sorted(self._shared)
        self.state = replace(
            self.state,
            synchronised_at=now,
            users=len(self.people),
            groups=len(self.groups),
            ambiguous=tuple(names[:100]),
        )
        made.writes.append(Write(record=Record(type=STATE_TYPE, id=self._settings.id, data=self.state.to_bytes())))
        return made

    def compare_with(self, stored: Stored, now: float) -> Changes:
        """What is recorded otherwise than it should be: a write may have ended in the middle, settings may have changed.

        Called once, when everything is set. Nothing is fresher for it, so the time of the last change stays.
        """
        self.stored = stored.people
        made = self.changes(now)
        known = {directory_group_id(self._settings.id, item.number): item for item in stored.groups.values()}
        damaged = {directory_group_id(self._settings.id, number) for number in stored.damaged_groups}
        wanted = {directory_group_id(self._settings.id, item.number) for item in self.groups.values()}
        present = {self._entry_id(value) for value, ids in self._by_join.items() if value and ids}
        made.writes = [
            write
            for write in made.writes[:-1]
            if write.record.id not in known or write.record.data != known[write.record.id].to_bytes()
        ]
        for record_id in [record_id for record_id in self.stored if record_id not in present]:
            self._put_gone(record_id, made)
        made.writes += [
            Write(record=Record(type=GROUP_TYPE, id=record_id, deleted=True))
            for record_id in (known.keys() | damaged) - wanted
        ]
        self.state = replace(self.state, synchronised_at=stored.state.synchronised_at)
        if self.state != stored.state:
            made.writes.append(Write(record=Record(type=STATE_TYPE, id=self._settings.id, data=self.state.to_bytes())))
        return made

    def _leave(self, person_id: str, group_id: str) -> None:
        rest = tuple(one for one in self._groups_of.get(person_id, ()) if one != group_id)
        if rest:
            self._groups_of[person_id] = rest
        else:
            self._groups_of.pop(person_id, None)

    def _count(self, callings: set[str], more: int) -> None:
        for name in callings:
            self._callings[name] += more
            if self._callings[name] > 1:
                self._shared.add(name)
            else:
                self._shared.discard(name)
                if not self._callings[name]:
                    del self._callings[name]

    def _entry_id(self, join_value: str) -> str:
        return directory_user_id(self._settings.id, self._settings.join, join_value)

    def _put(self, entry: DirectoryUser, made: Changes) -> None:
        self._put_at(self._entry_id(entry.join_value), entry, made)

    def _put_at(self, record_id: str, entry: DirectoryUser, made: Changes) -> None:
        data = entry.to_bytes()
        before = self.stored.get(record_id)
        if before == data:
            return
        self.stored[record_id] = data
        write = Write(record=Record(type=USER_TYPE, id=record_id, data=data))
        (made.first if only_loses(entry, before) else made.writes).append(write)
        if not entry.active and (before is None or DirectoryUser.from_bytes(before).active):
            made.inactive.append(record_id)

    def _put_gone(self, record_id: str, made: Changes) -> None:
        before = self.stored.get(record_id)
        if before is None:
            return
        self._put_at(record_id, gone(DirectoryUser.from_bytes(before)), made)

    def _entry(self, join_value: str) -> DirectoryUser:
        """The entry of everybody who joins by this value; of two nobody knows the groups."""
        ids = sorted(self._by_join[join_value])
        people = [self.people[person_id] for person_id in ids]
        groups = self._all_groups(ids[0])
        known = len(ids) == 1 and not any(
            self._callings[name] > 1 for group_id in groups for name in self._called(group_id, self.groups[group_id])
        )
        return DirectoryUser(
            directory_id=self._settings.id,
            entry_id=ids[0],
            join_value=join_value,
            group_numbers=tuple(sorted(self.groups[group_id].number for group_id in groups)) if known else (),
            groups_known=known,
            active=any(person.active for person in people),
            display_name=people[0].display_name[:320],
            email=people[0].email[:320],
        )

    def _all_groups(self, person_id: str) -> set[str]:
        """Groups that somebody is in, directly or through others, however deep."""
        found = set(self._groups_of.get(person_id, ()))
        waiting = list(found)
        while waiting:
            for parent in self._parents.get(waiting.pop(), ()):
                if parent not in found and parent in self.groups:
                    found.add(parent)
                    waiting.append(parent)
        return found

    def _everybody_in(self, group_id: str) -> set[str]:
        """People in a group and in the groups inside it."""
        found: set[str] = set()
        seen, waiting = {group_id}, [group_id]
        while waiting:
            group = self.groups.get(waiting.pop())
            if group is None:
                continue
            found.update(group.people)
            waiting += [child for child in group.children if child not in seen]
            seen |= group.children
        return found

    def _touch_callers(self, old: set[str], new: set[str]) -> None:
        """Look again at the people of other groups that a name is, or was until now, shared with."""
        shared = {name for name in old | new if self._callings[name] > 1}
        shared |= {name for name in old - new if self._callings[name] == 1}
        if not shared:
            return
        for group_id, group in self.groups.items():
            if not shared.isdisjoint(self._called(group_id, group)):
                self._touched |= self._everybody_in(group_id)

    def _called(self, group_id: str, group: PushedGroup | None) -> set[str]:
        if group is None:
            return set()
        # As it is stored: names that differ further on only are one to whoever reads them.
        return {group_id, group.name[:320] if self._settings.group_names else ""} - {""}

    def _group_data(self, group_id: str, group: PushedGroup) -> bytes:
        return DirectoryGroup(
            directory_id=self._settings.id,
            group_id=group_id,
            number=group.number,
            name=group.name[:320] if self._settings.group_names else "",
        ).to_bytes()

    def _forget_join(self, person_id: str) -> None:
        before = self.people.get(person_id)
        if before is None:
            return
        rest = tuple(one for one in self._by_join[before.join_value] if one != person_id)
        self._touched.update(rest)
        if rest:
            self._by_join[before.join_value] = rest
        else:
            del self._by_join[before.join_value]
        self._lost.add(before.join_value)
