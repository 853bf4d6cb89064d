"""Where SCIM's resources are kept: in memory for reading, in records for good, in one write with what they mean.

A user's record names the groups that it is in, a group's record none of its users: a large group is then no large record, and
one more member is a small write. Passwords are not kept at all.
"""

import asyncio
import contextlib
import datetime as dt
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from typing import Any, cast

import structlog
from google.protobuf.message import DecodeError
from scim2_models import Group, GroupMember, Resource, ResourceType, ResponseParameters, SearchRequest, User
from scim2_models.exceptions import SCIMException
from scim2_server.storage import AsyncScimStorage, SearchPage

from doorward.api.directory.v1 import directory_pb2
from doorward.clock import Clock
from doorward.config.directory_settings import DirectorySettings, ScimConnection
from doorward.errors import DataCorruptedError, UnavailableError
from doorward.records.record import Fence, Record, Write
from doorward_databroker.directory.plan import BATCH, Plan
from doorward_databroker.directory.scim.members import Changes, Members, PushedPerson
from doorward_databroker.directory.scim.memory import PEOPLE, Memory
from doorward_databroker.directory.sources.joining import join_of
from doorward_databroker.directory.synchroniser import Records, end_sessions, load_stored

RECORD_TYPE = "ScimResource"

_log = structlog.stdlib.get_logger(__name__)


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
        self._memory = self._new_memory()
        self._members: Members | None = None
        self._fence: Fence | None = None
        self._writes_under: Fence | None = None
        self._lock = asyncio.Lock()
        self._entries: dict[str, GroupMember] = {}
        """For each member what some group says of them; groups that say the same share it."""

    def _new_memory(self) -> Memory:
        return Memory(lambda: self._models(PEOPLE), lambda: dt.datetime.fromtimestamp(self._clock.now(), dt.UTC))

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
        del position  # cursors are not offered
        return await self._memory.look(resource_types, search_request)

    async def create(self, resource_type: ResourceType, resource: Resource[Any]) -> Resource[Any]:
        """See ``AsyncScimStorage.create``."""
        created = self._memory.create(resource_type, _without_secrets(resource))
        await self._save(self._kept(resource_type, created))
        return created

    async def update(
        self, resource_type: ResourceType, resource: Resource[Any], *, expected_version: str | None = None
    ) -> Resource[Any]:
        """See ``AsyncScimStorage.update``."""
        updated = self._memory.update(resource_type, _without_secrets(resource), expected_version=expected_version)
        await self._save(self._kept(resource_type, updated))
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
            writes += map(self._person_write, sorted(people))
        else:
            for group_id in members.remove_person(resource_id):
                self._drop_member(group_id, resource_id)
            self._entries.pop(resource_id, None)
        await self._write(writes)

    def _kept(self, resource_type: ResourceType, resource: Resource[Any]) -> Resource[Any]:
        """A group as it is kept, so that ids too are shared with the other groups; a person as given."""
        if not isinstance(resource, Group):
            return resource
        group = self._memory.stored(resource_type, resource.id)
        self._share_entries(group)
        return group

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
            await self._write([self._group_write(resource, number), *map(self._person_write, sorted(changed))])
            return
        members.set_person(resource_id, self._person(resource))
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
        text = self._memory.people.text(person_id)
        return self._text_write(
            f"{self._settings.id}/{PEOPLE}/{person_id}", text, self._known().groups_of(person_id), 0
        )

    def _group_write(self, group: Group, number: int) -> Write:
        members = self._known()
        others = [member for member in group.members or [] if member.value not in members.people]
        alone = group.model_copy(update={"members": others or None})
        return self._text_write(self._record_id(group), json.dumps(alone.model_dump(mode="json")).encode(), (), number)

    def _text_write(self, record_id: str, text: bytes, group_ids: Iterable[str], number: int) -> Write:
        message = directory_pb2.ScimResource(json=text, group_ids=sorted(group_ids), number=number)
        meta = json.loads(text).get("meta") or {}
        for name, stamp in (("created", message.created_at), ("lastModified", message.modified_at)):
            if meta.get(name):
                stamp.FromDatetime(dt.datetime.fromisoformat(meta[name]))
        return Write(record=Record(type=RECORD_TYPE, id=record_id, data=message.SerializeToString()))

    def _record_id(self, resource: Resource[Any]) -> str:
        kind = "Group" if isinstance(resource, Group) else "User"
        return f"{self._settings.id}/{kind}/{resource.id}"

    def _drop_member(self, group_id: str, person_id: str) -> None:
        """A user is gone from the groups that named it; their records never did."""
        group = self._memory.group(group_id)
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
        memory = self._new_memory()
        groups: list[Group] = []
        numbers: dict[str, int] = {}
        in_group: dict[str, list[str]] = defaultdict(list)
        self._entries = {}
        prefix = f"{self._settings.id}/"
        async for record in self._records.list(RECORD_TYPE):
            if record.id.startswith(prefix):
                resource, message = self._parsed(record)
                if isinstance(resource, Group):
                    groups.append(resource)
                    numbers[str(resource.id)] = message.number
                    continue
                person_id = str(resource.id)
                memory.keep(resource, message.json)
                members.set_person(person_id, self._person(resource))
                for group_id in message.group_ids:
                    in_group[group_id].append(person_id)
        for group in groups:
            await asyncio.sleep(0)
            group_id = str(group.id)
            people = in_group.pop(group_id, [])
            group.members = [*(group.members or []), *map(self._user_entry, people)] or None
            memory.keep(group)
            _, children = _members_of(group, members)
            members.set_group(group_id, group.display_name or "", numbers[group_id], people, children)
        # A number that a resource has is taken, whether or not the state has come to be written.
        number = max([stored.state.next_group_number, *(number + 1 for number in numbers.values())])
        members.state = replace(stored.state, next_group_number=number)
        # In a thread: it looks at every person, for seconds where there are many, and nobody else has these members yet.
        await self._put(await asyncio.to_thread(members.compare_with, stored, self._clock.now()))
        if self._fence is not self._writes_under:
            raise UnavailableError("another replica has taken over")
        self._memory = memory
        self._members = members
        _log.info(
            "a pushed directory is served", directory=self._settings.id, people=len(memory.people), groups=len(groups)
        )

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
