"""Claims that nobody has told are unknown and not absent: no deny is got round by having too many of them, or by asking without a session."""

import json
from dataclasses import replace

import pytest
from tests.unit.authorize.builders import CONFIG, ISSUER, World, passed, set_headers, status, world
from tests.unit.authorize.test_server import CONTEXT, OPERATOR, asking

from doorward.api.authorize.v1 import authorize_pb2 as pb
from doorward.identity.session import CLAIMS_NOT_KNOWN, Session
from doorward.identity.user import user_id
from doorward_authorize.server import AuthorizeServicer

__all__ = ["world"]

OPEN = "policy: [{allow: {and: [{authenticated_user: true}]}}]"
ALICE = b"alice".hex().ljust(32, "0")
HEADER = 'set_request_headers: {x-department: "${claim/department}"}'
POLICIES = [
    "[{allow: {and: [{claim/blocked: {exists: false}}]}}]",
    "[{allow: {nor: [{claim/blocked: {is: 'yes', optional: true}}]}}]",
    "[{allow: {and: [{authenticated_user: true}]}}, {deny: {or: [{claim/blocked: {exists: true}}]}}]",
    "[{allow: {and: [{authenticated_user: true}]}}, {deny: {or: [{claim/blocked: {is: 'yes', optional: true}}]}}]",
    "{dialect: ppl, rules: [{allow: {and: [{authenticated_user: true}]}}, {deny: {or: [{claim/blocked: 'yes'}]}}]}",
]


def claims_of_alice(world: World, claims: bytes) -> str:
    """The cookie of somebody whose session holds these claims."""
    cookie = world.sign_in()
    session = Session.from_bytes(world.records.data["Session", ALICE])
    world.records.data["Session", ALICE] = replace(session, claims_json=claims).to_bytes()
    return cookie


@pytest.mark.parametrize("policy", POLICIES)
async def test_of_somebody_with_more_claims_than_a_session_holds_none_is_known(world: World, policy: str):
    world.reload(CONFIG.replace(OPEN, f"policy: {policy}"))
    assert passed(await world.check(cookie=claims_of_alice(world, b"{}")))
    assert status(await world.check(cookie=claims_of_alice(world, CLAIMS_NOT_KNOWN))) == 403


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_program_that_asks_by_user_id_is_told_nothing_of_claims(world: World, policy: str):
    world.reload(CONFIG.replace(OPEN, f"policy: {policy}"))
    world.sign_in()
    servicer = AuthorizeServicer(
        world.evaluator,
        world.principals,
        world.records,  # type: ignore[arg-type]  # a replica in all that is asked of it here
        world.explanations,
        world.gateways,
        world.asked,
    )
    request = pb.RequestFacts(route_id="app", method="GET", path="/")

    async def effect(subject: pb.Subject) -> int:
        with asking(OPERATOR):
            return (await servicer.Decide(pb.DecideRequest(subject=subject, request=request), CONTEXT)).decision.effect

    assert await effect(pb.Subject(session_id=ALICE)) == pb.EFFECT_ALLOW
    assert await effect(pb.Subject(user_id=user_id(ISSUER, "alice"))) == pb.EFFECT_DENY


@pytest.mark.parametrize("claims", [{"groups": ["eng"], "_claim_names": {"groups": "src1"}}, {"hasgroups": True}])
async def test_a_claim_that_the_token_says_is_elsewhere_is_unknown(world: World, claims: dict[str, object]):
    policy = "[{allow: {and: [{authenticated_user: true}]}}, {deny: {or: [{claim/groups: {has: contractors, optional: true}}]}}]"
    world.reload(CONFIG.replace(OPEN, f"policy: {policy}"))
    assert status(await world.check(cookie=claims_of_alice(world, json.dumps(claims).encode()))) == 403
    assert passed(await world.check(cookie=claims_of_alice(world, b'{"groups": ["eng"]}')))


async def test_a_header_of_a_claim_that_is_not_known_is_not_sent(world: World):
    world.reload(CONFIG.replace("claim_headers: {x-who: email, x-groups: groups}", HEADER))
    assert set_headers(await world.check(cookie=world.sign_in()))["x-department"] == "eng"
    answer = await world.check(cookie=claims_of_alice(world, CLAIMS_NOT_KNOWN))
    assert passed(answer)
    assert "x-department" not in set_headers(answer)
