"""S69 to S72: there is no cache of decisions; what is remembered beside them must never show.

An authorizer that has lived through any history answers as one that was made this moment over the same records, configuration and clock.
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.key_material import keyring
from tests.unit.authorize.builders import CONFIG, ISSUER, passed, set_headers, status
from tests.unit.authorize.remembering import EVERYTHING, HOSTS, SPOILED, Ask, Lived, claims_of, comparable, session_id

from doorward.envoy_api.envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from doorward.errors import UnavailableError
from doorward.identity.issuer_keys import KEEP_SECONDS
from doorward.identity.session import Session
from doorward.identity.user import user_id
from doorward.keys.store import Purpose

OTHER = (
    EVERYTHING.replace("{groups: {has: admins}}", "{groups: {has: eng}}")
    .replace("x-who: email", "x-who: user")
    .replace("{http_header/x-team: blue}", "{http_header/x-team: red}")
    .replace("routes: [granted]", "routes: [recorded]")
    .replace('level, ">=": 5', 'level, ">=": 4')
    .replace("    client_certificate: fact", "    client_certificate: principal")
    .replace("pass_bearer: true", "pass_bearer: false")
)
EXAMPLES = int(os.environ.get("DOORWARD_HISTORIES", "40"))
"""How many histories are lived through; a million steps are some 35,000."""


def _new_keys(world: Lived) -> None:
    world.handle_keys.take_over(keyring(Purpose.SESSION_HANDLE, "new"))
    world.token_keys.take_over(keyring(Purpose.SERVICE_ACCOUNT, "new"))
    world.assertion_keys.take_over(keyring(Purpose.ASSERTION, "new"))
    world.cookies.clear()


def _revoked_list(world: Lived) -> None:
    (world.folder / "clients.crl").write_text(world.authority.revocation_list(world.machines["laptop"]))
    world.reload(
        EVERYTHING.replace("authorities: clients.crt", "authorities: clients.crt, revocation_lists: clients.crl")
    )


def _other_issuer_keys(world: Lived) -> None:
    world.ci, world.stranger = world.stranger, world.ci
    world.issue()


HISTORY: dict[str, Callable[[Lived], object]] = {
    "group-removed": lambda world: world.user(groups=frozenset()),
    "group-added": lambda world: world.user(groups=frozenset({"admins", "eng"})),
    "groups-unknown": lambda world: world.user(groups=None),
    "deactivated": lambda world: world.user(active=False),
    "reactivated": lambda world: world.user(active=True),
    "renamed": lambda world: world.user(name="Al\r\nice", email="alice@other.example"),
    "not-verified": lambda world: world.user(email_verified=False),
    "user-gone": lambda world: world.drop("User"),
    "user-spoiled": lambda world: world.spoil("User", user_id(ISSUER, "alice")),
    "owner-deactivated": lambda world: world.user("dora", active=False),
    "revoked": lambda world: world.drop("Session"),
    "session-spoiled": lambda world: world.spoil("Session", session_id("alice")),
    "session-shortened": lambda world: world.session(expires_at=world.clock.now() + 100),
    "signed-in-otherwise": lambda world: world.session(methods=("pwd",), claims_json=b'{"department":"ops"}'),
    "signed-in": lambda world: world.sign("alice"),
    "dora-signed-in": lambda world: world.sign("dora"),
    "other-policy": lambda world: world.reload(OTHER),
    "first-policy": lambda world: world.reload(EVERYTHING),
    "address-not-trusted": lambda world: world.reload(EVERYTHING.replace("[example.com]", "[other.example]")),
    "other-sign-in": lambda world: world.reload(EVERYTHING.replace("sign-in.example.com", "login.example.com")),
    "issuer-not-listed": lambda world: world.reload(
        EVERYTHING.replace("    token_issuers: [ci]\n", "").replace("    pass_bearer: true\n", "")
    ),
    "shorter-grants": lambda world: world.reload(EVERYTHING.replace("longest: 4h", "longest: 10m")),
    "certificate-revoked": _revoked_list,
    "a-minute": lambda world: world.clock.advance(60),
    "until-renewal": lambda world: world.clock.advance(241),
    "a-quarter": lambda world: world.clock.advance(900),
    "an-hour": lambda world: world.clock.advance(3_600),
    "set-back": lambda world: world.clock.jump(world.clock.now() - 120),
    "stale": lambda world: setattr(world.records, "age", 10.0),
    "fresh": lambda world: setattr(world.records, "age", 0.0),
    "other-keys": _new_keys,
    "programs-gone": lambda world: world.drop("ServiceAccount"),
    "programs-changed": lambda world: world.programs(frozenset()),
    "programs-again": lambda world: world.programs(),
    "issuer-keys-gone": lambda world: world.drop("IssuerKeys"),
    "issuer-keys-old": lambda world: world.issue(confirmed=-KEEP_SECONDS + 30),
    "issuer-keys-again": lambda world: world.issue(),
    "issuer-keys-replaced": _other_issuer_keys,
    "not-in-group": lambda world: world.entry(group_numbers=()),
    "in-group": lambda world: world.entry(),
    "entry-inactive": lambda world: world.entry(active=False),
    "entry-gone": lambda world: world.drop("DirectoryUser"),
    "group-renamed": lambda world: world.group("g-1", "others"),
    "group-back": lambda world: world.group("g-1", "admins"),
    "group-gone": lambda world: world.drop("DirectoryGroup"),
    "synchronised": lambda world: world.synchronise(),
    "synchronised-long-ago": lambda world: world.synchronise(-3_570.0),
    "never-synchronised": lambda world: world.synchronise(None),
    "granted": lambda world: world.grant(),
    "granted-otherwise": lambda world: world.grant(name="other"),
    "grant-gone": lambda world: world.drop("Grant"),
    "level-high": lambda world: world.level(5),
    "level-low": lambda world: world.level(4, stale=90.0),
    "level-gone": lambda world: world.drop("ExternalRecord"),
    "levels-unknown": lambda world: world.drop("ExternalSource"),
    "provider-token": lambda world: world.provider_token("two", life=100),
    "provider-token-gone": lambda world: world.drop("SessionUpstreamToken"),
    "cluster-token": lambda world: world.cluster_token("service-token-2"),
    "cluster-token-gone": lambda world: world.cluster_token(None),
    "databroker-knows": lambda world: arrives(world),
    "databroker-fails": lambda world: setattr(world.records, "fails", UnavailableError("gone")),
}
PLAIN = {
    "route": st.sampled_from(HOSTS),
    "path": st.sampled_from(["/", "/", "/a/b?c=d", "/?tenant=blue"]),
    "headers": st.fixed_dictionaries(
        {"x-team": st.sampled_from(["", "blue"]), "accept": st.sampled_from(["", "text/html"])}
    ),
}
ODD = {
    "route": st.sampled_from(HOSTS),
    "cookie": st.sampled_from(["", "alice", "dora", "new", "foreign", "alice; theirs=1", "theirs=2", "alice; alice"]),
    "authorization": st.sampled_from(
        [(), ("robot",), ("owned",), ("ci",), ("forged",), ("basic",), ("dws_wrong",), ("robot", "ci"), ("ci", "basic")]
    ),
    "our_header": st.sampled_from(["", "", "robot", "owned", "nonsense"]),
    "certificate": st.sampled_from(["", "laptop", "phone", "later"]),
    "sni": st.sampled_from(["", "", "", "app"]),
    "method": st.sampled_from(["GET", "POST", "OPTIONS"]),
    "path": st.sampled_from(["/", "/a/b?c=d", "/a;b", "/?tenant=blue", "/?tenant=red"]),
    "address": st.sampled_from(["10.0.0.1", "192.0.2.7", None]),
    "headers": st.fixed_dictionaries(
        {
            "x-team": st.sampled_from(["", "blue", "red"]),
            "accept": st.sampled_from(["", "text/html", "application/json"]),
            "origin": st.sampled_from(["", "", "https://friend.example.com", "https://evil.example"]),
            "access-control-request-method": st.sampled_from(["", "", "GET"]),
        }
    ),
}
ASKS = st.one_of(
    st.builds(Ask, cookie=st.just("alice"), certificate=st.sampled_from(["", "", "laptop"]), **PLAIN),
    st.builds(Ask, cookie=st.sampled_from(["alice", "dora", "alice; theirs=1"]), **PLAIN),
    st.builds(Ask, authorization=st.sampled_from([("robot",), ("owned",), ("ci",)]), **PLAIN),
    st.builds(Ask, certificate=st.sampled_from(["laptop", "phone", "later"]), **PLAIN),
    st.builds(Ask, **ODD),
)
GIVEN_UP = st.tuples(ASKS.map(lambda ask: replace(ask, cookie="new")), st.integers(0, 4))
"""Requests that wait for a session of which only the databroker could know, and are cancelled after some turns of the loop."""
Step = str | Ask | tuple[Ask, int]


@st.composite
def histories(draw: st.DrawFn) -> list[Step]:
    """Few requests that come again and again, so that there is something to remember."""
    asks = draw(st.lists(ASKS, min_size=1, max_size=4))
    again = st.sampled_from(asks)
    steps = st.one_of(st.sampled_from(sorted(HISTORY)), again, again, again, ASKS, GIVEN_UP)
    return draw(st.lists(steps, min_size=8, max_size=40))


def arrives(world: Lived) -> None:
    """The databroker knows of a session that the replica has not heard of."""
    data = world.records.data.get(("Session", session_id("alice")))
    if data is not None and data != SPOILED:
        world.records.arrives = replace(Session.from_bytes(data), id=session_id("new")).to_bytes()
    world.records.fails = None


async def answer_of(answer: bytes | Awaitable[bytes]) -> bytes:
    return answer if isinstance(answer, bytes) else await answer


async def compare(world: Lived, ask: Ask) -> dict[str, Any]:
    """The answer, which the authorizer with a past must give twice as the one without does."""
    data = world.written(ask)
    expected = comparable(world, await answer_of(world.newborn().check(data)))
    for _ in range(2):
        assert comparable(world, await world.answer(data)) == expected
    return expected


async def give_up(world: Lived, ask: Ask, turns: int) -> None:
    """Envoy resets the call while it waits, or the connection ends."""
    world.records.hangs = True
    try:
        answer = world.checker.check(world.written(ask))
        if not isinstance(answer, bytes):
            waiting = asyncio.ensure_future(answer)
            for _ in range(turns):
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
    finally:
        world.records.hangs = False
    assert world.checker._waiting == 0


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(histories())
async def test_s69_any_history_answers_as_none(world: Lived, history: list[Step]):
    world.start()
    for step in history:
        match step:
            case str():
                HISTORY[step](world)
            case Ask():
                await compare(world, step)
            case (ask, turns):
                await give_up(world, ask, turns)


@pytest.fixture
def world(tmp_path: Path) -> Lived:
    return Lived(tmp_path)


async def test_a_key_that_is_revoked_counts_at_once(world: Lived):
    """Not even for cookies and tokens that were looked at before."""
    cookie, token = world.sign_in(), f"Bearer {world.account()}"
    for _ in range(2):
        assert passed(await world.check(cookie=cookie))
        assert passed(await world.check(authorization=token))
    world.handle_keys.take_over(keyring(Purpose.SESSION_HANDLE, "new", Purpose.SESSION_HANDLE))
    world.token_keys.take_over(keyring(Purpose.SERVICE_ACCOUNT, "new", Purpose.SERVICE_ACCOUNT))
    assert passed(await world.check(cookie=cookie))
    assert passed(await world.check(authorization=token))
    world.handle_keys.take_over(keyring(Purpose.SESSION_HANDLE, "new"))
    world.token_keys.take_over(keyring(Purpose.SERVICE_ACCOUNT, "new"))
    assert status(await world.check(cookie=cookie)) == 401
    assert status(await world.check(authorization=token)) == 401


async def test_s72_what_is_remembered_is_recorded_all_the_same(world: Lived):
    cookie = world.sign_in()
    for _ in range(5):
        await world.check(cookie=cookie)
    await world.log.flush()
    lines = (world.folder / "decisions.jsonl").read_text().splitlines()
    assert len({json.loads(line)["decision_id"] for line in lines}) == 5
    assert world.registry.get_sample_value("doorward_decisions_total", {"outcome": "allow"}) == 5


async def test_what_is_remembered_is_bounded(world: Lived, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("doorward_authorize.check_response.READY_LIMIT_BYTES", 20_000)
    cookie = world.sign_in()
    for number in range(100):
        assert passed(await world.check(cookie=f"{cookie}; a={number}"))
        assert len(world.checker._responder._ready) < 40


@pytest.mark.parametrize(
    "ask",
    [
        Ask(cookie="alice"),
        Ask(authorization=("robot",)),
        Ask(authorization=("owned",)),
        Ask(route="builds", authorization=("ci",)),
        Ask(route="machine", certificate="laptop"),
    ],
    ids=["cookie", "program", "program with an owner", "token of another issuer", "certificate"],
)
async def test_who_asks_again_is_answered_from_memory(world: Lived, ask: Ask):
    """Whatever vouches for them: an answer that is kept and never found fills the memory until it is emptied, all at once."""
    data = world.written(ask)
    for _ in range(5):
        assert passed(CheckResponse.FromString(await world.answer(data)))
    assert len(world.checker._responder._ready) == 1


async def test_what_nobody_gets_back_counts_against_the_bound_too(world: Lived, monkeypatch: pytest.MonkeyPatch):
    """Cookies called as ours are kept from every upstream; anybody may send sixty kilobytes of them to a public route."""
    monkeypatch.setattr("doorward_authorize.check_response.READY_LIMIT_BYTES", 200_000)
    for number in range(40):
        assert passed(await world.check("public", cookie=f"__Host-doorward-{number}={'x' * 20_000}"))
        assert len(world.checker._responder._ready) < 12


async def test_a_method_that_a_client_invents_is_not_remembered(world: Lived):
    for number in range(20):
        await world.check("public", method=f"M{number}" * 1_000)
    await world.check("public")
    await world.log.flush()
    assert len(world.log._encoder._fixed) == 1


async def test_an_assertion_says_what_the_configuration_says_now(world: Lived):
    cookie = world.sign_in()
    first = claims_of(set_headers(await world.check(cookie=cookie))["x-doorward-jwt-assertion"])
    world.reload(CONFIG.replace("[example.com]", "[other.example]").replace("sign-in.example.com", "login.example.com"))
    second = claims_of(set_headers(await world.check(cookie=cookie))["x-doorward-jwt-assertion"])
    assert (first["email"], first["iss"]) == ("alice@example.com", "https://sign-in.example.com")
    assert ("email" in second, second["iss"]) == (False, "https://login.example.com")


async def test_s50_a_token_stays_here_whichever_header_it_came_in_before(world: Lived):
    """The same program, the same route: one answer must not stand for the other."""
    token, own = f"Bearer {world.account()}", "Basic YWxpY2U6c2VjcmV0"
    for _ in range(2):
        beside = await world.check(doorward_authorization=token, authorization=own)
        alone = await world.check(authorization=token)
        assert passed(beside)
        assert "authorization" not in beside.ok_response.headers_to_remove, "it is the application's"
        assert passed(alone)
        assert "authorization" in alone.ok_response.headers_to_remove


async def test_what_answers_are_found_by_is_kept_alive(world: Lived):
    """They are found by the identity of objects, which another one gets when the first is gone."""
    assert passed(await world.check(cookie=world.sign_in()))
    ((key, (route, principal, _)),) = world.checker._responder._ready.items()
    assert (id(route), id(principal)) == key[:2]
    assert route is world.evaluator.snapshot.routes["app"].route
