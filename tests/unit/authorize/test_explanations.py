"""A decision id is explained by whoever is asked, as long as it is known anywhere."""

import pytest
from tests.unit.authorize.builders import World, status, world

from doorward.api.authorize.v1 import authorize_pb2 as pb
from doorward.errors import NotFoundError, UnavailableError
from doorward_authorize.explanations import KEEP_SECONDS, PER_MINUTE, RECORD_TYPE, Explanations
from doorward_authorize.held_decisions import HeldDecisions

__all__ = ["world"]


async def refused(world: World, **headers: str) -> str:
    cookie = world.sign_in(groups=frozenset({"eng"}), host="admin.example.com")
    response = await world.check("admin", cookie=cookie, **headers)
    assert status(response) == 403
    named = {option.header.key: option.header.value for option in response.denied_response.headers}
    return named["x-doorward-decision-id"]


def another(world: World) -> Explanations:
    """Another authorizer over the same records."""
    return Explanations(HeldDecisions(), world.stored, world.clock, world.metrics)


async def test_a_refusal_with_a_page_is_explained_by_any_authorizer_for_a_day(world: World):
    decision_id = await refused(world, accept="text/html")
    await world.explanations.flush()
    here, there = await world.explanations.of(decision_id), await another(world).of(decision_id)
    assert here == there
    assert there.decision.id == decision_id
    assert there.decision.effect == pb.EFFECT_DENY
    assert there.route == "admin"
    assert "groups" in there.text
    world.clock.advance(KEEP_SECONDS)
    with pytest.raises(NotFoundError):
        await another(world).of(decision_id)


async def test_other_decisions_are_explained_only_where_they_were_made(world: World):
    decision_id = await refused(world)
    await world.explanations.flush()
    assert (await world.explanations.of(decision_id)).route == "admin"
    with pytest.raises(NotFoundError):
        await another(world).of(decision_id)


@pytest.mark.parametrize("decision_id", ["", "nonsense", "a b", "x" * 5_000, "Session/1"])
async def test_an_id_that_is_none_is_not_found(world: World, decision_id: str):
    with pytest.raises(NotFoundError):
        await world.explanations.of(decision_id)


async def test_one_person_cannot_fill_the_store(world: World):
    for _ in range(PER_MINUTE + 5):
        await refused(world, accept="text/html")
    await world.explanations.flush()
    assert sum(world.stored.puts) == PER_MINUTE
    assert world.registry.get_sample_value("doorward_refusals_unkept_total") == 5
    world.clock.advance(60)
    await refused(world, accept="text/html")
    await world.explanations.flush()
    assert sum(world.stored.puts) == PER_MINUTE + 1


async def test_a_store_that_is_away_costs_the_record_and_nothing_else(world: World, monkeypatch: pytest.MonkeyPatch):
    async def away(_: object) -> None:
        raise UnavailableError("away")

    monkeypatch.setattr(world.stored, "put", away)
    decision_id = await refused(world, accept="text/html")
    await world.explanations.flush()
    assert (await world.explanations.of(decision_id)).route == "admin"
    assert world.registry.get_sample_value("doorward_refusals_unkept_total") == 1


async def test_a_record_says_nothing_that_only_the_person_should_know(world: World):
    """The cookie above all: it is kept in memory with the request, and must not get out with the explanation."""
    cookie = world.sign_in(groups=frozenset(), host="admin.example.com")
    await world.check("admin", cookie=cookie, accept="text/html")
    await world.explanations.flush()
    names = [key[1] for key in world.stored.store._records if key[0] == RECORD_TYPE]  # type: ignore[attr-defined]
    record = await world.stored.get(RECORD_TYPE, names[0])
    assert cookie.split("=")[1].encode() not in record.data
