"""Our pages on protected hosts."""

import base64
import json
import urllib.parse
from dataclasses import dataclass, field

import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from tests.support.key_material import key

from doorward.errors import DoorwardError, InvalidTokenError, UnavailableError
from doorward.keys.assertion import PublishedKeys, public_id, public_jwks
from doorward.keys.flow import Flow, FlowSealer, new_flow
from doorward.keys.keyring import Key, Keyring
from doorward.keys.sealed import Sealer
from doorward_proxy.endpoints.app import pages_app
from doorward_proxy.endpoints.callback import AGAIN_COOKIE
from doorward_proxy.endpoints.sessions import Redeemed
from doorward_proxy.metrics import ProxyMetrics

HOST = "app.localhost"
NOW = 1_800_000_000.0
FLOWS = FlowSealer(Sealer(Keyring("flow", [Key.from_bytes(bytes(32))])))
PUBLISHED = PublishedKeys(public_jwks([key("assertion")]))
HTML = {"accept": "text/html"}


@dataclass
class FakeClock:
    seconds: float = NOW

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds


@dataclass
class FakeSessions:
    fails: DoorwardError | None = None
    redeemed: list[tuple[str, str, bytes]] = field(default_factory=list)
    ended: list[tuple[str, str]] = field(default_factory=list)

    async def redeem(self, code: str, host: str, flow_secret: bytes) -> Redeemed:
        self.redeemed.append((code, host, flow_secret))
        if self.fails is not None:
            raise self.fails
        return Redeemed("the-handle", NOW + 3600)

    async def end(self, handle: str, host: str) -> None:
        if self.fails is not None:
            raise self.fails
        self.ended.append((handle, host))


@dataclass
class Bench:
    sessions: FakeSessions
    clock: FakeClock
    client: httpx.AsyncClient

    async def callback(self, flow: Flow, code: str = "code", **cookies: str) -> httpx.Response:
        jar = {flow.name: FLOWS.seal(flow, HOST), **cookies}
        return await self.client.get(
            "/.doorward/callback",
            params={"code": code, "cookie": flow.name},
            headers={"cookie": "; ".join(f"{name}={value}" for name, value in jar.items())},
        )


@pytest.fixture
def bench() -> Bench:
    sessions, clock = FakeSessions(), FakeClock()
    app = pages_app(
        sessions=sessions,
        flows=FLOWS,
        published=PUBLISHED,
        clock=clock,
        metrics=ProxyMetrics(CollectorRegistry()),
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return Bench(sessions, clock, httpx.AsyncClient(transport=transport, base_url=f"https://{HOST}"))


def a_flow(target: str = "/reports?x=1") -> Flow:
    return new_flow(target, NOW, bytes(range(20)))


def cookies(response: httpx.Response) -> dict[str, str]:
    return {line.split("=", 1)[0]: line for line in response.headers.get_list("set-cookie")}


def assertion(**claims: object) -> dict[str, str]:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return {"x-doorward-jwt-assertion": f"e30.{payload}.c2ln"}


async def test_a_code_becomes_a_session_cookie_and_the_browser_goes_where_it_wanted(bench: Bench) -> None:
    flow = a_flow()
    response = await bench.callback(flow)
    assert response.status_code == 303
    assert response.headers["location"] == "/reports?x=1"
    assert bench.sessions.redeemed == [("code", HOST, flow.secret)]
    found = cookies(response)
    assert found["__Host-doorward"] == (
        "__Host-doorward=the-handle; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=3600"
    )
    assert found[flow.name].endswith("Max-Age=0")
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "target",
    [
        "//evil.example",
        "/\\evil.example",
        "https://evil.example/",
        "javascript:alert(1)",
        "/\t/evil.example",
        "",
        "\\/x",
    ],
)
async def test_s36_the_browser_never_leaves_the_host(bench: Bench, target: str) -> None:
    response = await bench.callback(a_flow(target))
    assert response.headers["location"] == "/"


async def test_a_failed_flow_starts_again_once_and_then_asks(bench: Bench) -> None:
    bench.sessions.fails = InvalidTokenError("used")
    flow = a_flow()
    first = await bench.callback(flow)
    assert (first.status_code, first.headers["location"]) == (303, "/reports?x=1")
    assert AGAIN_COOKIE in cookies(first)
    assert cookies(first)[flow.name].endswith("Max-Age=0")
    second = await bench.callback(a_flow(), **{AGAIN_COOKIE: "1"})
    assert second.status_code == 400
    assert 'href="/reports?x=1"' in second.text
    assert cookies(second)[AGAIN_COOKIE].endswith("Max-Age=0")
    assert "__Host-doorward" not in cookies(second)


async def test_a_code_without_its_flow_cookie_is_not_redeemed(bench: Bench) -> None:
    """Somebody else's code must not sign this browser in."""
    flow = a_flow()
    response = await bench.client.get("/.doorward/callback", params={"code": "c", "cookie": flow.name})
    assert (response.status_code, response.headers["location"]) == (303, "/")
    assert not bench.sessions.redeemed


async def test_a_flow_cookie_of_another_host_or_time_does_not_open(bench: Bench) -> None:
    flow = a_flow()
    params = {"code": "c", "cookie": flow.name}
    foreign = {"cookie": f"{flow.name}={FLOWS.seal(flow, 'other.localhost')}"}
    await bench.client.get("/.doorward/callback", params=params, headers=foreign)
    bench.clock.seconds = NOW + 601
    await bench.callback(flow)
    assert not bench.sessions.redeemed


async def test_a_flow_cookie_that_is_present_twice_counts_as_absent(bench: Bench) -> None:
    flow = a_flow()
    sealed = f"{flow.name}={FLOWS.seal(flow, HOST)}"
    await bench.client.get(
        "/.doorward/callback", params={"code": "c", "cookie": flow.name}, headers={"cookie": f"{sealed}; {sealed}"}
    )
    assert not bench.sessions.redeemed


async def test_an_authenticate_plane_that_is_away_is_told_as_such(bench: Bench) -> None:
    bench.sessions.fails = UnavailableError("down")
    response = await bench.callback(a_flow())
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert "not possible right now" in response.text
    assert "__Host-doorward" not in cookies(response)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(query=st.text(max_size=60), cookie=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
async def test_garbage_never_signs_in_and_never_fails(bench: Bench, query: str, cookie: str) -> None:
    # The client refuses control characters in an address; percent-encoded they arrive as they are.
    address = f"/.doorward/callback?{urllib.parse.quote(query, safe='=&')}"
    response = await bench.client.get(address, headers={"cookie": cookie})
    assert response.status_code in {303, 400}
    assert "__Host-doorward" not in cookies(response)
    assert not bench.sessions.redeemed


async def test_whoami_says_who_in_json_and_on_a_page(bench: Bench) -> None:
    headers = assertion(sub="u1", email="alice@example.com", name="<b>Alice</b>", groups=["eng"])
    answer = await bench.client.get("/.doorward/whoami", headers=headers)
    assert answer.json() == {
        "signed_in": True,
        "user": "u1",
        "email": "alice@example.com",
        "name": "<b>Alice</b>",
        "groups": ["eng"],
    }
    page = await bench.client.get("/.doorward/whoami", headers={**headers, **HTML})
    assert "&lt;b&gt;Alice&lt;/b&gt;" in page.text
    assert "<b>Alice" not in page.text


@pytest.mark.parametrize("header", ["", "x", "a.b.c", "e30.bm90IGpzb24.x", "e30.W10.x", "e30.e30.x", "é.é.é"])
async def test_whoami_without_a_usable_assertion_says_nobody(bench: Bench, header: str) -> None:
    headers = {"x-doorward-jwt-assertion": header.encode()}
    answer = await bench.client.get("/.doorward/whoami", headers=headers)  # type: ignore[arg-type]
    assert answer.json() == {"signed_in": False}


async def test_sign_out_asks_and_then_ends_the_session(bench: Bench) -> None:
    jar = {"cookie": "__Host-doorward=h", **HTML}
    asked = await bench.client.get("/.doorward/sign_out", headers=jar)
    assert 'method="post"' in asked.text
    assert "retry-after" not in asked.headers
    assert not bench.sessions.ended
    ended = await bench.client.post("/.doorward/sign_out", headers={**jar, "sec-fetch-site": "same-origin"})
    assert ended.status_code == 200
    assert bench.sessions.ended == [("h", HOST)]
    assert cookies(ended)["__Host-doorward"].endswith("Max-Age=0")


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.localhost"},
        {"origin": "null"},
        {"origin": "http://app.localhost"},
    ],
)
async def test_s85_another_site_cannot_sign_out(bench: Bench, headers: dict[str, str]) -> None:
    answer = await bench.client.post("/.doorward/sign_out", headers={"cookie": "__Host-doorward=h", **headers})
    assert answer.status_code == 403
    assert not bench.sessions.ended
    assert "__Host-doorward" not in cookies(answer)


async def test_a_sign_out_that_is_not_stored_claims_nothing_and_keeps_the_cookie(bench: Bench) -> None:
    bench.sessions.fails = UnavailableError("down")
    answer = await bench.client.post("/.doorward/sign_out", headers={"cookie": "__Host-doorward=h"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "still signed in" in answer.text
    assert "__Host-doorward" not in cookies(answer)


async def test_a_handle_that_is_worth_nothing_is_dropped(bench: Bench) -> None:
    bench.sessions.fails = InvalidTokenError("no session")
    answer = await bench.client.post("/.doorward/sign_out", headers={"cookie": "__Host-doorward=h"})
    assert answer.status_code == 200
    assert cookies(answer)["__Host-doorward"].endswith("Max-Age=0")


async def test_the_key_set_may_be_kept(bench: Bench) -> None:
    answer = await bench.client.get("/.well-known/doorward/jwks.json")
    assert [entry["kid"] for entry in answer.json()["keys"]] == PUBLISHED.ids
    assert answer.headers["cache-control"] == "public, max-age=300"
    PUBLISHED.take_over(PublishedKeys(public_jwks([key("a"), key("b")])))
    answer = await bench.client.get("/.well-known/doorward/jwks.json")
    assert [entry["kid"] for entry in answer.json()["keys"]] == [public_id(key("a")), public_id(key("b"))]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/.doorward/", 404),
        ("GET", "/.doorward/callback/x", 404),
        ("GET", "/metrics", 404),
        ("POST", "/.doorward/whoami", 405),
        ("DELETE", "/.doorward/sign_out", 405),
    ],
)
async def test_everything_else_is_refused_with_a_page_of_ours(
    bench: Bench, method: str, path: str, status: int
) -> None:
    answer = await bench.client.request(method, path, headers={"x-request-id": "<id>"})
    assert answer.status_code == status
    assert "&lt;id&gt;" in answer.text
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy


async def test_a_fault_of_ours_shows_no_details(bench: Bench) -> None:
    bench.sessions.fails = RuntimeError("secret details")  # type: ignore[assignment]
    answer = await bench.callback(a_flow())
    assert answer.status_code == 500
    assert "secret details" not in answer.text
