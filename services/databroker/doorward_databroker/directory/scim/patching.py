"""PATCH of a large group: the protocol works on the members that the request names, and on no others.

The library copies and compares a whole resource for each change. Clients add and remove members by name, one or a few at a time
(Okta ``add`` with a value, Entra ``add`` and ``remove``, both ``remove`` with a filter), and whoever is not named stays what they
were. So for these shapes the library gets the group with the named members only, and what it makes of them is put back.
"""

from typing import Any, Protocol

from scim2_models import Group, PatchOp, Path, Resource, ResourceType
from scim2_models.path import CompareOperator, Comparison, FilterNode, LogicalExpr, LogicalOperator
from scim2_server.conditions import Conditions
from scim2_server.handler import AsyncScimHandler
from scim2_server.requests import ScimRequest
from scim2_server.responses import ScimResponse
from scim2_server.service import ScimService
from scim2_server.storage import AsyncScimStorage

_MEMBERS = "members"


class GroupsInPart(Protocol):
    """What keeps groups so that a part of their members can be changed."""

    def part_of_group(self, resource_type: ResourceType, group_id: str, named: frozenset[str]) -> Group:
        """A copy of a group with those of its members that are named."""
        ...

    async def update_part(
        self, resource_type: ResourceType, part: Group, named: frozenset[str], expected_version: str | None
    ) -> Resource[Any]:
        """Store a group of which ``part`` holds what became of the named members; everybody else stays.

        Returns:
            The part as stored, with the group's new version.
        """
        ...


class PatchHandler(AsyncScimHandler):
    """The library's handler, but for PATCH of groups."""

    def __init__(self, service: ScimService, storage: AsyncScimStorage, groups: GroupsInPart) -> None:
        super().__init__(service, storage)
        self._groups = groups
        self._whole = AsyncScimHandler(service, storage)

    async def patch(self, request: ScimRequest) -> ScimResponse:
        """See ``AsyncScimHandler.patch``. Whoever asks for attributes gets the whole group, which then has to be there."""
        asked = {name.casefold() for name in request.query}
        if asked & {"attributes", "excludedattributes"}:
            return await self._whole.patch(request)
        return await super().patch(request)

    async def patch_resource(
        self, resource_type: ResourceType, resource_id: str, patch_op: "PatchOp[Any]", conditions: Conditions
    ) -> Resource[Any]:
        """See ``AsyncScimHandler.patch_resource``."""
        named = members_named(patch_op) if self.service.get_model(resource_type) is Group else None
        if named is None:
            return await super().patch_resource(resource_type, resource_id, patch_op, conditions)
        part = self._groups.part_of_group(resource_type, resource_id, named)
        version = part.meta.version if part.meta is not None else None
        if self.service.apply_patch(part, patch_op, conditions) is None:
            return part
        return await self._groups.update_part(resource_type, part, named, version)


def members_named(patch_op: "PatchOp[Any]") -> frozenset[str] | None:
    """The members that a PATCH of a group speaks of; ``None`` when it may speak of any."""
    named: set[str] = set()
    for operation in patch_op.operations or []:
        path = Path[Group](str(operation.path or ""))
        found: set[str] | None
        if path.model is not None:
            found = _by_attribute(operation.op.value, operation.value) if path.model is Group else None
        else:
            found = _by_path(operation.op.value, path, operation.value)
        if found is None:
            return None
        named |= found
    return frozenset(named)


def _by_attribute(op: str, value: Any) -> set[str] | None:
    """Without a path, the value holds attributes."""
    if not isinstance(value, dict):
        return None
    named: set[str] = set()
    for name, item in value.items():
        found = _by_path(op, Path[Group](name), item) if name.isalnum() else None
        if found is None:
            return None
        named |= found
    return named


def _by_path(op: str, path: Path[Any], value: Any) -> set[str] | None:
    binding = path.resolve()
    if binding is None or binding.model is not Group:
        return None
    if binding.field_name != _MEMBERS:
        return set()
    if binding.sub_field_name is not None:
        return None
    if path.value_filter is not None:
        return _by_filter(path.value_filter) if op == "remove" and value is None else None
    return _by_entries(value) if op in {"add", "remove"} else None


def _by_filter(node: FilterNode) -> set[str] | None:
    if isinstance(node, LogicalExpr) and node.op is LogicalOperator.or_:
        found = [_by_filter(term) for term in node.terms]
        return None if None in found else {value for values in found if values for value in values}
    if (
        isinstance(node, Comparison)
        and node.op is CompareOperator.eq
        and node.attr_path.attr.casefold() == "value"
        and node.attr_path.sub_attr is None
        and node.attr_path.uri is None
        and _is_plain(node.value)
    ):
        return {node.value}
    return None


def _by_entries(value: Any) -> set[str] | None:
    entries = value if isinstance(value, list) else [value]
    named: set[str] = set()
    for entry in entries:
        # Names of attributes know no case: an entry that says "Value" is left to the library.
        if not isinstance(entry, dict) or [key for key in entry if key.casefold() == "value"] != ["value"]:
            return None
        if not _is_plain(entry["value"]):
            return None
        named.add(entry["value"])
    return named


def _is_plain(value: Any) -> bool:
    """Whether a value is equal to itself only: Unicode has texts that are equal and written otherwise."""
    return isinstance(value, str) and value.isascii()
