"""What a client writes must never be taken for what Doorward says. Real Envoy, an authorizer that allows everything."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from tests.support.envoy import (
    SIGN_IN_HOST,
    EchoUpstream,
    FakeAuthorizer,
    Raw,
    RunningProxy,
    free_port,
    route,
    running_proxy,
    settings_of,
)
from tests.support.http2 import Http2Upstream, http2_request

pytestmark = pytest.mark.asyncio(loop_scope="module")

FORGED = "forged-by-the-client"
IDENTITY_HEADERS = (
    "X-Doorward-Jwt-Assertion",
    "x-doorward-client-address",
    "X-Doorward-Decision-Id",
    "X-Email",
    "X-Static",
    "Remote-User",
    "X-Remote-User",
    "X-Auth-Request-Email",
    "X-Forwarded-User",
    "X-Forwarded-Email",
    "X-Forwarded-Groups",
    "X-Forwarded-Access-Token",
    "X-Forwarded-Client-Cert",
    "Client-Cert",
    "Impersonate-User",
    "Impersonate-Group",
)
REWRITING_HEADERS = (
    "X-Forwarded-Uri",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Method",
    "X-Forwarded-Path",
    "X-Original-URL",
    "X-Original-Path",
    "X-Rewrite-URL",
    "Forwarded",
    "X-HTTP-Method-Override",
    "X-Envoy-Original-Path",
    "X-Envoy-Internal",
)


@dataclass
class Bench:
    proxy: RunningProxy
    upstream: EchoUpstream
    http2: Http2Upstream

    @property
    def authorizer(self) -> FakeAuthorizer:
        return self.proxy.authorizer

    def seen(self) -> list[tuple[str, str]]:
        """Headers of the last request that reached the upstream, names in lower case."""
        return [(name.lower(), value) for name, value in self.upstream.requests[-1]["headers"]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Bench]:
    upstream, http2 = EchoUpstream(free_port()), Http2Upstream(free_port())
    to = [("http", "127.0.0.1", upstream.port)]
    settings = settings_of(
        route(match="/static", to=to, set_request_headers=(("x-static", "100%"),)),
        route(match="/preserved", to=to, preserve_host=True),
        route(to=to, claim_headers=(("x-email", "email"),)),
        route("grpc.localhost", to=[("h2c", "127.0.0.1", http2.port)], continuous=True),
    )
    async with upstream.running(), http2.running(), running_proxy(settings) as proxy:
        yield Bench(proxy, upstream, http2)


@pytest.fixture
def bench(running: Bench) -> Bench:
    """The bench, with nothing seen and nothing said yet."""
    for seen in (running.upstream.requests, running.http2.headers, running.http2.trailers, running.authorizer.checks):
        seen.clear()
    running.upstream.response_headers = []
    running.authorizer.added = []
    running.authorizer.allow = lambda _: True
    return running


@asynccontextmanager
async def published(bench: Bench, **changes: Any) -> AsyncIterator[None]:
    """Other settings for a while."""
    before = bench.proxy.settings
    await bench.proxy.publish(dataclasses.replace(before, generation=f"{before.generation}+", **changes))
    try:
        yield
    finally:
        await bench.proxy.publish(dataclasses.replace(before, generation=f"{before.generation}++"))


def body_of(answer: Raw) -> dict[str, Any]:
    assert answer.status == 200, answer.data
    text = answer.body
    return dict(json.loads(text[text.index(b"{") : text.rindex(b"}") + 1]))


@pytest.mark.parametrize("name", IDENTITY_HEADERS)
async def test_s01_a_forged_identity_header_never_reaches_an_upstream(bench: Bench, name: str) -> None:
    spellings = "".join(f"{spelling}: {FORGED}\r\n" for spelling in (name, name.lower(), name.upper()))
    body_of(await bench.proxy.get("/", headers=spellings))
    assert FORGED not in json.dumps(bench.seen())


@pytest.mark.parametrize("name", ["X_Doorward_Jwt_Assertion", "x_email", "Remote_User", "X-Forwarded_User"])
async def test_s01_underscores_in_header_names_are_refused(bench: Bench, name: str) -> None:
    answer = await bench.proxy.get("/", headers=f"{name}: {FORGED}\r\n")
    assert answer.status == 400
    assert not bench.upstream.requests


async def test_s02_a_claim_header_that_is_not_set_does_not_come_from_the_client(bench: Bench) -> None:
    bench.authorizer.added = []
    body_of(await bench.proxy.get("/", headers=f"X-Email: {FORGED}\r\n"))
    assert "x-email" not in dict(bench.seen())


async def test_s03_a_header_of_one_route_cannot_be_forged_on_another(bench: Bench) -> None:
    """Both may share an upstream that trusts it."""
    body_of(await bench.proxy.get("/", headers=f"X-Static: {FORGED}\r\n"))
    assert "x-static" not in dict(bench.seen())
    body_of(await bench.proxy.get("/static", headers=f"X-Static: {FORGED}\r\n"))
    assert [value for name, value in bench.seen() if name == "x-static"] == ["100%"]


async def test_s04_a_connection_header_does_not_remove_what_we_inject(bench: Bench) -> None:
    bench.authorizer.added = [("x-doorward-jwt-assertion", "ours"), ("x-email", "alice@example.com")]
    request = "GET / HTTP/1.1\r\nHost: app.localhost\r\nConnection: close, x-doorward-jwt-assertion, x-email\r\n\r\n"
    body_of(await bench.proxy.raw(request.encode()))
    seen = dict(bench.seen())
    assert seen["x-doorward-jwt-assertion"] == "ours"
    assert seen["x-email"] == "alice@example.com"
    naming_envoys = await bench.proxy.get("/", headers="Connection: x-forwarded-for\r\n")
    assert naming_envoys.status == 400


@pytest.mark.parametrize("nominated", ["x-doorward-jwt-assertion, X-Email", "close, x-email", "x-forwarded-for"])
async def test_s04_nor_does_it_with_an_upgrade_at_the_proxy_behind_us(bench: Bench, nominated: str) -> None:
    """Envoy passes `Connection` on with an upgrade; the next proxy would drop what it names (RFC 9110, section 7.6.1)."""
    bench.authorizer.added = [("x-doorward-jwt-assertion", "ours"), ("x-email", "alice@example.com")]
    heads: list[list[bytes]] = []

    async def switch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).lower().splitlines())
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(switch, "127.0.0.1", 0) as server:
        to = [("http", "127.0.0.1", server.sockets[0].getsockname()[1])]
        socket = route("ws.localhost", to=to, websocket=True, continuous=True)
        async with published(bench, routes=(*bench.proxy.settings.routes, socket)):
            handshake = (
                f"GET / HTTP/1.1\r\nHost: ws.localhost\r\nConnection: Upgrade, {nominated}\r\nUpgrade: websocket\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
            )
            answer = await bench.proxy.raw(handshake.encode(), host="ws.localhost")
    assert answer.status == 101
    assert [line for line in heads[0] if line.startswith(b"connection:")] == [b"connection: upgrade"]
    assert b"x-doorward-jwt-assertion: ours" in heads[0]
    assert b"x-email: alice@example.com" in heads[0]


@pytest.mark.parametrize("name", REWRITING_HEADERS)
async def test_s05_forwarding_headers_of_clients_change_nothing(bench: Bench, name: str) -> None:
    body_of(await bench.proxy.get("/", headers=f"{name}: /admin\r\n"))
    check = bench.authorizer.checks[-1].attributes.request.http
    assert (check.path, check.method, check.host) == ("/", "GET", "app.localhost")
    assert "/admin" not in str(check.header_map)
    assert "/admin" not in json.dumps(bench.seen())


async def test_s05_the_clients_address_is_envoys(bench: Bench) -> None:
    forged = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: http\r\nx-doorward-client-address: 6.6.6.6\r\n"
    body_of(await bench.proxy.get("/", headers=forged + "X-Real-Ip: 6.6.6.6\r\n"))
    headers = bench.authorizer.checks[-1].attributes.request.http.header_map.headers
    addresses = [item.raw_value for item in headers if item.key == "x-doorward-client-address"]
    assert addresses == [b"127.0.0.1"]
    seen = dict(bench.seen())
    assert seen["x-forwarded-for"] == "127.0.0.1"
    assert seen["x-forwarded-proto"] == "https"
    assert "x-doorward-client-address" not in seen
    assert "6.6.6.6" not in json.dumps(bench.seen())


async def test_s05_with_a_trusted_hop_its_word_counts_and_nothing_before_it(bench: Bench) -> None:
    async with published(bench, trusted_hops=1):
        await bench.proxy.get("/", headers="X-Forwarded-For: 6.6.6.6, 192.0.2.7\r\n")
        headers = bench.authorizer.checks[-1].attributes.request.http.header_map.headers
        assert [item.raw_value for item in headers if item.key == "x-doorward-client-address"] == [b"192.0.2.7"]


async def test_a_forged_identity_header_in_request_trailers_is_deleted(bench: Bench) -> None:
    """HTTP/2 upstreams and many frameworks fold trailers into the headers."""
    trailers = [(name.lower(), FORGED) for name in IDENTITY_HEADERS] + [
        ("authorization", FORGED),
        ("cookie", FORGED),
        ("x-forwarded-for", FORGED),
        ("x-harmless", "kept"),
    ]
    answer = await http2_request(
        bench.proxy.port,
        bench.proxy.tls("h2"),
        [(":method", "POST"), (":scheme", "https"), (":authority", "grpc.localhost"), (":path", "/")],
        body=b"data",
        trailers=trailers,
        server_name="grpc.localhost",
    )
    assert (":status", "200") in answer
    assert bench.http2.trailers == [[("x-harmless", "kept")]]


async def test_what_the_check_reads_is_not_deleted_even_if_a_route_sets_it(bench: Bench) -> None:
    """Without `Sec-Fetch-Site` and `Origin` a foreign page would pass for a caller that is no browser."""
    to = [("http", "127.0.0.1", bench.upstream.port)]
    values = (("origin", "https://ours"), ("sec-fetch-site", "none"))
    routes = (route(match="/x", to=to, set_request_headers=values), route(to=to))
    async with published(bench, routes=routes):
        await bench.proxy.get("/x", headers="Origin: https://evil.example\r\nSec-Fetch-Site: cross-site\r\n")
        headers = bench.authorizer.checks[-1].attributes.request.http.header_map.headers
        given = {item.key: item.raw_value for item in headers}
        assert given["origin"] == b"https://evil.example"
        assert given["sec-fetch-site"] == b"cross-site"


async def test_upstreams_cannot_set_our_cookies(bench: Bench) -> None:
    ours = [
        b"__Host-doorward=tossed; Path=/; Secure",
        b"__host-DOORWARD-flow-1=tossed",
        b"=__Host-doorward=tossed",
    ]
    bench.upstream.response_headers = [(b"set-cookie", value) for value in (b"a=1", *ours, b"b=2; HttpOnly")]
    answer = await bench.proxy.get("/")
    cookies = [line for line in answer.data.split(b"\r\n") if line.lower().startswith(b"set-cookie")]
    assert cookies == [b"set-cookie: a=1", b"set-cookie: b=2; HttpOnly"]


async def test_the_checks_own_answers_keep_their_cookies(bench: Bench) -> None:
    bench.authorizer.allow = lambda _: False
    answer = await bench.proxy.get("/")
    assert answer.status == 403
    assert b"set-cookie: __Host-doorward-flow-1=x; Path=/; Secure" in answer.data


@pytest.mark.parametrize(
    ("path", "outcome"),
    [
        ("/a/../b", "/b"),
        ("/a/%2e%2e/b", "/b"),
        ("//a///b", "/a/b"),
        ("/a/./b", "/a/b"),
        ("/a%2fb", 400),
        ("/a%2Fb", 400),
        ("/a%5cb", 400),
        ("/a%5Cb", 400),
        ("/..", "/"),
        ("/a#b", 400),
        ("/pub#/../admin", 400),
        ("/a%00b", 400),
    ],
)
async def test_s13_to_s16_policy_and_upstream_see_one_path_or_none(bench: Bench, path: str, outcome: str | int) -> None:
    answer = await bench.proxy.get(path)
    if isinstance(outcome, int):
        assert answer.status == outcome
        assert not bench.upstream.requests
    else:
        assert body_of(answer)["path"] == outcome
        assert bench.authorizer.checks[-1].attributes.request.http.path == outcome


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: app.localhost\r\nHost: grpc.localhost\r\n\r\n", id="two hosts"),
        pytest.param(b"GET / HTTP/1.1\r\nHost : app.localhost\r\n\r\n", id="space before colon"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: app.localhost\r\nX: a\x00b\r\n\r\n", id="NUL"),
        pytest.param(b"GET / HTTP/1.0\r\nHost: app.localhost\r\n\r\n", id="HTTP/1.0"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: app.localhost\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"0\r\n\r\nG",
            id="CL.TE",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: app.localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", id="two CL"
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: app.localhost\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", id="odd TE"
        ),
    ],
)
async def test_requests_that_two_servers_read_differently_are_refused(bench: Bench, request_bytes: bytes) -> None:
    answer = await bench.proxy.raw(request_bytes)
    assert answer.status in {0, 400, 404, 426, 501}
    assert not bench.upstream.requests


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(b"GET /x HTTP/1.1\nHost: app.localhost\nX-A: 1 2\n\n", id="bare LF"),
        pytest.param(b"GET /x HTTP/1.1\r\nHost: app.localhost\r\nX-A: 1\r\n 2\r\n\r\n", id="obs-fold"),
        pytest.param(b"GET /x HTTP/1.1\r\nHost: app.localhost\r\nX-A: 1\r\n\tX-Email: 2\r\n\r\n", id="folded name"),
    ],
)
async def test_s10_lenient_framing_reads_alike_for_policy_and_upstream(bench: Bench, request_bytes: bytes) -> None:
    """Envoy forgives these (RFC 9112, sections 2.2 and 5.2) by writing them anew: what counts is that nobody differs."""
    body_of(await bench.proxy.raw(request_bytes))
    headers = bench.authorizer.checks[-1].attributes.request.http.header_map.headers
    decided = [item.raw_value.decode() for item in headers if item.key == "x-a"]
    assert decided == [value for name, value in bench.seen() if name == "x-a"]
    assert not any("\r" in value or "\n" in value for value in decided)
    assert "x-email" not in dict(bench.seen())


async def test_an_absolute_target_wins_over_the_host_header_for_all(bench: Bench) -> None:
    request = b"GET https://nobody.localhost/ HTTP/1.1\r\nHost: app.localhost\r\nConnection: close\r\n\r\n"
    answer = await bench.proxy.raw(request)
    assert answer.status == 404
    assert bench.authorizer.contexts()[-1] == {"route": "@unmatched", "digest": "internal", "host": ""}


@pytest.mark.parametrize("host", ["APP.localhost", "app.localhost:443", "App.LocalHost:10443"])
async def test_s20_hosts_are_matched_without_case_and_port(bench: Bench, host: str) -> None:
    body_of(await bench.proxy.get("/", host=host))
    assert bench.authorizer.contexts()[-1]["host"] == "app.localhost"


@pytest.mark.parametrize(
    "written", ["app.localhost:1", "APP.localhost:99", "app.localhost:1@evil.example", "app.localhost:x"]
)
async def test_s20_an_upstream_learns_the_public_host_from_the_configuration(bench: Bench, written: str) -> None:
    """What a client writes after the name would end up in links that the application makes."""
    for path, header in (("/", "x-forwarded-host"), ("/preserved", "host")):
        bench.upstream.requests.clear()
        answer = await bench.proxy.get(path, host=written)
        if bench.upstream.requests:
            assert [value for name, value in bench.seen() if name == header] == ["app.localhost"]
        else:
            assert answer.status in {400, 404}
        assert "evil" not in json.dumps(bench.upstream.requests)


@pytest.mark.parametrize("host", ["app.localhost.", "x@app.localhost", "app.localhost@evil", "*", "[::1]", ""])
async def test_s20_any_other_spelling_is_an_unknown_host(bench: Bench, host: str) -> None:
    answer = await bench.proxy.get("/", host=host)
    assert answer.status in {400, 404}
    assert not bench.upstream.requests


async def test_the_sign_in_host_serves_the_key_set(bench: Bench) -> None:
    answer = await bench.proxy.get("/.well-known/doorward/jwks.json", host=SIGN_IN_HOST)
    assert answer.status == 200
    assert b'"keys"' in answer.body
    assert bench.authorizer.contexts()[-1] == {"route": "@pages", "digest": "internal", "host": SIGN_IN_HOST}
