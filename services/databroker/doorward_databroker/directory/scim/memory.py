"""SCIM's resources in memory: people as the text that is stored, since a parsed one takes twelve times as much.

The library's reference storage keeps objects and walks them for every search. Here people are parsed when somebody asks for one of
them; what providers search by (`userName`, `externalId`) is indexed, and a page without a filter parses that page alone. Any
other search parses everybody, some at a time, and keeps of those that match only what orders them.
"""

import asyncio
import contextlib
import datetime as dt
import json
import secrets
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, Union, cast

from scim2_models import AttributeBinding, Meta, Path, Resource, ResourceType, ScimFilter, SearchRequest, Uniqueness
from scim2_models.path import CompareOperator, Comparison
from scim2_server.memory import InMemoryStorage, _hashable, _key
from scim2_server.storage import SearchPage
from scim2_server.utils import parametrize

PEOPLE = "User"
_SLICE = 20
"""People that are parsed in one go; some milliseconds' worth."""


class PackedPeople(MutableMapping[str, Resource[Any]]):
    """User resources by id, as JSON texts; whoever gets one has a copy."""

    def __init__(self, model: Callable[[], type[Resource[Any]]]) -> None:
        self._model = model
        self._texts: dict[str, bytes] = {}
        self._known_text: bytes | None = None

    @property
    def model(self) -> type[Resource[Any]]:
        """What they are parsed as."""
        return self._model()

    def text(self, resource_id: str) -> bytes:
        """One as JSON, without being parsed."""
        return self._texts[resource_id]

    def __getitem__(self, resource_id: str) -> Resource[Any]:
        return self.model.model_validate(json.loads(self._texts[resource_id]))

    def __setitem__(self, resource_id: str, resource: Resource[Any]) -> None:
        if self._known_text is not None:
            self._texts[resource_id] = self._known_text
            return
        self._texts[resource_id] = json.dumps(resource.model_dump(mode="json")).encode()

    def __delitem__(self, resource_id: str) -> None:
        del self._texts[resource_id]

    @contextlib.contextmanager
    def known_text(self, text: bytes | None) -> Iterator[None]:
        """Whoever is set meanwhile is stored as ``text`` already, if there is one."""
        self._known_text = text
        try:
            yield
        finally:
            self._known_text = None

    def pop(self, resource_id: str, default: Any = None) -> Any:
        """Forget one; what it was is not worth parsing."""
        self._texts.pop(resource_id, None)
        return default

    def __contains__(self, resource_id: object) -> bool:
        return resource_id in self._texts

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)


class Memory(InMemoryStorage):
    """The library's storage with packed people. Versions are random: a counter would begin again with every process."""

    def __init__(self, model: Callable[[], type[Resource[Any]]], clock: Callable[[], dt.datetime]) -> None:
        super().__init__(clock)
        self.people = PackedPeople(model)
        self._binding: AttributeBinding | None = None
        self._unique: dict[type[Resource[Any]], list[AttributeBinding]] = {}
        self._resources[PEOPLE] = self.people  # type: ignore[assignment]  # it is used as a mapping
        self._ids: dict[str | None, list[str]] = {}
        """Of each type, in order, for pages."""
        self._external: dict[Any, str | set[str]] = {}
        self._external_of: dict[str, Any] = {}
        """What people are called elsewhere, as it is compared; mostly one person has a name."""

    def next_version(self) -> str:
        """See ``InMemoryStorage.next_version``."""
        return f'W/"{secrets.token_hex(8)}"'

    def create(self, resource_type: ResourceType, resource: Resource[Any]) -> Resource[Any]:
        """See ``InMemoryStorage.create``, which copies all members twice; nobody changes what they have handed in here, or got back."""
        created = resource.model_copy()
        created.id = self.generate_id(resource_type, resource)
        now = self.clock()
        created.meta = Meta(
            resource_type=resource_type.name, created=now, last_modified=now, version=self.next_version()
        )
        values = self._values_of(created)
        self._check_uniqueness(created, values)
        self._store(created, values)
        return created.model_copy()

    def stored(self, resource_type: ResourceType, resource_id: str | None) -> Resource[Any]:
        """A group itself, for a copy of each member of a large one would cost more than the change; or a person."""
        return self._stored(resource_type, resource_id)

    def group(self, group_id: str) -> Resource[Any]:
        """The group itself."""
        return self._resources["Group"][group_id]

    def keep(self, resource: Resource[Any], text: bytes | None = None) -> None:
        """Take in a resource that was stored before, a person as ``text``: to make that anew costs as much as all the rest."""
        with self.people.known_text(text):
            self._store(resource, self._values_of(resource))

    def _values_of(self, resource: Resource[Any]) -> dict[str, Any]:
        """See ``InMemoryStorage._values_of``, which looks for a type's unique attributes each time."""
        kind = type(resource)
        if kind not in self._unique:
            paths = parametrize(Path, kind).iter_paths(
                include_subattributes=False, uniqueness=[Uniqueness.server, Uniqueness.global_]
            )
            self._unique[kind] = [cast("AttributeBinding", path.resolve()) for path in paths]
        values = {binding.urn: self._compared(resource, binding) for binding in self._unique[kind]}
        return {urn: _hashable(value) for urn, value in values.items() if value is not None}

    def _compared(self, resource: Resource[Any], attribute: AttributeBinding) -> Any:
        """As ``InMemoryStorage._comparable_value``; but an attribute of the resource itself needs no path."""
        if attribute.sub_field_name is not None or not isinstance(resource, attribute.model):
            return self._comparable_value(resource, attribute)
        try:
            return attribute.comparable(getattr(resource, attribute.field_name))
        except ValueError:
            return None

    def _store(self, resource: Resource[Any], values: dict[str, Any]) -> None:
        super()._store(resource, values)
        kind, resource_id = _key(resource)
        insort(self._ids.setdefault(kind, []), resource_id)
        if kind != PEOPLE:
            return
        name = self._compared(resource, self._external_binding())
        if name is not None:
            self._external_of[resource_id] = name
            _add(self._external, name, resource_id)

    def _remove(self, key: tuple[str | None, str]) -> None:
        super()._remove(key)
        kind, resource_id = key
        ids = self._ids.get(kind, [])
        place = bisect_left(ids, resource_id)
        if place < len(ids) and ids[place] == resource_id:
            del ids[place]
        if kind == PEOPLE and (name := self._external_of.pop(resource_id, None)) is not None:
            _discard(self._external, name, resource_id)

    def _external_binding(self) -> AttributeBinding:
        if self._binding is None:
            self._binding = cast("AttributeBinding", parametrize(Path, self.people.model)("externalId").resolve())
        return self._binding

    async def look(self, resource_types: list[ResourceType], request: SearchRequest[Any]) -> SearchPage:
        """What ``search`` does, without holding the loop for long."""
        names = list(dict.fromkeys(kind.name for kind in resource_types))
        scim_filter = request.filter
        if scim_filter is None and request.sort_by is None:
            places = [(name, resource_id) for name in names for resource_id in self._ids.get(name, ())]
            if len(names) > 1:
                places.sort(key=lambda place: place[1])
        else:
            places = await self._matching(names, scim_filter, request)
        start = request.start_index_0 or 0
        shown = places[start : None if request.count is None else start + request.count]
        found = []
        for position, (name, resource_id) in enumerate(shown):
            if position % _SLICE == 0:
                await asyncio.sleep(0)
            resource = self._resources[name][resource_id]
            found.append(resource if name == PEOPLE else resource.model_copy(deep=True))
        return SearchPage(len(places), found)

    async def _matching(
        self, names: list[str | None], scim_filter: ScimFilter[Any] | None, request: SearchRequest[Any]
    ) -> list[tuple[str | None, str]]:
        """Where those lie that match, in the order that is asked for."""
        known = self._known_by_name(names, scim_filter)
        places = known if known is not None else [(name, one) for name in names for one in self._ids.get(name, ())]
        if scim_filter is not None and not scim_filter.models and places:
            models = tuple(dict.fromkeys(self._model_of(name) for name, _ in places))
            scim_filter = parametrize(ScimFilter, Union[models])(str(scim_filter))  # noqa: UP007  # made at run time
        keyed = []
        for position, (name, resource_id) in enumerate(places):
            if position % _SLICE == 0:
                await asyncio.sleep(0)
            resource = self._resources[name][resource_id]
            if scim_filter is None or scim_filter.match(resource):
                value = request.sort_value(resource) if request.sort_by is not None else None
                keyed.append(((value is None, "" if value is None else value, resource_id), name))
        is_descending = request.sort_by is not None and request.sort_order == SearchRequest.SortOrder.descending
        keyed.sort(key=lambda pair: pair[0], reverse=is_descending)
        return [(name, key[2]) for key, name in keyed]

    def _known_by_name(
        self, names: list[str | None], scim_filter: ScimFilter[Any] | None
    ) -> list[tuple[str | None, str]] | None:
        """The few that a filter can match, where it asks for one value of what is indexed; else ``None``."""
        if scim_filter is None or scim_filter.model is None or len(names) != 1:
            return None
        node = scim_filter.ast
        if not isinstance(node, Comparison) or node.op != CompareOperator.eq or not isinstance(node.value, str):
            return None
        binding = scim_filter.resolve_comparison(node.attr_path, strict=False)
        if binding is None or binding.is_multivalued or binding.target_type is not str:
            return None
        try:
            value = binding.comparable(node.value)
        except ValueError:
            return []
        if names[0] == PEOPLE and binding.urn == self._external_binding().urn:
            found = self._external.get(value, ())
            return [(PEOPLE, one) for one in ([found] if isinstance(found, str) else found)]
        if binding.urn in self._owners:
            owner = self._owners[binding.urn].get(value)
            return [owner] if owner is not None and owner[0] == names[0] else []
        if names[0] == PEOPLE:
            return None
        return [(names[0], one) for one in self._equality_index(names[0], binding).get(value, ())]

    def _model_of(self, name: str | None) -> type[Resource[Any]]:
        return self.people.model if name == PEOPLE else type(next(iter(self._resources[name].values())))


def _add(index: dict[Any, str | set[str]], value: Any, resource_id: str) -> None:
    known = index.setdefault(value, resource_id)
    if isinstance(known, set):
        known.add(resource_id)
    elif known != resource_id:
        index[value] = {known, resource_id}


def _discard(index: dict[Any, str | set[str]], value: Any, resource_id: str) -> None:
    known = index.get(value)
    if isinstance(known, set):
        known.discard(resource_id)
    if not known or known == resource_id:
        index.pop(value, None)
