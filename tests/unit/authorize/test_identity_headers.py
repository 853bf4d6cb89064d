"""What upstreams are told, through whole checks."""

import json
from pathlib import Path

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet
from tests.support.key_material import key
from tests.unit.authorize.builders import CONFIG, World, passed, set_headers

from doorward.identity.session import Session
from doorward.keys.assertion import public_id, public_jwks
from doorward.keys.keyring import Keyring
from doorward.keys.store import Purpose

TEMPLATES = CONFIG.replace(
    "    claim_headers:",
    "    set_request_headers:\n"
    '      authorization: "Bearer ${assertion}"\n'
    '      x-who: "${email} of ${claim/team/name}"\n'
    '      x-teams: "${claim/teams}"\n'
    '      x-fixed: "100%"\n'
    "    claim_headers:",
    1,
).replace("{x-who: email, x-groups: groups}", "{x-groups: groups}")
ALICE = "616c696365".ljust(32, "0")


class Templates(World):
    def claims(self, claims: object) -> str:
        """Sign in with these claims."""
        cookie = self.sign_in()
        session = Session.from_bytes(self.records.data["Session", ALICE])
        self.records.data["Session", ALICE] = Session(
            id=session.id,
            user_id=session.user_id,
            identity_provider_id=session.identity_provider_id,
            issued_at=session.issued_at,
            expires_at=session.expires_at,
            authenticated_at=session.authenticated_at,
            claims_json=json.dumps(claims).encode(),
        ).to_bytes()
        return cookie


@pytest.fixture
def world(tmp_path: Path) -> Templates:
    return Templates(tmp_path, TEMPLATES)


async def test_variables_are_filled_in(world: Templates):
    response = await world.check(cookie=world.claims({"team": {"name": "blue"}, "teams": ["a", "b,c", "ü"]}))
    assert passed(response)
    headers = set_headers(response)
    assert headers["x-who"] == "alice@example.com of blue"
    assert headers["x-teams"] == "a,b%2Cc,%C3%BC"
    assert "x-fixed" not in headers, "what needs no fact is Envoy's to set"
    scheme, assertion = headers["authorization"].split(" ")
    assert scheme == "Bearer"
    assert assertion == headers["x-doorward-jwt-assertion"]


@pytest.mark.parametrize(
    "claims", [{}, {"team": {}}, {"team": {"name": {}}}, {"team": {"name": None}}, {"team": {"name": ""}}]
)
async def test_a_value_that_lacks_a_fact_is_removed_whole(world: Templates, claims: object):
    """Half a value, or the client's own, would say something that nobody vouches for."""
    response = await world.check(cookie=world.claims(claims), x_who="forged")
    assert "x-who" not in set_headers(response)
    assert "x-who" in response.ok_response.headers_to_remove


async def test_nobody_gets_no_facts_and_the_clients_own_are_removed(tmp_path: Path):
    """An application must not take a stranger's `Authorization` for one that we have set."""
    world = World(tmp_path, TEMPLATES.replace("{authenticated_user: true}", "{accept: true}"))
    response = await world.check(authorization="Bearer mine")
    assert passed(response)
    assert {"authorization", "x-who", "x-teams"} <= set(response.ok_response.headers_to_remove)
    assert not {"authorization", "x-who", "x-teams"} & set_headers(response).keys()


@pytest.mark.parametrize(
    ("claimed", "sent"),
    [
        ("a\r\nx-admin: yes", "a%0D%0Ax-admin: yes"),
        ("a\0b", "a%00b"),
        ("red,blue", "red%2Cblue"),
        ("café", "caf%C3%A9"),
        ("\x1b[31m\x7f\u2028x", "%1B[31m%7F%E2%80%A8x"),
    ],
)
async def test_s10_no_byte_of_a_claim_ends_or_splits_a_header(world: Templates, claimed: str, sent: str):
    response = await world.check(cookie=world.claims({"team": {"name": claimed}}))
    assert set_headers(response)["x-who"] == f"alice@example.com of {sent}"


async def test_s07_another_persons_answer_is_never_served(world: Templates):
    """Answers are kept; what differs between two people must be part of what they are kept under."""
    alice, bob = world.claims({"team": {"name": "blue"}}), world.sign_in("bob")
    first = set_headers(await world.check(cookie=alice))
    second = set_headers(await world.check(cookie=bob))
    again = set_headers(await world.check(cookie=alice))
    assert first["authorization"] == again["authorization"] != second["authorization"]
    assert "x-who" not in second


async def test_the_assertion_is_signed_again_before_it_runs_out(world: Templates):
    cookie = world.claims({})
    first = set_headers(await world.check(cookie=cookie))["authorization"]
    world.clock.advance(230)
    assert set_headers(await world.check(cookie=cookie))["authorization"] == first
    world.clock.advance(20)
    second = set_headers(await world.check(cookie=cookie))["authorization"]
    assert second != first
    claims = jwt.decode(second.removeprefix("Bearer "), ECKey.import_key(world.assertions._key.as_pem(private=False)))
    assert claims.claims["exp"] > world.clock.now() + 290


async def test_a_new_key_for_assertions_signs_at_once_and_nothing_of_the_old_one_is_sent(world: Templates):
    cookie = world.claims({})

    async def asserted() -> str:
        return set_headers(await world.check(cookie=cookie))["authorization"].removeprefix("Bearer ")

    first, old = await asserted(), world.assertion_keys.primary
    assert await asserted() == first
    world.assertion_keys.take_over(Keyring(Purpose.ASSERTION, [key("newer"), old]))
    second = await asserted()
    assert second != first
    published = KeySet.import_key_set(json.loads(public_jwks(world.assertion_keys.keys)))
    for token, signer in ((first, old), (second, key("newer"))):
        assert jwt.decode(token, published).header["kid"] == public_id(signer)
