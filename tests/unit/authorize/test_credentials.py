"""Every pair of credentials in every state: what counts, what is refused, and what reaches the application."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from joserfc.util import urlsafe_b64decode
from tests.unit.authorize.builders import ISSUER, World, passed, set_headers, status
from tests.unit.authorize.test_guard_watcher import Streams
from tests.unit.authorize.test_refusals import body

from doorward.envoy_api.envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from doorward.identity.service_account import ServiceAccount
from doorward.identity.session import Session
from doorward.identity.user import User, user_id

STATES = ("absent", "valid", "expired", "malformed", "foreign")
ALICE = "616c696365".ljust(32, "0")
ROBOT = "sa-" + b"robot".ljust(16, b"0").hex()
OTHER = "sa-" + b"other".ljust(16, b"0").hex()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def cookie(world: World, state: str, route: str) -> dict[str, str]:
    host = f"{route}.example.com"
    match state:
        case "absent":
            return {}
        case "valid":
            return {"cookie": world.sign_in(host=host)}
        case "expired":
            text = world.sign_in(host=host)
            session = Session.from_bytes(world.records.data["Session", ALICE])
            world.records.data["Session", ALICE] = Session(
                id=session.id,
                user_id=session.user_id,
                identity_provider_id=session.identity_provider_id,
                issued_at=session.issued_at - 10,
                expires_at=world.clock.now() - 1,
                authenticated_at=session.authenticated_at,
            ).to_bytes()
            return {"cookie": text}
        case "malformed":
            return {"cookie": "__Host-doorward=not-a-handle"}
        case _:
            return {"cookie": world.sign_in(host="elsewhere.example.com")}


def token(world: World, state: str, name: str) -> str | None:
    text = world.account(name, life=-1 if state == "expired" else 3600)
    match state:
        case "absent":
            return None
        case "malformed":
            return text[:-1]
        case "foreign":
            return text[:-4] + ("0000" if not text.endswith("0000") else "1111")
        case _:
            return text


def who(response: CheckResponse) -> str | None:
    """The id that the application is told."""
    assertion = set_headers(response).get("x-doorward-jwt-assertion")
    if assertion is None:
        return None
    return str(json.loads(urlsafe_b64decode(assertion.split(".")[1].encode()))["sub"])


def expected(cookie_state: str, tokens: list[tuple[str, str]], route: str) -> tuple[int, str | None]:
    """HTTP status (0: passed) and who the application is told of; ``tokens`` as state and account."""
    presented = [(state, account) for state, account in tokens if state != "absent"]
    if any(state != "valid" for state, _ in presented):
        return (0, None) if route == "public" else (401, None)
    accounts = {account for _, account in presented}
    principals = accounts | ({"alice"} if cookie_state == "valid" else set())
    if len(principals) > 1:
        return 400, None
    if principals:
        return 0, principals.pop()
    return (0, None) if route == "public" else (401, None)


@pytest.mark.parametrize("route", ["app", "public"])
@pytest.mark.parametrize(("cookie_state", "token_state"), list(itertools.product(STATES, STATES)))
@pytest.mark.parametrize("header", ["authorization", "doorward_authorization"])
async def test_s28_s49_a_cookie_beside_a_token(
    world: World, route: str, cookie_state: str, token_state: str, header: str
):
    sent = cookie(world, cookie_state, route)
    presented = token(world, token_state, "robot")
    if presented is not None:
        sent[header] = f"Bearer {presented}"
    response = await world.check(route, **sent)
    wanted, principal = expected(cookie_state, [(token_state, ROBOT)], route)
    assert status(response) == wanted
    if passed(response):
        told = who(response)
        assert (told is None) is (principal is None)
        assert principal in {None, "alice"} or told == principal
        assert "doorward-authorization" in response.ok_response.headers_to_remove
        ours_in_theirs = header == "authorization" and presented is not None
        assert ("authorization" in response.ok_response.headers_to_remove) is ours_in_theirs
    else:
        assert "robot" not in body(response)
        assert str(presented) not in body(response)


@pytest.mark.parametrize(("first", "second"), list(itertools.product(STATES[1:], STATES[1:])))
async def test_s49_a_token_of_another_account_in_each_header(world: World, first: str, second: str):
    one, two = token(world, first, "robot"), token(world, second, "other")
    response = await world.check(authorization=f"bearer {one}", doorward_authorization=f"Bearer {two}")
    assert status(response) == expected("absent", [(first, ROBOT), (second, OTHER)], "app")[0]


@pytest.mark.parametrize("state", STATES[1:])
async def test_the_same_token_twice_is_one(world: World, state: str):
    presented = token(world, state, "robot")
    response = await world.check(authorization=f"Bearer {presented}", doorward_authorization=f"Bearer {presented}")
    assert status(response) == expected("absent", [(state, ROBOT)], "app")[0]


@pytest.mark.parametrize(
    "value",
    [
        "Basic YWxpY2U6c2VjcmV0",
        "Bearer eyJhbGciOiJub25lIn0.e30.",
        "Bearer dwsb_looks_alike",
        "Bearer  spaced",
        "Negotiate abc",
        "dwsa_without_scheme",
        "",
        "Bearer",
    ],
)
@pytest.mark.parametrize("with_token", [False, True])
async def test_an_applications_own_authorization_arrives_unchanged(world: World, value: str, with_token: bool):
    sent = {"doorward_authorization": f"Bearer {world.account()}"} if with_token else {"cookie": world.sign_in()}
    response = await world.check(authorization=value, **sent)
    assert passed(response), response
    assert "authorization" not in set_headers(response)
    assert "authorization" not in response.ok_response.headers_to_remove


async def test_s50_no_answer_repeats_a_token(world: World):
    presented = world.account()
    for sent in (
        {"authorization": f"Bearer {presented}x"},
        {"authorization": f"Bearer {presented}", "cookie": world.sign_in()},
    ):
        response = await world.check(**sent)
        assert not passed(response)
        assert presented[:40].encode() not in response.SerializeToString()
    await world.log.flush()
    assert presented[:40] not in (world.folder / "decisions.jsonl").read_text()


@pytest.mark.parametrize("value", ["Bearer {}", "{}", "bearer   {}  "])
async def test_our_own_header_takes_the_token_with_or_without_a_scheme(world: World, value: str):
    assert passed(await world.check(doorward_authorization=value.format(world.account())))


async def test_anything_else_in_our_own_header_is_refused(world: World):
    for value in ("Basic YWJj", "Bearer", "x", "Bearer dwsa_"):
        response = await world.check(doorward_authorization=value, cookie=world.sign_in())
        assert status(response) == 401
        assert '"credential-not-accepted"' in body(response)


async def test_s66_an_account_ends_by_the_clock_and_by_revoke(world: World):
    presented = {"authorization": f"Bearer {world.account()}"}
    assert passed(await world.check(**presented))
    world.clock.advance(3600)
    assert status(await world.check(**presented)) == 401
    presented = {"authorization": f"Bearer {world.account()}"}
    assert passed(await world.check(**presented))
    del world.records.data["ServiceAccount", ROBOT]
    assert status(await world.check(**presented)) == 401


async def test_a_hash_that_somebody_copied_to_another_account_opens_nothing(world: World):
    """Whoever can write to the store must not give an account the token of another one."""
    world.account("other")
    robot = world.account("robot")
    stolen = ServiceAccount.from_bytes(world.records.data["ServiceAccount", OTHER])
    mine = ServiceAccount.from_bytes(world.records.data["ServiceAccount", ROBOT])
    world.records.data["ServiceAccount", ROBOT] = ServiceAccount(
        id=mine.id,
        name=mine.name,
        groups=mine.groups,
        token_hash=stolen.token_hash,
        created_at=mine.created_at,
        expires_at=mine.expires_at,
    ).to_bytes()
    assert status(await world.check(authorization=f"Bearer {robot}")) == 401


async def test_a_program_is_decided_by_its_groups_and_may_change_things_without_an_origin(world: World):
    admin, plain = world.account("robot"), world.account("other", groups=frozenset())
    assert passed(
        await world.check("admin", method="POST", authorization=f"Bearer {admin}", sec_fetch_site="cross-site")
    )
    assert status(await world.check("admin", authorization=f"Bearer {plain}")) == 403


async def test_s66_a_program_loses_its_streams_with_whoever_answers_for_it(tmp_path: Path):
    streams = Streams(tmp_path)
    world = streams.world
    world.sign_in("alice")
    alice = user_id(ISSUER, "alice")
    number = await streams.opened(authorization=f"Bearer {world.account(owner_id=alice)}")
    await streams.opened(authorization=f"Bearer {world.account('other')}")
    world.records.data["User", alice] = replace(
        User.from_bytes(world.records.data["User", alice]), active=False
    ).to_bytes()
    streams.watcher.on_record("User", alice)
    assert await streams.settle() == [(number, False, "session-ended")]


async def test_s86_the_end_of_an_account_ends_its_streams(tmp_path: Path):
    streams = Streams(tmp_path)
    number = await streams.opened(authorization=f"Bearer {streams.world.account()}")
    del streams.world.records.data["ServiceAccount", ROBOT]
    streams.watcher.on_record("ServiceAccount", ROBOT)
    assert await streams.settle() == [(number, False, "session-ended")]
    await streams.opened(authorization=f"Bearer {streams.world.account('other')}")
    streams.world.clock.advance(3601)
    streams.watcher.on_time()
    assert [allowed for _, allowed, _ in await streams.settle()] == [False]
