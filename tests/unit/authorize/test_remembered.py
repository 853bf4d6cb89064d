"""S69 to S72: there is no cache of decisions; what is remembered beside them must never show.

An authorizer that has lived through any history answers as one that was made this moment over the same records, configuration and clock.
"""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.key_material import keyring
from tests.unit.authorize.builders import CONFIG, ISSUER, World, passed, set_headers, status, world

from doorward.envoy_api.envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from doorward.identity.user import User, user_id
from doorward.keys.store import Purpose
from doorward_authorize.assertion import AssertionSigner
from doorward_authorize.check_response import Responder
from doorward_authorize.checker import Checker
from doorward_authorize.decision_log import DecisionLog
from doorward_authorize.decision_record import RecordEncoder
from doorward_authorize.evaluator import Evaluator
from doorward_authorize.held_decisions import HeldDecisions
from doorward_authorize.log_file import LogFile
from doorward_authorize.principals import Principals
from doorward_authorize.sign_in_redirect import SignInRedirect
from doorward_authorize.snapshot import Snapshot

__all__ = ["world"]

OTHER = CONFIG.replace("{groups: {has: admins}}", "{groups: {has: eng}}").replace("x-who: email", "x-who: user")


def newborn(world: World) -> Checker:
    """An authorizer without a past."""
    principals = Principals(world.handles, world.records, world.records, world.clock)
    snapshot: Snapshot = world.evaluator.snapshot
    encoder = RecordEncoder(keyring(Purpose.DECISION_FACTS), ())
    return Checker(
        authorizer_id="new",
        evaluator=Evaluator(snapshot, principals, world.records, world.clock, world.metrics),
        responder=Responder(
            AssertionSigner(world.assertion_keys, world.clock),
            SignInRedirect(world.flows, world.signer, world.clock),
            world.clock,
        ),
        log=DecisionLog(LogFile(world.folder / "new.jsonl", 1 << 30, 1, 60.0), encoder, world.metrics),
        held=HeldDecisions(),
        explanations=world.explanations,
        gateways=world.gateways,
        data_version=lambda: world.records.version,
        clock=world.clock,
        metrics=world.metrics,
    )


def comparable(data: bytes, now: float) -> dict[str, Any]:
    """An answer without what differs between two authorizers: decision ids, and when an assertion was signed."""
    response = CheckResponse.FromString(data)
    if not passed(response):
        denied = response.denied_response
        names = {option.header.key for option in denied.headers}
        return {"status": denied.status.code, "names": names}
    headers = set_headers(response)
    token = headers.pop("x-doorward-jwt-assertion", None)
    claims: dict[str, Any] = {}
    if token is not None:
        part = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        assert claims["nbf"] <= now < claims["exp"], "an assertion that does not hold now"
        for name in ("iat", "nbf", "exp", "jti"):
            del claims[name]
    return {"headers": headers, "removed": sorted(response.ok_response.headers_to_remove), "claims": claims}


def user(world: World, **fields: Any) -> None:
    known = User.from_bytes(world.records.data["User", user_id(ISSUER, "alice")])
    values = {name: getattr(known, name) for name in ("id", "issuer", "subject", "email", "email_verified", "name")}
    values |= {"groups": known.groups, "active": known.active} | fields
    world.records.data["User", known.id] = User(**values).to_bytes()


def _revoke(world: World) -> None:
    for key in [key for key in world.records.data if key[0] == "Session"]:
        del world.records.data[key]


HISTORY: dict[str, Callable[[World], object]] = {
    "group-removed": lambda world: user(world, groups=frozenset()),
    "group-added": lambda world: user(world, groups=frozenset({"admins", "eng"})),
    "groups-unknown": lambda world: user(world, groups=None),
    "deactivated": lambda world: user(world, active=False),
    "reactivated": lambda world: user(world, active=True),
    "renamed": lambda world: user(world, name="Al\r\nice", email="alice@other.example"),
    "revoked": _revoke,
    "signed-in": lambda world: world.sign_in(),
    "other-policy": lambda world: world.reload(OTHER),
    "first-policy": lambda world: world.reload(CONFIG),
    "address-not-trusted": lambda world: world.reload(CONFIG.replace("[example.com]", "[other.example]")),
    "other-sign-in": lambda world: world.reload(CONFIG.replace("sign-in.example.com", "login.example.com")),
    "a-minute": lambda world: world.clock.advance(60),
    "until-renewal": lambda world: world.clock.advance(241),
    "an-hour": lambda world: world.clock.advance(3_600),
    "stale": lambda world: setattr(world.records, "age", 10.0),
    "fresh": lambda world: setattr(world.records, "age", 0.0),
}
CHECKS = st.tuples(
    st.sampled_from(["app", "admin", "public"]),
    st.sampled_from(["", "alice", "alice; theirs=1", "theirs=2", "alice; alice", "foreign"]),
    st.sampled_from(["GET", "POST"]),
    st.sampled_from(["/", "/a/b?c=d", "/a;b"]),
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(sorted(HISTORY)) | CHECKS, min_size=4, max_size=25))
async def test_s69_any_history_answers_as_none(world: World, history: list[str | tuple[str, str, str, str]]):
    world.records.data.clear()
    world.records.age = 0.0
    world.reload(CONFIG)
    cookies = {
        host: world.sign_in(host=host) for host in ("app.example.com", "admin.example.com", "public.example.com")
    }
    for step in history:
        if isinstance(step, str):
            HISTORY[step](world)
            continue
        route, wanted, method, path = step
        own = cookies[f"{route}.example.com"]
        foreign = cookies["admin.example.com" if route == "app" else "app.example.com"]
        cookie = wanted.replace("alice", own).replace("foreign", foreign)
        data = world.request(route, method=method, path=path, **({"cookie": cookie} if cookie else {}))
        expected = newborn(world).check(data)
        now = world.clock.now()
        assert isinstance(expected, bytes)
        for _ in range(2):
            assert comparable(await world.answer(data), now) == comparable(expected, now)


@pytest.mark.parametrize("change", ["group-removed", "deactivated", "revoked", "other-policy", "an-hour"])
async def test_s70_s71_every_input_counts_at_once(world: World, change: str):
    cookie = world.sign_in(host="admin.example.com")
    for _ in range(3):
        assert passed(await world.check("admin", cookie=cookie))
    HISTORY[change](world)
    assert not passed(await world.check("admin", cookie=cookie))


async def test_a_key_that_is_revoked_counts_at_once(world: World):
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


async def test_s72_what_is_remembered_is_recorded_all_the_same(world: World):
    cookie = world.sign_in()
    for _ in range(5):
        await world.check(cookie=cookie)
    await world.log.flush()
    lines = (world.folder / "decisions.jsonl").read_text().splitlines()
    assert len({json.loads(line)["decision_id"] for line in lines}) == 5
    assert world.registry.get_sample_value("doorward_decisions_total", {"outcome": "allow"}) == 5


async def test_what_is_remembered_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("doorward_authorize.check_response.READY_LIMIT_BYTES", 20_000)
    cookie = world.sign_in()
    for number in range(100):
        assert passed(await world.check(cookie=f"{cookie}; a={number}"))
        assert len(world.checker._responder._ready) < 40


async def test_what_nobody_gets_back_counts_against_the_bound_too(world: World, monkeypatch: pytest.MonkeyPatch):
    """Cookies called as ours are kept from every upstream; anybody may send sixty kilobytes of them to a public route."""
    monkeypatch.setattr("doorward_authorize.check_response.READY_LIMIT_BYTES", 200_000)
    for number in range(40):
        assert passed(await world.check("public", cookie=f"__Host-doorward-{number}={'x' * 20_000}"))
        assert len(world.checker._responder._ready) < 12


async def test_a_method_that_a_client_invents_is_not_remembered(world: World):
    for number in range(20):
        await world.check("public", method=f"M{number}" * 1_000)
    await world.check("public")
    await world.log.flush()
    assert len(world.log._encoder._fixed) == 1


async def test_an_assertion_says_what_the_configuration_says_now(world: World):
    cookie = world.sign_in()
    first = claims_of(await world.check(cookie=cookie))
    world.reload(CONFIG.replace("[example.com]", "[other.example]").replace("sign-in.example.com", "login.example.com"))
    second = claims_of(await world.check(cookie=cookie))
    assert (first["email"], first["iss"]) == ("alice@example.com", "https://sign-in.example.com")
    assert ("email" in second, second["iss"]) == (False, "https://login.example.com")


def claims_of(response: CheckResponse) -> dict[str, Any]:
    part = set_headers(response)["x-doorward-jwt-assertion"].split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return claims
