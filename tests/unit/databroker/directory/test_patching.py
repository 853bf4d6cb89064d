"""A PATCH that names its members is applied to them only, and nobody can tell from what comes of it."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scim2_models import Context, Group, PatchOp, SCIMException

from doorward_databroker.directory.scim.app import scim_provider
from doorward_databroker.directory.scim.patching import members_named

PATCH = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
ONE, TWO = {"value": "one"}, {"value": "two", "display": "Two"}


def patch_op(*operations: dict[str, Any]) -> PatchOp[Group]:
    with scim_provider().policy:
        body = {"schemas": [PATCH], "Operations": copy.deepcopy(list(operations))}
        return PatchOp[Group].model_validate(body, scim_ctx=Context.RESOURCE_PATCH_REQUEST)


@pytest.mark.parametrize(
    ("operation", "named"),
    [
        ({"op": "add", "path": "members", "value": [ONE, TWO]}, {"one", "two"}),
        ({"op": "Add", "path": "Members", "value": ONE}, {"one"}),
        ({"op": "add", "value": {"members": [ONE]}}, {"one"}),
        ({"op": "add", "path": "urn:ietf:params:scim:schemas:core:2.0:Group:members", "value": [ONE]}, {"one"}),
        ({"op": "Remove", "path": "members", "value": [ONE]}, {"one"}),
        ({"op": "remove", "path": 'members[value eq "one"]'}, {"one"}),
        ({"op": "remove", "path": 'members[value eq "one" or Value eq "two"]'}, {"one", "two"}),
        ({"op": "replace", "path": "displayName", "value": "x"}, set()),
        ({"op": "replace", "value": {"displayName": "x", "externalId": "y"}}, set()),
    ],
)
def test_requests_that_name_their_members(operation: dict[str, Any], named: set[str]):
    assert members_named(patch_op(operation)) == named


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "remove", "path": "members"},
        {"op": "replace", "path": "members", "value": [ONE]},
        {"op": "replace", "value": {"members": [ONE]}},
        {"op": "add", "path": "members", "value": [{"display": "x"}]},
        {"op": "add", "path": "members", "value": [{"Value": "one"}]},
        {"op": "add", "path": "members", "value": [{"value": "\u00e9"}]},
        {"op": "remove", "path": 'members[value ne "one"]'},
        {"op": "remove", "path": 'members[display eq "one"]'},
        {"op": "remove", "path": 'members[value eq "one" and display eq "x"]'},
        {"op": "remove", "path": 'members[value eq "one" or display pr]'},
        {"op": "remove", "path": 'members[not (value eq "one")]'},
        {"op": "remove", "path": 'members[value eq "one"].display'},
        {"op": "replace", "path": 'members[value eq "one"].display', "value": "x"},
        {"op": "remove", "path": "members.display"},
    ],
)
def test_requests_that_may_mean_anybody_get_everybody(operation: dict[str, Any]):
    """A member that is left out of the group would be left out of the answer as well."""
    alone = {"op": "add", "path": "members", "value": [ONE]}
    assert members_named(patch_op(operation)) is None
    assert members_named(patch_op(alone, operation)) is None


_VALUE = st.sampled_from(["a", "b", "c", "d", "A"])
_MEMBER = st.fixed_dictionaries({"value": _VALUE}, optional={"display": st.sampled_from(["x", "y"])})
_ENTRIES = st.one_of(_MEMBER, st.lists(_MEMBER, max_size=3))
_OPERATION = st.one_of(
    st.fixed_dictionaries({"op": st.sampled_from(["add", "remove"]), "path": st.just("members"), "value": _ENTRIES}),
    st.fixed_dictionaries({"op": st.just("add"), "value": st.fixed_dictionaries({"members": _ENTRIES})}),
    st.builds(lambda value: {"op": "remove", "path": f'members[value eq "{value}"]'}, _VALUE),
    st.builds(
        lambda one, two: {"op": "remove", "path": f'members[value eq "{one}" or value eq "{two}"]'}, _VALUE, _VALUE
    ),
    st.builds(lambda name: {"op": "replace", "path": "displayName", "value": name}, st.text(min_size=1, max_size=3)),
)


@given(st.lists(_MEMBER, max_size=6), st.lists(_OPERATION, min_size=1, max_size=4))
def test_a_part_is_patched_as_the_whole_is(members: list[dict[str, Any]], operations: list[dict[str, Any]]):
    try:
        request = patch_op(*operations)
    except ValueError:
        return  # refused before anything is looked at
    named = members_named(request)
    if named is None:
        return  # the library gets everybody
    whole = Group.model_validate({"displayName": "g", "members": members})
    others = [member for member in whole.members or [] if member.value not in named]
    part = whole.model_copy(deep=True)
    part.members = [member for member in part.members or [] if member.value in named] or None
    results: list[Any] = []
    for group in (whole, part):
        try:
            with scim_provider().policy:
                results.append(request.patch(group))
        except SCIMException as error:
            results.append(type(error))
    assert results[0] == results[1]
    together = [*others, *(part.members or [])]

    def order(found: list[Any] | None) -> list[str]:
        return sorted(str(member.model_dump()) for member in found or [])

    assert order(whole.members) == order(together)
    assert whole.display_name == part.display_name
