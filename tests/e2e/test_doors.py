"""There is one door, and nothing beside it: no health path, no debug page, no way past the check."""

import asyncio
import json
import re
import ssl
import stat
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psutil
import pytest
from tests.e2e.conftest import PASSWORDS
from tests.support.deployment import Running
from tests.support.echo import EchoServer
from tests.support.http2 import http2_request
from tests.support.http_client import NAVIGATION, BrowserlessClient
from tests.support.listener import Listener
from tests.support.raw_http import request_bytes, status_of
from tests.support.site import Site

from doorward.config.endpoints import LocalEndpoints, default_run_folder

pytestmark = pytest.mark.e2e
Browser = Callable[..., BrowserlessClient]
Url = Callable[[str], str]
SESSION = "__Host-doorward"


def test_s24_no_user_agent_method_or_path_is_let_through_as_a_health_check(open_site: Site, echo: EchoServer):
    agents = ["GoogleHC/1.0", "kube-probe/1.30", "ELB-HealthChecker/2.0", "Envoy/HC", ""]
    paths = ["/", "/healthz", "/health", "/ready", "/readyz", "/livez", "/ping", "/status", "/.well-known/health"]
    with open_site.client() as client:
        for agent in agents:
            for path in paths:
                for method in ("GET", "HEAD", "OPTIONS", "POST"):
                    headers = {"user-agent": agent, "x-envoy-livenessprobe": "1"}
                    answer = client.request(method, open_site.url("closed") + path, headers=headers)
                    assert answer.status_code == 401, (agent, method, path)
    assert echo.seen == []


def listening(running: Running) -> dict[tuple[str, int], str]:
    """Address and port of everything that the deployment's processes listen on."""
    found = {}
    for process in [psutil.Process(running.process.pid), *running.members()]:
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                found[connection.laddr.ip, connection.laddr.port] = process.name()
    return found


def test_s25_s78_only_the_public_listener_is_open_and_the_rest_are_private_sockets(open_site: Site):
    assert set(listening(open_site.run)) == {("127.0.0.1", open_site.port)}
    folder = default_run_folder(open_site.data)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    admin = LocalEndpoints(folder).envoy_admin
    assert stat.S_ISSOCK(admin.stat().st_mode)
    assert stat.S_IMODE(admin.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "path", ["/debug", "/debug/pprof/", "/metrics", "/config_dump", "/-/", "/stats", "/server_info"]
)
def test_s25_s78_operators_paths_are_paths_like_any_other(open_site: Site, echo: EchoServer, path: str):
    with open_site.client() as client:
        assert client.get(open_site.url("closed") + path).status_code == 401
        assert client.get(open_site.url("authenticate") + path).status_code == 404
        assert echo.seen == []
        assert client.get(open_site.url("open") + path).json()["target"] == path


def test_s26_there_is_no_first_run_page_to_reopen(open_site: Site):
    """Nothing is set up over HTTP, on no host, before or after anybody has signed in."""
    paths = ["/.doorward/setup", "/.doorward/admin", "/.doorward/install", "/.doorward/bootstrap", "/.doorward/"]
    with open_site.client() as client:
        for _ in range(2):
            for host in ("authenticate", "closed"):
                for path in paths:
                    for method in ("GET", "POST"):
                        assert client.request(method, open_site.url(host) + path).status_code in {404, 405}
            client.sign_in(open_site.url("closed") + "/", *PASSWORDS["alice"])
            client.cookies.pop("authenticate.localhost", None)


def test_s27_a_preflight_is_answered_here_and_no_method_is_a_way_round(open_site: Site, echo: EchoServer):
    asked = {"origin": open_site.url("other"), "access-control-request-method": "POST"}
    with open_site.client() as client:
        # An origin that the route does not list, a preflight without its headers, and plain OPTIONS: like any request.
        for headers in (asked, {"origin": open_site.url("other")}, {"access-control-request-method": "POST"}, {}):
            assert client.request("OPTIONS", open_site.url("closed") + "/x", headers=headers).status_code == 401
        for headers in (dict(list(asked.items())[:1]), {**asked, "origin": "https://evil.example"}):
            assert client.request("OPTIONS", open_site.url("cors") + "/x", headers=headers).status_code == 401
        listed = client.request("OPTIONS", open_site.url("cors") + "/x", headers=asked)
        assert listed.status_code == 204
        assert listed.headers["access-control-allow-origin"] == open_site.url("other")
        client.sign_in(open_site.url("cors") + "/", *PASSWORDS["alice"])
        echo.seen.clear()
        assert client.request("OPTIONS", open_site.url("cors") + "/x", headers=asked).status_code == 204
        assert echo.seen == [], "an answered preflight reached the upstream"


async def test_s22_methods_are_compared_exactly_and_unknown_ones_never_reach_an_upstream(
    open_site: Site, echo: EchoServer
):
    """On a route that is open to everyone; over HTTP/1.1 Envoy refuses by itself what it has never heard of."""
    tls = ssl.create_default_context(cafile=str(open_site.ca_file))
    tls.set_alpn_protocols(["h2"])
    wanted = {
        "get": {405, 400}, "FOO": {405, 400}, "TRACE": {405}, "MKCOL": {405}, "PRI": {405, 400}, "G ET": {400},
        "GET\r\nx: y": {400}, "": {400}, "PROPFIND": {200}, "PATCH": {200},
    }  # fmt: skip
    for method, statuses in wanted.items():
        request = request_bytes("/", open_site.host("open"), method=method)
        answer = await asyncio.to_thread(open_site.raw, "open", request)
        assert status_of(answer) in statuses, (method, answer)
        pairs = [(":method", method), (":scheme", "https"), (":path", "/"), (":authority", open_site.host("open"))]
        told = dict(await http2_request(open_site.port, tls, pairs, server_name="open.localhost"))
        assert int(told.get(":status", 400)) in statuses, (method, told)
        if told.get(":status") == "405":
            assert told["allow"] == "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, PROPFIND"
    assert [seen["method"] for seen in echo.seen] == ["PROPFIND", "PROPFIND", "PATCH", "PATCH"]


@pytest.mark.parametrize("value", [b"\xff\xfe", b"\xc3\x28", b"caf\xe9", b"\xf0\x28\x8c\xbc"])
def test_s29_bytes_that_are_no_utf_8_let_nobody_in(open_site: Site, echo: EchoServer, value: bytes):
    for name in (b"X-Note", b"Cookie", b"User-Agent", b"Origin", b"Authorization"):
        head = f"GET / HTTP/1.1\r\nHost: {open_site.host('closed')}\r\nConnection: close\r\n".encode()
        answer = open_site.raw("closed", head + name + b": a=" + value + b"\r\n\r\n")
        assert status_of(answer) in {400, 401}, name
    assert echo.seen == []
    head = f"GET / HTTP/1.1\r\nHost: {open_site.host('open')}\r\nConnection: close\r\n".encode()
    assert status_of(open_site.raw("open", head + b"X-Note: a=" + value + b"\r\n\r\n")) in {200, 400}


def every(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Each key of a document with its value, depth first."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield f"{path}/{key}", inner
        yield from every(inner, f"{path}/{key}")


def test_s30_what_envoy_runs_with_has_no_way_past_the_check(open_site: Site):
    """Asked of Envoy itself, not of what we meant to send."""
    admin = LocalEndpoints(default_run_folder(open_site.data)).envoy_admin
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(admin)), base_url="http://envoy") as client:
        dump: dict[str, Any] = client.get("/config_dump").json()
        runtime: dict[str, Any] = client.get("/runtime").json()
    forbidden = {
        "failure_mode_allow", "failure_mode_allow_header_add", "clear_route_cache", "filter_enabled",
        "filter_enabled_metadata", "deny_at_disable", "internal_redirect_policy", "bypass_cluster_manager",
    }  # fmt: skip
    checked = hosts = 0
    for path, value in every(dump):
        key = path.rsplit("/", 1)[1]
        assert not (key in forbidden and value), path
        if key == "disabled":
            assert "/typed_per_filter_config/envoy.filters.http.ext_proc" in path, path
        if key == "virtual_hosts" and isinstance(value, list):
            for host in value:
                hosts += 1
                for route in host["routes"]:
                    override = route["typed_per_filter_config"]["envoy.filters.http.ext_authz"]
                    assert set(override) == {"@type", "check_settings"}, host["name"]
                    assert set(override["check_settings"]) == {"context_extensions"}
                    checked += 1
    assert hosts >= 10
    assert checked > 30
    assert not runtime.get("entries"), "a runtime layer could switch filters"


async def test_s85_early_bytes_of_a_refused_upgrade_reach_nobody(open_site: Site, echo: EchoServer):
    """A request hidden behind the handshake is a request of its own, or nothing."""
    hidden = f"GET /smuggled HTTP/1.1\r\nHost: {open_site.host('ws')}\r\nConnection: close\r\n\r\n".encode()
    upgrade = (
        f"GET /ws HTTP/1.1\r\nHost: {open_site.host('ws')}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n{}\r\n"
    )
    refused = await asyncio.to_thread(open_site.raw, "ws", upgrade.format("").encode() + hidden)
    assert status_of(refused) == 401
    assert echo.seen == []

    def signed_in_cookie() -> str:
        with open_site.client() as client:
            client.sign_in(open_site.url("ws") + "/", *PASSWORDS["alice"])
            return f"Cookie: {SESSION}={client.cookie('ws.localhost', SESSION)}\r\nConnection: close\r\n"

    cookie = await asyncio.to_thread(signed_in_cookie)
    echo.seen.clear()
    # This upstream answers an upgrade with 200: what follows must not be passed on as if it had agreed.
    await asyncio.to_thread(open_site.raw, "ws", upgrade.format(cookie).encode() + hidden)
    assert "/smuggled" not in {seen["target"] for seen in echo.seen}


@pytest.mark.parametrize(("name", "refusal"), [("db", 401), ("open", 404)])
async def test_s85_early_bytes_of_a_refused_connect_reach_nobody(
    open_site: Site, echo: EchoServer, tunnel_end: Listener, name: str, refusal: int
):
    """Neither the end of a tunnel that is for others, nor an upstream whose host has no tunnel, sees a byte or a connection."""
    authority = f"{name}.localhost:5432"
    hidden = f"GET /smuggled HTTP/1.1\r\nHost: {open_site.host('closed')}\r\nConnection: close\r\n\r\n".encode()
    connect = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n".encode()
    refused = await asyncio.to_thread(open_site.raw, name, connect + hidden)
    assert status_of(refused) == refusal
    tls = ssl.create_default_context(cafile=str(open_site.ca_file))
    tls.set_alpn_protocols(["h2"])
    headers = [(":method", "CONNECT"), (":authority", authority)]
    answer = await http2_request(open_site.port, tls, headers, body=hidden, server_name=f"{name}.localhost")
    assert dict(answer)[":status"] == str(refusal)
    assert echo.seen == []
    assert tunnel_end.received == []


@pytest.mark.parametrize("protocol", ["bytestream", "connect-udp"])
@pytest.mark.parametrize(
    ("name", "path"), [("open", "/"), ("open", "/.doorward/whoami"), ("rules", "/public/x"), ("authenticate", "/")]
)
async def test_s85_an_extended_connect_opens_nothing_where_only_requests_are_passed_on(
    open_site: Site, echo: EchoServer, tunnel_end: Listener, name: str, path: str, protocol: str
):
    """RFC 8441. To Envoy `bytestream` is a CONNECT with a path: it matches routes like a request, and would go on as a tunnel."""
    tls = ssl.create_default_context(cafile=str(open_site.ca_file))
    tls.set_alpn_protocols(["h2"])
    headers = [
        (":method", "CONNECT"), (":protocol", protocol), (":scheme", "https"), (":path", path),
        (":authority", open_site.host(name)),
    ]  # fmt: skip
    answer = await http2_request(open_site.port, tls, headers, server_name=f"{name}.localhost")
    assert dict(answer)[":status"] in {"403", "404", "405"}
    assert echo.seen == []
    assert tunnel_end.received == []


async def test_s85_bytes_behind_an_allowed_connect_go_through_its_tunnel_and_nowhere_else(
    open_site: Site, echo: EchoServer, tunnel_end: Listener
):
    def account() -> str:
        made = open_site.run.command("service-account", "create", "tunnel", "--life", "1h", "--json")
        return str(json.loads(made.stdout)["token"])

    token = await asyncio.to_thread(account)
    echo.seen.clear()
    early = b"GET /smuggled HTTP/1.1\r\n\r\n"
    connect = f"CONNECT db.localhost:5432 HTTP/1.1\r\nHost: db.localhost:5432\r\nAuthorization: Bearer {token}\r\n\r\n"
    opened = await asyncio.to_thread(open_site.raw, "db", connect.encode() + early)
    assert status_of(opened) == 200
    assert tunnel_end.received == [early]
    assert echo.seen == []


@pytest.mark.parametrize("site_header", [{"sec-fetch-site": "same-site"}, {"sec-fetch-site": "cross-site"}, {}])
def test_s85_a_sibling_hosts_script_cannot_post_or_open_a_socket(
    open_site: Site, echo: EchoServer, site_header: dict[str, str]
):
    with open_site.client() as client:
        client.sign_in(open_site.url("closed") + "/", *PASSWORDS["alice"])
        client.navigate(open_site.url("ws") + "/")
        echo.seen.clear()
        foreign = {**site_header, "origin": open_site.url("other")}
        for kind in ("application/json", "text/plain", "application/grpc-web+proto", "application/grpc-web-text"):
            post = client.request(
                "POST", open_site.url("closed") + "/post", headers={**foreign, "content-type": kind}, content=b"{}"
            )
            assert post.headers.get("grpc-status", "7") == "7"
            assert post.status_code == (200 if "grpc" in kind else 403), kind
        for method in ("PUT", "PATCH", "DELETE"):
            assert client.request(method, open_site.url("closed") + "/", headers=foreign).status_code == 403
        for name in ("closed", "ws"):
            upgrade = client.request(
                "GET", open_site.url(name) + "/ws", headers={**foreign, "upgrade": "websocket", "connection": "upgrade"}
            )
            assert upgrade.status_code == 403
        sign_out = client.request("POST", open_site.url("closed") + "/.doorward/sign_out", headers=foreign)
        assert sign_out.status_code == 403
        assert echo.seen == []
        own = {"sec-fetch-site": "same-origin", "origin": open_site.url("closed")}
        assert client.request("POST", open_site.url("closed") + "/post", headers=own).status_code == 200


async def test_s85_a_sibling_cannot_open_a_socket_over_http2_either(open_site: Site, echo: EchoServer):
    def signed_in_cookie() -> str:
        with open_site.client() as client:
            client.sign_in(open_site.url("ws") + "/", *PASSWORDS["alice"])
            return f"{SESSION}={client.cookie('ws.localhost', SESSION)}"

    cookie = await asyncio.to_thread(signed_in_cookie)
    echo.seen.clear()
    tls = ssl.create_default_context(cafile=str(open_site.ca_file))
    tls.set_alpn_protocols(["h2"])
    headers = [
        (":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https"), (":path", "/ws"),
        (":authority", open_site.host("ws")), ("sec-websocket-version", "13"), ("cookie", cookie),
    ]  # fmt: skip
    origins = {open_site.url("other"): "same-site", "https://evil.example": "cross-site"}
    for origin, fetch_site in origins.items():
        foreign = [*headers, ("origin", origin), ("sec-fetch-site", fetch_site)]
        answer = await http2_request(open_site.port, tls, foreign, server_name="ws.localhost")
        assert dict(answer)[":status"] == "403"
    assert echo.seen == []


@pytest.mark.parametrize("kind", ["application/grpc", "application/grpc+proto", "application/grpc-web", "text/plain"])
def test_s85_no_content_type_changes_the_decision(open_site: Site, echo: EchoServer, kind: str):
    with open_site.client() as client:
        answer = client.request(
            "POST", open_site.url("closed") + "/a.B/C", headers={"content-type": kind}, content=b"x"
        )
    assert (answer.status_code, answer.headers.get("grpc-status")) in {(200, "16"), (401, None)}
    assert echo.seen == []


def test_s91_our_pages_run_no_script_and_sit_in_no_frame(browser: Browser, url: Url):
    alice, bob, nobody = browser("alice"), browser("bob"), browser()
    pages: list[tuple[BrowserlessClient, str]] = [
        (client, url(place) + path)
        for client in (alice, nobody)
        for place, path in (
            ("verify", "/.doorward/whoami"), ("verify", "/.doorward/sign_out"), ("verify", "/.doorward/nothing"),
            ("authenticate", "/"), ("authenticate", "/nothing"), ("authenticate", "/.doorward/sign_out"),
            ("authenticate", "/.doorward/sign_in"), ("authenticate", "/.doorward/callback/demo"),
        )
    ]  # fmt: skip
    bob.navigate(url("admin") + "/")
    pages.append((bob, url("admin") + "/"))
    nobody.get(url("verify") + "/.doorward/callback", headers=NAVIGATION)
    pages.append((nobody, url("verify") + "/.doorward/callback"))
    for client, address in pages:
        answer = client.get(address, headers=NAVIGATION)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "base-uri 'none'" in policy
        assert "unsafe-inline" not in policy
        assert not re.search(r"<script|\son\w+=|javascript:|style=\"", answer.text, re.IGNORECASE), address
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-content-type-options"] == "nosniff"
