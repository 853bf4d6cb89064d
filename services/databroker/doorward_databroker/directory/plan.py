"""What has to be written so that the records say what a directory says. Pure.

    roster + what is stored ─► people who lose ─► groups new or changed ─► people new or changed ─► groups gone ─► state

In this order a person's record never names a group that is not there yet, or is not there any more; and a group that takes
another one's name gets it when nobody counts as its member any more, should the rest never be written. A group keeps its number
for as long as it exists, and nobody gets that number afterwards.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
from doorward_databroker.directory.port import RemovalsRefusedError
from doorward_databroker.directory.roster import Group, Person, Roster
from doorward_databroker.store.contents import groups_of_entry

BATCH = 400
BATCH_MEMBERSHIPS = 8_000
"""Each is an index entry, of which one put takes so many; people in many groups make smaller batches."""
ALWAYS_REMOVABLE = 10
_AMBIGUOUS_LIMIT = 100


@dataclass(slots=True)
class Stored:
    """The records of one directory: payloads by record id, as the plan left them."""

    people: dict[str, bytes] = field(default_factory=dict)
    groups: dict[str, DirectoryGroup] = field(default_factory=dict)
    """By the directory's own group id."""
    damaged_groups: set[int] = field(default_factory=set)
    """Numbers of groups of which nothing else can be read."""
    state: DirectoryState = field(default_factory=DirectoryState)


@dataclass(slots=True)
class Plan:
    """What to write, and whose sessions end."""

    writes: list[Write] = field(default_factory=list)
    inactive: list[str] = field(default_factory=list)
    """Record ids of people who stop counting with this plan."""
    after: Stored = field(default_factory=Stored)

    def batches(self) -> Iterator[list[Write]]:
        """The writes in order, as many at once as one put takes; no record twice in one."""
        batch: list[Write] = []
        named: set[tuple[str, str]] = set()
        memberships = 0
        for write in self.writes:
            key = (write.record.type, write.record.id)
            more = len(groups_of_entry(write.record.data)) if write.record.type == USER_TYPE else 0
            if len(batch) == BATCH or key in named or (batch and memberships + more > BATCH_MEMBERSHIPS):
                yield batch
                batch, named, memberships = [], set(), 0
            batch.append(write)
            named.add(key)
            memberships += more
        if batch:
            yield batch


def make_plan(
    settings: DirectorySettings, roster: Roster, stored: Stored, now: float, *, accept_removals: bool = False
) -> Plan:
    """The plan for a roster that was read completely.

    Raises:
        RemovalsRefusedError: more would vanish than ``removal_limit`` allows, and nobody said that it is meant.
    """
    plan = Plan()
    ambiguous = _ambiguous_names(settings, roster.groups)
    numbers = _plan_groups(settings, roster.groups, stored, plan)
    people = _people(settings, roster, numbers, {number for number, names in ambiguous.items() if names})
    if not accept_removals:
        _refuse_mass_removal(settings, people, roster.groups, stored)
    _plan_people(people, stored, plan)
    _plan_removed_groups(settings, stored, plan)
    names = sorted({name for found in ambiguous.values() for name in found})
    plan.after.state = replace(
        plan.after.state,
        synchronised_at=now,
        users=len(people),
        groups=len(roster.groups),
        ambiguous=tuple(names[:_AMBIGUOUS_LIMIT]),
    )
    plan.writes.append(Write(record=Record(type=STATE_TYPE, id=settings.id, data=plan.after.state.to_bytes())))
    return plan


def _ambiguous_names(settings: DirectorySettings, groups: Sequence[Group]) -> dict[int, set[str]]:
    """For each group's position, the names of it that are another group's id, name or address too.

    Whoever may make a group must not be able to give it the name of another one and be taken for its member.
    """
    callings = [_callings(settings, group) for group in groups]
    counts = Counter(name for names in callings for name in names)
    return {position: {name for name in names if counts[name] > 1} for position, names in enumerate(callings)}


def _callings(settings: DirectorySettings, group: Group) -> set[str]:
    names = {group.group_id, group.email, group.name if settings.group_names else ""}
    return names - {""}


def _plan_groups(settings: DirectorySettings, groups: Sequence[Group], stored: Stored, plan: Plan) -> list[int]:
    """Writes for new and changed groups; the number of each group, by position."""
    next_number = stored.state.next_group_number
    numbers: list[int] = []
    for group in groups:
        known = stored.groups.get(group.group_id)
        if known is None:
            number, next_number = next_number, next_number + 1
        else:
            number = known.number
        numbers.append(number)
        wanted = DirectoryGroup(
            directory_id=settings.id,
            group_id=group.group_id,
            number=number,
            name=group.name if settings.group_names else "",
            email=group.email,
        )
        plan.after.groups[group.group_id] = wanted
        if wanted != known:
            record_id = directory_group_id(settings.id, number)
            plan.writes.append(Write(record=Record(type=GROUP_TYPE, id=record_id, data=wanted.to_bytes())))
    plan.after.state = replace(stored.state, next_group_number=next_number)
    if next_number != stored.state.next_group_number:
        # Stored first: after a crash in the middle no number may be given out twice.
        state = Write(record=Record(type=STATE_TYPE, id=settings.id, data=plan.after.state.to_bytes()))
        plan.writes.insert(0, state)
    return numbers


def _people(
    settings: DirectorySettings, roster: Roster, numbers: Sequence[int], ambiguous: set[int]
) -> dict[str, DirectoryUser]:
    """The wanted records by id; two entries that join alike become one whose groups are not known."""
    wanted: dict[str, DirectoryUser] = {}
    for person, positions in zip(roster.people, roster.memberships(), strict=True):
        if not person.join_value:
            continue
        record_id = directory_user_id(settings.id, settings.join, person.join_value)
        other = wanted.get(record_id)
        if other is not None:
            wanted[record_id] = replace(
                other, groups_known=False, group_numbers=(), active=other.active or person.active
            )
            continue
        known = ambiguous.isdisjoint(positions)
        group_numbers = tuple(sorted(numbers[position] for position in positions)) if known else ()
        wanted[record_id] = _directory_user(settings, person, group_numbers, groups_known=known)
    return wanted


def _directory_user(
    settings: DirectorySettings, person: Person, group_numbers: tuple[int, ...], *, groups_known: bool
) -> DirectoryUser:
    return DirectoryUser(
        directory_id=settings.id,
        entry_id=person.entry_id,
        join_value=person.join_value,
        group_numbers=group_numbers,
        groups_known=groups_known,
        active=person.active,
        display_name=person.display_name,
        email=person.email,
    )


def _plan_people(wanted: Mapping[str, DirectoryUser], stored: Stored, plan: Plan) -> None:
    """Writes for people who are new, changed or gone; those that take something away go before all others."""
    first: list[Write] = []
    for record_id, person in wanted.items():
        data = person.to_bytes()
        plan.after.people[record_id] = data
        known = stored.people.get(record_id)
        if data == known:
            continue
        write = Write(record=Record(type=USER_TYPE, id=record_id, data=data))
        (first if only_loses(person, known) else plan.writes).append(write)
        if not person.active and (known is None or DirectoryUser.from_bytes(known).active):
            plan.inactive.append(record_id)
    for record_id, data in stored.people.items():
        if record_id in wanted:
            continue
        person = DirectoryUser.from_bytes(data)
        plan.after.people[record_id] = gone(person).to_bytes()
        if plan.after.people[record_id] != data:
            first.append(Write(record=Record(type=USER_TYPE, id=record_id, data=plan.after.people[record_id])))
        if not person.removed:
            plan.inactive.append(record_id)
    plan.writes[:0] = first


def gone(person: DirectoryUser) -> DirectoryUser:
    """What stays of an entry that a directory does not have any more: that it is gone, and nothing about the person.

    It stays for good. Forgotten, it would make somebody who left one of whom the directory has never heard: no longer shut out.
    """
    return DirectoryUser(
        directory_id=person.directory_id,
        entry_id=person.entry_id,
        join_value="",
        group_numbers=(),
        groups_known=False,
        active=False,
        removed=True,
    )


def unreadable_person(directory_id: str) -> DirectoryUser:
    """Stands for an entry whose record does not open: it differs from whatever a directory says, and may have counted."""
    return DirectoryUser(
        directory_id=directory_id, entry_id="unreadable", join_value="", group_numbers=(), groups_known=False
    )


def unused_number(stored: Stored) -> int:
    """A group number that no record names, where the state that counts them is not there."""
    numbers = {group.number for group in stored.groups.values()} | stored.damaged_groups
    for data in stored.people.values():
        numbers.update(DirectoryUser.from_bytes(data).group_numbers)
    return max(numbers, default=0) + 1


def only_loses(person: DirectoryUser, before: bytes | None) -> bool:
    """Whether a changed entry names no group that its record did not name before."""
    if not person.groups_known:
        return True
    return before is not None and set(person.group_numbers) <= set(DirectoryUser.from_bytes(before).group_numbers)


def _plan_removed_groups(settings: DirectorySettings, stored: Stored, plan: Plan) -> None:
    for group_id, group in stored.groups.items():
        if group_id not in plan.after.groups:
            record_id = directory_group_id(settings.id, group.number)
            plan.writes.append(Write(record=Record(type=GROUP_TYPE, id=record_id, deleted=True)))
    # Those of them that the directory still has got another number.
    for number in sorted(stored.damaged_groups):
        record_id = directory_group_id(settings.id, number)
        plan.writes.append(Write(record=Record(type=GROUP_TYPE, id=record_id, deleted=True)))


def _refuse_mass_removal(
    settings: DirectorySettings, wanted: Mapping[str, DirectoryUser], groups: Sequence[Group], stored: Stored
) -> None:
    before = {record_id: DirectoryUser.from_bytes(data) for record_id, data in stored.people.items()}
    present = {record_id: person for record_id, person in before.items() if person.active}
    gone = [record_id for record_id in present if record_id not in wanted or not wanted[record_id].active]
    _refuse(settings, "people", len(gone), len(present))
    group_ids = {group.group_id for group in groups}
    lost_groups = [group_id for group_id in stored.groups if group_id not in group_ids]
    _refuse(settings, "groups", len(lost_groups), len(stored.groups))
    held = lost = 0
    for record_id, person in present.items():
        numbers = set(person.group_numbers) - stored.damaged_groups
        held += len(numbers)
        now = wanted.get(record_id)
        if now is not None and now.groups_known:
            lost += len(numbers.difference(now.group_numbers))
    _refuse(settings, "memberships", lost, held)


def _refuse(settings: DirectorySettings, what: str, gone: int, of: int) -> None:
    if gone > max(ALWAYS_REMOVABLE, settings.removal_limit * of):
        raise RemovalsRefusedError(
            f"{gone} of {of} {what} would vanish from `{settings.id}`; if that is meant:"
            f" doorward directory sync {settings.id} --now --accept-removals"
        )
