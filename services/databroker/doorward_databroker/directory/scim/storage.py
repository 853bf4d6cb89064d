"""Where SCIM's resources are kept: in memory for reading, in records for good, in one write with what they mean.

A user's record names the groups that it is in, a group's record none of its users: a large group is then no large record, and
one more member is a small write. Passwords are not kept at all.
"""

import asyncio
import contextlib
import datetime as dt
import json
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, cast

import structlog
from google.protobuf.message import DecodeError
from scim2_models import Group, GroupMember, Meta, Resource, ResourceType, ResponseParameters, SearchRequest, User
from scim2_models.exceptions import SCIMException
from scim2_server.memory import InMemoryStorage
from scim2_server.storage import AsyncScimStorage, SearchPage

from doorward.api.directory.v1 import directory_pb2
from doorward.clock import Clock
from doorward.config.directory_settings import DirectorySettings, ScimConnection
from doorward.errors import DataCorruptedError, UnavailableError
from doorward.records.record import Fence, Record, Write
from doorward_databroker.directory.plan import BATCH, Plan
from doorward_databroker.directory.scim.members import Changes, Members, PushedPerson
from doorward_databroker.directory.sources.joining import join_of
from doorward_databroker.directory.synchroniser import Records, end_sessions, load_stored

RECORD_TYPE = "ScimResource"

_log = structlog.stdlib.get_logger(__name__)


class _Memory(InMemoryStorage):
    """Versions are random: a counter would begin again with every process, and tell two states apart by nothing."""

    def next_version(self) -> str:
        return f'W/"{secrets.token_hex(8)}"'

    def stored(self, resource_type: ResourceType, resource_id: str | None) -> Resource[Any]:
        """The resource itself: a copy of each member of a large group would cost more than the change."""
        return self._stored(resource_type, resource_id)


class ScimStorage(AsyncScimStorage):
    """One directory that pushes. Concurrency: one operation at a time, whoever asks."""

    supports_cursors = False

    def __init__(
        self,
        settings: DirectorySettings,
        connection: ScimConnection,
        records: Records,
        models: Callable[[str], type[Resource[Any]]],
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._connection = connection
        self._records = records
        self._models = models
        self._clock = clock
        self._join = join_of(settings)
        self._memory = _Memory(lambda: dt.datetime.fromtimestamp(clock.now(), dt.UTC))
        self._members: Members | None = None
        self._fence: Fence | None = None
        self._writes_under: Fence | None = None
        self._lock = asyncio.Lock()
        self._groups_of: dict[str, set[str]] = {}
        self._entries: dict[str, GroupMember] = {}
        """For each member what some group says of them; groups that say the same share it."""

    def hold(self, fence: Fence | None) -> None:
        """The lease was taken, or lost; what is in memory is read again before it is used."""
        self._fence = fence
        self._members = None

    @contextlib.asynccontextmanager
    async def _operating(self) -> AsyncIterator[None]:
        async with self._lock:
            if self._fence is None:
                raise UnavailableError("another replica serves this directory")
            # Kept for the whole operation: when the lease is lost on the way, what is left must be refused, not written unfenced.
            self._writes_under = self._fence
            try:
                if self._members is None:
                    await self._load()
                yield
            except SCIMException:
                raise
            except BaseException:
                # Memory may be ahead of the records: it is read anew.
                self._members = None
                raise

    def operation(self) -> contextlib.AbstractAsyncContextManager[None]:
        """See ``AsyncScimStorage.operation``."""
        return self._operating()

    async def get(
        self,
        resource_type: ResourceType,
        resource_id: str,
        *,
        response_parameters: ResponseParameters[Any] | None = None,
    ) -> Resource[Any]:
        """See ``AsyncScimStorage.get``."""
        return self._memory.get(resource_type, resource_id, response_parameters=response_parameters)

    async def search(
        self, resource_types: list[ResourceType], search_request: SearchRequest[Any], *, position: Any = None
    ) -> SearchPage:
        """See ``AsyncScimStorage.search``."""
        return self._memory.search(resource_types, search_request, position=position)

    async def create(self, resource_type: ResourceType, resource: Resource[Any]) -> Resource[Any]:
        """See ``AsyncScimStorage.create``."""
        created = self._memory.create(resource_type, _without_secrets(resource))
        self._share_entries(self._memory.stored(resource_type, created.id))
        await self._save(created)
        return created

    async def update(
        self, resource_type: ResourceType, resource: Resource[Any], *, expected_version: str | None = None
    ) -> Resource[Any]:
        """See ``AsyncScimStorage.update``."""
        updated = self._memory.update(resource_type, _without_secrets(resource), expected_version=expected_version)
        self._share_entries(self._memory.stored(resource_type, updated.id))
        await self._save(updated)
        return updated

    def part_of_group(self, resource_type: ResourceType, group_id: str, named: frozenset[str]) -> Group:
        """See ``GroupsInPart.part_of_group``."""
        group = cast("Group", self._memory.stored(resource_type, group_id))
        members = [member for member in group.members or [] if member.value in named]
        return group.model_copy(update={"members": members or None}).model_copy(deep=True)

    async def update_part(
        self, resource_type: ResourceType, part: Group, named: frozenset[str], expected_version: str | None
    ) -> Resource[Any]:
        """See ``GroupsInPart.update_part``."""
        before = cast("Group", self._memory.stored(resource_type, part.id))
        others = [member for member in before.members or [] if member.value not in named]
        updated = self._memory.update(resource_type, part, expected_version=expected_version)
        # The members are in none of the memory's indexes.
        group = cast("Group", self._memory.stored(resource_type, part.id))
        self._share_entries(group)
        group.members = [*others, *(group.members or [])] or None
        await self._save(group)
        return updated

    async def delete(
        self, resource_type: ResourceType, resource_id: str, *, expected_version: str | None = None
    ) -> None:
        """See ``AsyncScimStorage.delete``."""
        resource = self._memory.get(resource_type, resource_id)
        self._memory.delete(resource_type, resource_id, expected_version=expected_version)
        members = self._known()
        writes = [Write(record=Record(type=RECORD_TYPE, id=self._record_id(resource), deleted=True))]
        if isinstance(resource, Group):
            group = members.groups.get(resource_id)
            people = set(group.people) if group is not None else set()
            members.remove_group(resource_id)
            for person_id in people:
                self._groups_of[person_id].discard(resource_id)
                writes.append(self._person_write(person_id))
        else:
            for group_id in members.remove_person(resource_id):
                self._drop_member(group_id, resource_id)
            self._groups_of.pop(resource_id, None)
            self._entries.pop(resource_id, None)
        await self._write(writes)

    def _share_entries(self, resource: Resource[Any]) -> None:
        """Let a stored group share its entries: a million memberships would be a million objects.

        Nobody changes an entry in place: the library gets copies.
        """
        if isinstance(resource, Group) and resource.members:
            resource.members = [self._shared_entry(member) for member in resource.members]

    def _user_entry(self, person_id: str) -> GroupMember:
        if person_id not in self._entries:
            self._entries[person_id] = GroupMember.model_validate({"value": person_id, "type": "User"})
        return self._entries[person_id]

    def _shared_entry(self, member: GroupMember) -> GroupMember:
        known = self._entries.setdefault(member.value or "", member)
        return known if known == member else member

    async def _save(self, resource: Resource[Any]) -> None:
        members = self._known()
        resource_id = str(resource.id)
        if isinstance(resource, Group):
            known = members.groups.get(resource_id)
            before = set(known.people) if known is not None else set()
            people, children = _members_of(resource, members)
            number = known.number if known is not None else members.new_number()
            members.set_group(resource_id, resource.display_name or "", number, people, children)
            changed = before ^ people
            for person_id in changed:
                groups = self._groups_of.setdefault(person_id, set())
                groups.add(resource_id) if person_id in people else groups.discard(resource_id)
            await self._write([self._group_write(resource, number), *map(self._person_write, sorted(changed))])
            return
        members.set_person(resource_id, self._person(resource))
        self._groups_of.setdefault(resource_id, set())
        await self._write([self._person_write(resource_id)])

    async def _write(self, writes: list[Write]) -> None:
        """Everything at once where one put takes it; what policy reads comes last, so that nothing points into the void."""
        made = self._known().changes(self._clock.now())
        await self._put(replace(made, writes=[*writes, *made.writes]))

    async def _put(self, made: Changes) -> None:
        if self._writes_under is None:
            raise UnavailableError("another replica serves this directory")
        everything = [*made.first, *made.writes]
        for start in range(0, len(everything), BATCH):
            await self._records.put(everything[start : start + BATCH], self._writes_under)
        await end_sessions(Plan(inactive=made.inactive), self._records)

    def _person(self, user: Resource[Any]) -> PushedPerson:
        person = cast("User[Any]", user)
        email = next((item.value for item in person.emails or [] if item.primary and item.value), "") or next(
            (item.value for item in person.emails or [] if item.value), ""
        )
        named = person.external_id if self._connection.join_attribute == "externalId" else person.id
        return PushedPerson(
            join_value=self._join(named or "", str(email or "")) if named or self._settings.joins_by_email else "",
            # Absent means active: a client that never says so would otherwise lock everybody out (RFC 7643, section 4.1.1).
            active=person.active is not False,
            display_name=person.display_name or person.user_name or "",
            email=str(email or ""),
        )

    def _person_write(self, person_id: str) -> Write:
        user = self._memory._resources["User"][person_id]  # noqa: SLF001  # a copy of each member of a large group would cost more than the change
        return self._resource_write(user, sorted(self._groups_of.get(person_id, ())), 0)

    def _group_write(self, group: Group, number: int) -> Write:
        members = self._known()
        others = [member for member in group.members or [] if member.value not in members.people]
        return self._resource_write(group.model_copy(update={"members": others or None}), [], number)

    def _resource_write(self, resource: Resource[Any], group_ids: list[str], number: int) -> Write:
        meta = resource.meta or Meta()
        message = directory_pb2.ScimResource(
            json=json.dumps(resource.model_dump(mode="json")).encode(), group_ids=group_ids, number=number
        )
        if meta.created is not None:
            message.created_at.FromDatetime(meta.created)
        if meta.last_modified is not None:
            message.modified_at.FromDatetime(meta.last_modified)
        record = Record(type=RECORD_TYPE, id=self._record_id(resource), data=message.SerializeToString())
        return Write(record=record)

    def _record_id(self, resource: Resource[Any]) -> str:
        kind = "Group" if isinstance(resource, Group) else "User"
        return f"{self._settings.id}/{kind}/{resource.id}"

    def _drop_member(self, group_id: str, person_id: str) -> None:
        """A user is gone from the groups that named it; their records never did."""
        group = self._memory._resources["Group"][group_id]  # noqa: SLF001  # as above
        if isinstance(group, Group):
            group.members = [member for member in group.members or [] if member.value != person_id] or None

    def _known(self) -> Members:
        if self._members is None:
            raise UnavailableError("the directory is not read yet")
        return self._members

    async def _load(self) -> None:
        """Read everything from the records."""
        stored = await load_stored(self._settings, self._records)
        members = Members(self._settings, stored.state)
        resources: list[Resource[Any]] = []
        numbers: dict[str, int] = {}
        self._groups_of, self._entries = {}, {}
        prefix = f"{self._settings.id}/"
        async for record in self._records.list(RECORD_TYPE):
            if record.id.startswith(prefix):
                resource, message = self._parsed(record)
                resources.append(resource)
                if isinstance(resource, Group):
                    numbers[str(resource.id)] = message.number
                else:
                    members.set_person(str(resource.id), self._person(resource))
                    self._groups_of[str(resource.id)] = set(message.group_ids)
        in_group: dict[str, list[str]] = {group_id: [] for group_id in numbers}
        for person_id, groups in self._groups_of.items():
            for group_id in groups:
                if group_id in in_group:
                    in_group[group_id].append(person_id)
        for resource in resources:
            if isinstance(resource, Group):
                people = in_group[str(resource.id)]
                found = [self._user_entry(person_id) for person_id in people]
                resource.members = [*(resource.members or []), *found] or None
                _, children = _members_of(resource, members)
                name = resource.display_name or ""
                members.set_group(str(resource.id), name, numbers[str(resource.id)], people, children)
        # A number that a resource has is taken, whether or not the state has come to be written.
        number = max([stored.state.next_group_number, *(number + 1 for number in numbers.values())])
        members.state = replace(stored.state, next_group_number=number)
        await self._put(members.compare_with(stored, self._clock.now()))
        if self._fence is not self._writes_under:
            raise UnavailableError("another replica has taken over")
        self._memory.resources = resources
        self._members = members
        _log.info("a pushed directory is served", directory=self._settings.id, resources=len(resources))

    def _parsed(self, record: Record) -> tuple[Resource[Any], directory_pb2.ScimResource]:
        try:
            message = directory_pb2.ScimResource.FromString(record.data)
            kind = record.id.split("/")[1]
            resource = self._models(kind).model_validate(json.loads(message.json))
        except (DecodeError, ValueError, LookupError) as error:
            raise DataCorruptedError(f"the resource `{record.id}` cannot be read ({type(error).__name__})") from None
        return resource, message


def _members_of(group: Group, members: Members) -> tuple[set[str], set[str]]:
    """Users and groups that a group names."""
    people, children = set(), set()
    for member in group.members or []:
        value = member.value or ""
        if value in members.people:
            people.add(value)
        elif value:
            children.add(value)
    return people, children


def _without_secrets(resource: Resource[Any]) -> Resource[Any]:
    """A password that a client pushes along is nothing that we want to have."""
    if isinstance(resource, User) and resource.password is not None:
        return resource.model_copy(update={"password": None})
    return resource
