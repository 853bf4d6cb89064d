"""Packed people are found as the library finds its own; what is asked for often is found without parsing everybody."""

import datetime as dt
from typing import Any

import pytest
from scim2_models import EnterpriseUser, Group, ResourceType, SearchRequest, User
from scim2_models.exceptions import UniquenessException
from scim2_server.memory import InMemoryStorage

from doorward_databroker.directory.scim.memory import Memory, PackedPeople

MODEL = User[EnterpriseUser]
PERSON, GROUP = ResourceType.from_resource(MODEL), ResourceType.from_resource(Group)
NOW = dt.datetime(2026, 1, 2, 3, 4, 5, 678901, dt.UTC)


def person(name: str, **more: Any) -> Any:
    return MODEL.model_validate({"userName": name, "displayName": name.title(), **more})


class Counted(PackedPeople):
    parsed = 0

    def __getitem__(self, resource_id: str) -> Any:
        self.parsed += 1
        return super().__getitem__(resource_id)


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> tuple[Memory, InMemoryStorage]:
    monkeypatch.setattr("doorward_databroker.directory.scim.memory.PackedPeople", Counted)
    ours, theirs = Memory(lambda: MODEL, lambda: NOW), InMemoryStorage(lambda: NOW)
    people = [person(f"p{n:02}", externalId=f"E{n % 30}", active=n % 3 == 0) for n in range(40)]
    for number, resource in enumerate(people):
        for storage in (ours, theirs):
            storage.generate_id = lambda *_, number=number: f"{(number * 7) % 40:02}"  # type: ignore[method-assign]  # as its docstring says
            storage.create(PERSON, resource)
    for number in range(5):
        for storage in (ours, theirs):
            storage.generate_id = lambda *_, number=number: f"g{number}"  # type: ignore[method-assign]
            storage.create(GROUP, Group(display_name=f"g{number % 3}"))
    for storage in (ours, theirs):
        changed = storage.get(PERSON, "07")
        changed.user_name, changed.external_id = "renamed", "E29"
        storage.update(PERSON, changed)
        storage.delete(PERSON, "14")
        storage.delete(GROUP, "g1")
    return ours, theirs


@pytest.mark.parametrize(
    ("query", "parsed"),
    [
        ({}, 39),
        ({"startIndex": 11, "count": 5}, 5),
        ({"count": 0}, 0),
        ({"startIndex": 100, "count": 5}, 0),
        ({"filter": 'userName eq "P05"'}, 2),
        ({"filter": 'userName eq "p01"'}, 0),
        ({"filter": 'userName eq "RENAMED"'}, 2),
        ({"filter": 'externalId eq "E2"'}, 2),
        ({"filter": 'externalId eq "e3"'}, 0),
        ({"filter": 'externalId eq "E29"'}, 4),
        ({"filter": 'displayName co "p1"', "sortBy": "userName", "sortOrder": "descending"}, None),
        ({"filter": "active eq true", "count": 3}, None),
        ({"filter": 'userName eq "p05" or userName eq "p06"'}, None),
        ({"sortBy": "displayName", "startIndex": 3, "count": 4}, None),
        ({"filter": 'id eq "35"'}, None),
    ],
)
async def test_people_are_found_as_the_library_finds_them(
    both: tuple[Memory, InMemoryStorage], query: dict[str, Any], parsed: int | None
):
    ours, theirs = both
    request = SearchRequest[MODEL].model_validate(query)  # type: ignore[valid-type]
    assert isinstance(ours.people, Counted)
    ours.people.parsed = 0
    found = await ours.look([PERSON], request)
    if parsed is not None:
        assert ours.people.parsed == parsed
    expected = theirs.search([PERSON], request)
    assert found.total == expected.total
    assert [item.id for item in found.resources] == [item.id for item in expected.resources]
    for one, other in zip(found.resources, expected.resources, strict=True):
        assert one.model_dump(exclude={"meta": {"version"}}) == other.model_dump(exclude={"meta": {"version"}})


@pytest.mark.parametrize("query", [{}, {"filter": 'displayName eq "g2"'}, {"filter": 'displayName sw "g"', "count": 2}])
async def test_groups_and_everything_are_found_as_the_library_finds_them(
    both: tuple[Memory, InMemoryStorage], query: dict[str, Any]
):
    ours, theirs = both
    for kinds, request in (
        ([GROUP], SearchRequest[Group].model_validate(query)),
        ([PERSON, GROUP], SearchRequest.model_validate(query)),
    ):
        found, expected = await ours.look(kinds, request), theirs.search(kinds, request)
        assert (found.total, [r.id for r in found.resources]) == (expected.total, [r.id for r in expected.resources])


async def test_what_was_stored_before_is_found_like_what_is_new(both: tuple[Memory, InMemoryStorage]):
    """Also what is unique, and the texts are those that were stored."""
    ours, _ = both
    again = Memory(lambda: MODEL, lambda: NOW)
    for one in reversed(list(ours.people)):
        again.keep(ours.people[one], ours.people.text(one) + b" ")
    again.keep(ours.group("g0"))
    for query in ({}, {"filter": 'userName eq "RENAMED"'}, {"filter": 'externalId eq "E2"'}, {"sortBy": "userName"}):
        request = SearchRequest[MODEL].model_validate(query)  # type: ignore[valid-type]
        assert await again.look([PERSON], request) == await ours.look([PERSON], request)
    assert {again.people.text(one) for one in again.people} == {ours.people.text(one) + b" " for one in ours.people}
    assert again.group("g0") is ours.group("g0")
    with pytest.raises(UniquenessException):
        again.create(PERSON, person("renamed"))
    changed = again.get(PERSON, "07")
    again.update(PERSON, changed)
    assert not again.people.text("07").endswith(b" ")


def test_nobody_gets_what_is_kept_itself(both: tuple[Memory, InMemoryStorage]):
    ours, _ = both
    ours.stored(PERSON, "00").display_name = "changed"
    assert ours.get(PERSON, "00").display_name == "P00"
