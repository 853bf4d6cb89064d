"""The whole plane but its transport: CheckRequest in, CheckResponse out."""

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.authorize.builders import CONFIG, World, passed, set_headers, status, world

from doorward.envoy_api.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from doorward.errors import UnavailableError
from doorward.identity.session import Session
from doorward.records.record import RecordVersion
from doorward.rpc.grpc_methods import UNAVAILABLE, CallEnded
from doorward.telemetry.tracing import Span, Tracer
from doorward_authorize.transport import CHECK_METHOD, check_methods

__all__ = ["world"]
ALICE = "616c696365".ljust(32, "0")
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def test_somebody_signed_in_passes_with_their_identity(world: World):
    response = await world.check(cookie=world.sign_in() + "; theirs=1")
    assert passed(response)
    headers = set_headers(response)
    assert headers["x-who"] == "alice@example.com"
    assert headers["x-groups"] == "admins"
    assert headers["cookie"] == "theirs=1"
    assert headers["x-doorward-jwt-assertion"].count(".") == 2


async def test_no_header_is_both_set_and_removed(world: World):
    """Envoy would deliver none of them."""
    for cookie in ("", world.sign_in(), world.sign_in() + "; a=b"):
        response = await world.check("public", **({"cookie": cookie} if cookie else {}))
        assert not set(set_headers(response)) & set(response.ok_response.headers_to_remove)


async def test_nobody_is_sent_to_sign_in_or_told(world: World):
    page = await world.check(accept="text/html")
    assert status(page) == 302
    assert status(await world.check()) == 401
    grpc = await world.check(method="POST", content_type="application/grpc")
    headers = {option.header.key: option.header.value for option in grpc.denied_response.headers}
    assert (status(grpc), headers["grpc-status"]) == (200, "16")
    assert grpc.status.code != 0


async def test_a_denial_explains_itself_and_escapes_the_operators_words(world: World):
    cookie = world.sign_in(groups=frozenset(), host="admin.example.com")
    response = await world.check("admin", cookie=cookie, accept="text/html")
    assert status(response) == 403
    assert "Ask for &lt;admins&gt;." in response.denied_response.body
    assert "alice@example.com" in response.denied_response.body


async def test_unknown_groups_do_not_satisfy_a_group_rule(world: World):
    cookie = world.sign_in(groups=None, host="admin.example.com")
    assert status(await world.check("admin", cookie=cookie)) == 403


@pytest.mark.parametrize(
    "change",
    [{"active": False}, {"provider": "gone"}],
    ids=["inactive", "identity-provider-removed"],
)
async def test_who_no_longer_counts_is_denied_but_on_public_routes(world: World, change: dict[str, object]):
    app = world.sign_in(**change)  # type: ignore[arg-type]
    assert status(await world.check(cookie=app)) == 403
    public = world.sign_in(host="public.example.com", **change)  # type: ignore[arg-type]
    assert passed(await world.check("public", cookie=public))


async def test_s66_a_session_ends_by_the_clock_of_the_decision(world: World):
    cookie = world.sign_in()
    assert passed(await world.check(cookie=cookie))
    world.clock.advance(3600)
    assert status(await world.check(cookie=cookie)) == 401


async def test_a_cookie_ends_by_the_clock_though_its_session_goes_on(world: World):
    cookie = world.sign_in()
    session = Session.from_bytes(world.records.data["Session", ALICE])
    world.records.data["Session", ALICE] = replace(session, expires_at=session.expires_at + 3600).to_bytes()
    for _ in range(2):
        assert passed(await world.check(cookie=cookie))
    world.clock.advance(3600)
    assert status(await world.check(cookie=cookie)) == 401


async def test_who_signed_in_elsewhere_is_nobody_of_the_provider_that_took_its_name(world: World):
    """The id stays in the configuration and another issuer stands behind it: its people are not those of before."""
    cookie = world.sign_in()
    assert passed(await world.check(cookie=cookie))
    world.reload(CONFIG.replace("issuer: https://idp.example.com", "issuer: https://other.example.com"))
    response = await world.check(cookie=cookie)
    assert status(response) == 403
    assert "identity-provider-not-accepted" in response.denied_response.body


async def test_a_session_that_is_gone_is_nobody(world: World):
    cookie = world.sign_in()
    world.records.data.clear()
    assert status(await world.check(cookie=cookie)) == 401


async def test_a_user_record_that_is_missing_or_spoiled_lets_nobody_in(world: World):
    cookie = world.sign_in()
    user_key = next(key for key in world.records.data if key[0] == "User")
    del world.records.data[user_key]
    assert status(await world.check(cookie=cookie)) == 403
    world.records.data[user_key] = b"\xff\xff"
    assert status(await world.check(cookie=cookie)) == 401


async def test_before_the_first_snapshot_everything_waits_and_nobody_is_sent_to_sign_in(world: World):
    """Who is not known yet is not nobody, and what anybody may see waits as well (decision 0020)."""
    cookie = world.sign_in()
    known, world.records.data = world.records.data, {}
    world.records.age = float("inf")
    for route, headers in (
        ("app", {"cookie": cookie, "accept": "text/html"}),
        ("app", {}),
        ("public", {}),
        ("admin", {}),
    ):
        response = await world.check(route, **headers)
        assert status(response) == 503, route
        assert "location" not in {option.header.key for option in response.denied_response.headers}
    assert world.records.asked == 0
    assert passed(await world.check("@sign-in")), "our own pages read no record"
    world.records.data, world.records.age = known, 0.0
    assert passed(await world.check(cookie=cookie))


async def test_read_your_writes_asks_the_databroker_once(world: World):
    cookie = world.sign_in(number=500)
    key = next(key for key in world.records.data if key[0] == "Session")
    world.records.arrives = world.records.data.pop(key)
    assert passed(await world.check(cookie=cookie))
    assert world.records.asked == 1
    world.records.arrives = None
    assert status(await world.check(cookie=cookie)) == 401


async def test_a_sign_in_that_nobody_can_look_up_is_not_asked_for_again(world: World):
    """A browser would go round and round between the sign-in, which works, and an authorizer that cannot know of it."""
    cookie = world.sign_in(number=500)
    del world.records.data[next(key for key in world.records.data if key[0] == "Session")]
    world.records.fails = UnavailableError("the databroker is away")
    response = await world.check(cookie=cookie, accept="text/html")
    assert status(response) == 503
    assert status(await world.check("public", cookie=cookie)) == 0
    token = world.account()
    assert status(await world.check(cookie=cookie, authorization=f"Bearer {token}")) == 400
    world.records.fails, world.records.hangs = None, True
    assert status(await world.check(cookie=cookie, accept="text/html")) == 503
    world.records.hangs = False
    assert status(await world.check(cookie=cookie, accept="text/html")) == 302


async def test_a_sign_in_that_is_missing_while_nobody_tells_of_changes_is_not_asked_for_again(world: World):
    """An older store that was put back gives numbers anew: the session of such a sign-in seems to have ended long ago."""
    cookie = world.sign_in(number=5)
    del world.records.data[next(key for key in world.records.data if key[0] == "Session")]
    world.records.is_following = False
    assert status(await world.check(cookie=cookie, accept="text/html")) == 503
    assert status(await world.check(accept="text/html")) == 302
    world.records.is_following = True
    assert status(await world.check(cookie=cookie, accept="text/html")) == 302


async def test_a_sign_in_of_a_newer_history_than_the_replicas_is_looked_up(world: World):
    """After a restore the replica is behind by an epoch until it has read everything anew."""
    cookie = world.sign_in(number=500)
    key = next(key for key in world.records.data if key[0] == "Session")
    world.records.arrives = world.records.data.pop(key)
    world.records.version = RecordVersion(0, 0)
    assert passed(await world.check(cookie=cookie))
    assert world.records.asked == 1


async def test_an_old_handle_whose_session_is_gone_waits_for_nothing(world: World):
    cookie = world.sign_in(number=5)
    world.records.data.clear()
    await world.check(cookie=cookie)
    assert world.records.asked == 0


async def test_stale_data_close_sensitive_routes_first_then_all(world: World):
    cookie = world.sign_in(host="admin.example.com")
    world.records.age = 3.0
    assert status(await world.check("admin", cookie=cookie)) == 503
    assert passed(await world.check("public"))
    world.records.age = 6.0
    assert status(await world.check("public")) == 503


async def test_another_authorizer_is_asked_where_the_data_here_are_too_old(world: World):
    """Envoy asks the next one after UNAVAILABLE; without another one people get our own page."""
    cookie = world.sign_in(host="admin.example.com")
    world.records.age = 3.0
    world.checker._others_may_know = lambda: True
    with pytest.raises(CallEnded) as ended:
        await world.check("admin", cookie=cookie)
    assert ended.value.status == UNAVAILABLE
    assert passed(await world.check("public")), "fresh enough for this route"
    assert world.registry.get_sample_value("doorward_checks_handed_on_total") == 1
    await world.log.flush()
    recorded = (world.folder / "decisions.jsonl").read_text()
    assert recorded.count("\n") == 1, "what is handed on is no decision"
    world.checker._others_may_know = lambda: False
    assert status(await world.check("admin", cookie=cookie)) == 503


@pytest.mark.parametrize(("route", "digest"), [("app", "other"), ("app", ""), ("nothing", "x"), ("", "")])
async def test_s11_an_unknown_route_or_digest_is_refused(world: World, route: str, digest: str):
    assert status(await world.check(route, digest=digest, cookie=world.sign_in())) == 503


async def test_an_operators_route_cannot_pass_for_one_of_ours(world: World):
    for route in ("@pages", "@sign-in", "@unmatched", "@broken"):
        assert status(await world.check(route, digest="forged")) == 503


@pytest.mark.parametrize("path", ["/a;b", "/%2e%2e/x", "/a%5cb", "//x", "/..", "x", "", "*", "http://app/x"])
async def test_s12_s13_an_ambiguous_path_is_refused_even_where_all_may(world: World, path: str):
    assert status(await world.check("public", path=path)) == 400


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"sec_fetch_site": "same-origin"}, 0),
        ({"sec_fetch_site": "none"}, 0),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"origin": "https://app.example.com"}, 0),
        ({"origin": "https://admin.example.com"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "https://friend.example.com", "sec_fetch_site": "cross-site"}, 0),
        ({}, 0),
    ],
)
async def test_s85_cross_origin_writes_need_a_listed_origin(world: World, headers: dict[str, str], expected: int):
    assert status(await world.check(method="POST", cookie=world.sign_in(), **headers)) == expected
    upgrade = await world.check(cookie=world.sign_in(), upgrade="websocket", **headers)
    assert status(upgrade) == expected


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("sec-fetch-site", ("same-origin", "cross-site")),
        ("sec-fetch-site", ("same-origin", "same-origin")),
        ("origin", ("https://app.example.com", "https://evil.example.com")),
        ("origin", ("https://friend.example.com", "https://evil.example.com")),
        ("origin", ("https://app.example.com", "https://app.example.com")),
    ],
)
async def test_s85_no_browser_says_twice_where_it_comes_from(world: World, name: str, values: tuple[str, str]):
    """The first of two values must not speak for the other."""
    for order in (values, values[::-1]):
        message = CheckRequest.FromString(world.request(method="POST", cookie=world.sign_in()))
        for value in order:
            message.attributes.request.http.header_map.headers.add(key=name, raw_value=value.encode())
        assert status(CheckResponse.FromString(await world.answer(message.SerializeToString()))) == 403


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"sec_fetch_site": "same-origin"}, 0),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"origin": "https://app.example.com"}, 0),
        ({"origin": "https://friend.example.com", "sec_fetch_site": "cross-site"}, 403),
        ({"origin": "https://admin.example.com"}, 403),
        ({}, 0),
    ],
)
async def test_s85_no_other_site_does_anything_at_our_own_pages(world: World, headers: dict[str, str], expected: int):
    """Not even an origin that a route of the host lists: our pages are no route of the operator's."""
    asked = {"digest": "internal", "method": "POST", "host": "app.example.com", **headers}
    assert status(await world.check("@pages", cookie=world.sign_in(), **asked)) == expected
    assert passed(await world.check("@pages", **asked)), "without a cookie there is nothing to do with it"


async def test_s85_a_cookie_that_no_longer_counts_is_still_no_other_sites_to_use(world: World):
    """Not on a public route either: whoever is barred must not be made to write there in their browser."""
    cookie = world.sign_in(host="public.example.com", active=False)
    asked = {"method": "POST", "cookie": cookie, "sec_fetch_site": "cross-site"}
    assert status(await world.check("public", **asked)) == 403
    asked["cookie"] = "__Host-doorward=nobody"
    assert passed(await world.check("public", **asked))


async def test_with_old_data_our_own_pages_take_nobody_for_signed_in(world: World):
    """Who somebody was a while ago is not who they are."""
    asked = {"digest": "internal", "host": "app.example.com", "cookie": world.sign_in()}
    assert "x-doorward-jwt-assertion" in set_headers(await world.check("@pages", **asked))
    world.records.age = 6.0
    response = await world.check("@pages", **asked)
    assert passed(response)
    assert "x-doorward-jwt-assertion" in response.ok_response.headers_to_remove


async def test_s27_only_a_listed_origins_preflight_is_answered_here(world: World):
    listed = await world.check(
        method="OPTIONS", origin="https://friend.example.com", access_control_request_method="PUT"
    )
    assert status(listed) == 204
    assert listed.status.code != 0, "the upstream must not see it"
    other = await world.check(method="OPTIONS", origin="https://evil.example.com", access_control_request_method="PUT")
    assert status(other) == 401


async def test_a_claim_header_that_nobody_fills_is_removed(world: World):
    response = await world.check(cookie=world.sign_in(verified=False))
    assert "x-who" in response.ok_response.headers_to_remove
    assert "x-who" not in set_headers(response)


async def test_every_decision_is_recorded_without_tokens_or_paths(world: World):
    cookie = world.sign_in()
    await world.check(cookie=cookie, path="/secret-path?token=abc")
    await world.check("@unmatched", digest="internal")
    await world.log.flush()
    lines = (world.folder / "decisions.jsonl").read_text()
    records = [json.loads(line) for line in lines.splitlines()]
    assert [record["route"] for record in records] == ["app", "@unmatched"]
    assert "secret-path" not in lines
    assert cookie.split("=")[1] not in lines
    assert world.held.get(records[0]["decision_id"]) is not None


async def test_an_assertion_is_signed_once_and_again_before_it_runs_out(world: World):
    cookie = world.sign_in()
    first = set_headers(await world.check(cookie=cookie))["x-doorward-jwt-assertion"]
    assert set_headers(await world.check(cookie=cookie))["x-doorward-jwt-assertion"] == first
    world.clock.advance(241)
    assert set_headers(await world.check(cookie=cookie))["x-doorward-jwt-assertion"] != first
    changed = world.sign_in(groups=frozenset())
    claims = set_headers(await world.check(cookie=changed))
    assert "x-groups" not in claims


async def test_s07_a_bug_refuses_and_is_counted(world: World, monkeypatch: pytest.MonkeyPatch):
    def broken(request: object) -> object:
        raise RuntimeError("planted")

    monkeypatch.setattr(world.evaluator, "decide", broken)
    response = await world.check("public")
    assert status(response) == 503
    assert "planted" not in response.denied_response.body
    assert world.registry.get_sample_value("doorward_check_failures_total") == 1


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=400))
async def test_no_bytes_are_a_yes(world: World, data: bytes):
    response = CheckResponse.FromString(await world.answer(data))
    assert not passed(response)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["app", "admin"]),
    st.text(max_size=12),
    st.text(max_size=30),
    st.dictionaries(st.sampled_from(["cookie", "accept", "origin", "upgrade", "content-type"]), st.binary(max_size=40)),
)
async def test_no_request_of_nobody_passes_a_closed_route(
    world: World, route: str, method: str, path: str, headers: dict[str, bytes]
):
    message = CheckRequest.FromString(world.request(route, method=method, path=path))
    for name, value in headers.items():
        message.attributes.request.http.header_map.headers.add(key=name, raw_value=value)
    response = CheckResponse.FromString(await world.answer(message.SerializeToString()))
    assert not passed(response)


async def test_a_decision_is_a_span_of_the_trace_that_it_came_with(world: World):
    """Off by default, it costs one comparison; and what is in it says nothing about the person or the path."""
    found: list[Span] = []
    await world.check(cookie=world.sign_in(), traceparent=PARENT)
    world.checker._tracer = Tracer(0.0, found.extend, world.clock.now, lambda: 0.5)
    await world.check(cookie=world.sign_in(), traceparent=PARENT, path="/secret?token=secret")
    await world.check("admin")
    (span,) = found
    assert (span.name, span.parent_id) == ("check", "00f067aa0ba902b7")
    assert {name: span.attributes[name] for name in span.attributes if name != "doorward.decision_id"} == {
        "doorward.route": "app",
        "doorward.outcome": "allow",
        "http.response.status_code": "200",
    }
    assert span.attributes["doorward.decision_id"].startswith("test-")
    assert "secret" not in str(span)
    assert "alice" not in str(span)
    # Also one that had to wait for a sign-in.
    world.records.version = RecordVersion(1, 1)
    await world.check(cookie=world.sign_in("bob", number=2), traceparent=PARENT)
    assert len(found) == 2


async def test_the_gateway_s_own_span_is_the_parent_and_its_word_counts(world: World):
    """Not the client's, which the request holds beside it."""
    found: list[Span] = []
    world.checker._tracer = Tracer(1.0, found.extend, world.clock.now, lambda: 0.5)
    joined = check_methods(world.checker, lambda: True).joined[CHECK_METHOD.encode()]
    request = world.request("app", cookie=world.sign_in(), traceparent=PARENT)
    for flags in ("00", "01"):
        assert isinstance(joined(request, b"\x37" + f"00-{'a' * 32}-{'b' * 16}-{flags}".encode()), bytes)
    (span,) = found
    assert (span.trace_id, span.parent_id) == ("a" * 32, "b" * 16)
    joined(request, b"\x04junk")
    assert [span.parent_id for span in found] == ["b" * 16, ""]
