"""Directories for tests: settings, rosters, and a source that says what the test wants."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from doorward.config.directory_settings import DirectorySettings, KeycloakConnection
from doorward.config.references import Reference
from doorward_databroker.directory.port import Phase, Progress
from doorward_databroker.directory.roster import Roster

SETTINGS = DirectorySettings(
    id="corp",
    kind="keycloak",
    identity_provider_id="idp",
    join="sub",
    group_names=True,
    every_seconds=300,
    stale_seconds=3600,
    removal_limit=0.2,
    connection=KeycloakConnection(url="https://x", realm="r", client_id="c", client_secret=Reference(Path(), "env:X")),
)


def settings(**changes: Any) -> DirectorySettings:
    return replace(SETTINGS, **changes)


def roster(
    people: dict[str, list[str]], groups: dict[str, str] | None = None, *, inactive: frozenset[str] = frozenset()
) -> Roster:
    """People with the ids of their groups; groups by id with their names."""
    made = Roster()
    named = groups if groups is not None else {name: name.title() for found in people.values() for name in found}
    for person in people:
        made.person(person, join_value=person, active=person not in inactive, display_name=person.title())
    for group_id, name in named.items():
        made.group(group_id, name=name)
    for person, found in people.items():
        for group_id in found:
            made.member(group_id, person)
    return made


@dataclass
class FakeSource:
    """Says ``people`` and ``groups``, or fails part of the way."""

    people: dict[str, list[str]]
    groups: dict[str, str] | None = None
    fails: Exception | None = None
    reads: int = 0
    inactive: frozenset[str] = field(default_factory=frozenset)

    async def read(self, into: Roster, progress: Progress) -> None:
        self.reads += 1
        said = roster(self.people, self.groups, inactive=self.inactive)
        progress.enter(Phase.READING_GROUPS, len(said.groups))
        for person in said.people:
            into.person(person.entry_id, join_value=person.join_value, active=person.active)
        if self.fails is not None:
            raise self.fails
        for group in said.groups:
            into.group(group.group_id, name=group.name)
        for person, found in self.people.items():
            for group_id in found:
                into.member(group_id, person)
