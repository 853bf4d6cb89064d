"""Security cases between Envoy and the check: what clients write, what authorizers answer, and when they answer late."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from tests.support.envoy import EchoUpstream, FakeAuthorizer, RunningProxy, free_port, route, running_proxy, settings_of
from tests.support.http2 import http2_request

from doorward.envoy_api.envoy.service.auth.v3 import external_auth_pb2
from doorward.route.internal import CLIENT_ADDRESS_HEADER
from doorward.rpc import http2_frames as frames
from doorward_proxy.resources.http_filters import CHECK_TIMEOUT_SECONDS, UNREAD_HEADERS
from doorward_proxy.resources.listeners import MAX_STREAMS_OF_A_CONNECTION

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Moody(FakeAuthorizer):
    """Answers late, or with an error."""

    late_seconds: float = 0.0
    error: grpc.StatusCode | None = None

    async def Check(  # the contract's name
        self,
        request: external_auth_pb2.CheckRequest,
        context: "grpc.aio.ServicerContext",  # type: ignore[override,type-arg]
    ) -> external_auth_pb2.CheckResponse:
        await asyncio.sleep(self.late_seconds)
        if self.error is not None:
            await context.abort(self.error, "planted")
        return await super().Check(request, context)


@dataclass
class Bench:
    proxy: RunningProxy
    authorizer: Moody
    upstream: EchoUpstream

    def forget(self) -> None:
        self.authorizer.checks.clear()
        self.upstream.requests.clear()

    async def told(self, name: str, **labels: str) -> float:
        """What our own `/metrics` says, once Envoy has been asked."""
        await self.proxy.plane.figures.read()
        return self.proxy.plane.registry.get_sample_value(name, labels) or 0.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Bench]:
    upstream, authorizer = EchoUpstream(free_port()), Moody()
    to = [("http", "127.0.0.1", upstream.port)]
    settings = settings_of(route(match="/exact", exact=True, to=(), broken="for the test"), route(to=to))
    async with upstream.running(), running_proxy(settings, authorizer) as proxy:
        yield Bench(proxy, authorizer, upstream)


@pytest.fixture
def bench(running: Bench) -> Bench:
    running.forget()
    running.upstream.delay_seconds = running.authorizer.late_seconds = 0.0
    running.authorizer.error = None
    running.authorizer.added = []
    running.authorizer.allow = lambda _: True
    return running


def headers_of(check: external_auth_pb2.CheckRequest) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for header in check.attributes.request.http.header_map.headers:
        found.setdefault(header.key, []).append(header.raw_value)
    return found


FORWARDED = {
    # lines → the client's address behind no, one and two trusted proxies, as Envoy documents it
    "": ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
    "X-Forwarded-For: 10.1.1.1\r\n": ("127.0.0.1", "10.1.1.1", "127.0.0.1"),
    "X-Forwarded-For: 10.1.1.1\r\nX-Forwarded-For: 10.2.2.2\r\n": ("127.0.0.1", "10.2.2.2", "10.1.1.1"),
    "X-Forwarded-For: 10.1.1.1, 10.2.2.2, 10.3.3.3\r\n": ("127.0.0.1", "10.3.3.3", "10.2.2.2"),
    "X-Forwarded-For: ::ffff:10.0.0.1\r\n": ("127.0.0.1", "::ffff:10.0.0.1", "127.0.0.1"),
    "X-Forwarded-For: fe80::1%eth0\r\n": ("127.0.0.1", None, "127.0.0.1"),
    "X-Forwarded-For: 10.1.1.1, garbage\r\n": ("127.0.0.1", "127.0.0.1", "10.1.1.1"),
    "X-Forwarded-For: 999.1.1.1\r\n": ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
    "X-Forwarded-For: \xff\xfe\r\n": ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
    "X-Doorward-Client-Address: 10.1.1.1\r\nX-Real-Ip: 10.1.1.1\r\nForwarded: for=10.1.1.1\r\n": (
        "127.0.0.1", "127.0.0.1", "127.0.0.1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("hops", [0, 1, 2])
async def test_s06_the_clients_address_is_the_trusted_hops_word_and_nobody_elses(bench: Bench, hops: int):
    changed = dataclasses.replace(bench.proxy.settings, generation=f"hops-{hops}", trusted_hops=hops)
    await bench.proxy.publish(changed)
    for lines, addresses in FORWARDED.items():
        bench.forget()
        answer = await bench.proxy.get("/", headers=lines)
        assert answer.status in {200, 400}, lines
        expected = addresses[hops]
        for check in bench.authorizer.checks:
            found = [value.decode() for value in headers_of(check)[CLIENT_ADDRESS_HEADER]]
            assert len(found) == 1, "one address, however many lines"
            if expected is not None:
                assert found == [expected], (lines, hops)
        for seen in bench.upstream.requests:
            assert CLIENT_ADDRESS_HEADER not in dict(seen["headers"])
            told = [value for name, value in seen["headers"] if name == "x-forwarded-for"]
            assert told == [headers_of(bench.authorizer.checks[-1])[CLIENT_ADDRESS_HEADER][0].decode()]
    await bench.proxy.publish(dataclasses.replace(changed, generation=f"back-{hops}", trusted_hops=0))


async def test_s08_internal_headers_of_envoys_and_ours_mean_nothing_from_a_client(bench: Bench):
    bench.upstream.delay_seconds = 0.05
    sent = (
        "X-Envoy-Original-Path: /exact\r\nX-Envoy-Upstream-Rq-Timeout-Ms: 1\r\nX-Envoy-Max-Retries: 9\r\n"
        "X-Envoy-Decorator-Operation: x\r\nX-Envoy-Internal: true\r\nX-Envoy-Force-Trace: 1\r\nX-Envoy-Ip-Tags: a\r\n"
        "X-Envoy-External-Address: 10.1.1.1\r\nX-Envoy-Upstream-Alt-Stat-Name: x\r\nX-Envoy-Retry-On: 5xx\r\n"
        "X-Doorward-Jwt-Assertion: forged\r\nX-Doorward-Decision-Id: forged\r\n"
    )
    assert (await bench.proxy.get("/", headers=sent)).status == 200
    check, seen = headers_of(bench.authorizer.checks[-1]), dict(bench.upstream.requests[-1]["headers"])
    for headers in (check, seen):
        assert not [name for name in headers if name.startswith("x-envoy-")]
        assert not [name for name in headers if name.startswith("x-doorward-") and name != CLIENT_ADDRESS_HEADER]


async def test_s23_the_scheme_of_a_request_target_changes_nothing(bench: Bench):
    for scheme in ("https", "HTTPS", "hTTp", "http", "ftp"):
        bench.forget()
        answer = await bench.proxy.raw(
            f"GET {scheme}://app.localhost/x HTTP/1.1\r\nhost: app.localhost\r\nconnection: close\r\n\r\n".encode()
        )
        assert answer.status in {200, 400, 404}, scheme
        assert len(bench.upstream.requests) <= len(bench.authorizer.checks) <= 1
        for check in bench.authorizer.checks:
            assert check.attributes.request.http.path == "/x"
            assert check.attributes.context_extensions["host"] == "app.localhost"
        for seen in bench.upstream.requests:
            assert seen["path"] == "/x"
            assert dict(seen["headers"])["x-forwarded-proto"] == "https"


@pytest.mark.parametrize("scheme", ["https", "HTTPS", "hTTp", "HTTP", "http", "ftp", ""])
async def test_s23_nor_does_that_of_a_pseudo_header(bench: Bench, scheme: str):
    """Whatever case it has: nothing is sent elsewhere, or taken for a request in clear text, because of it."""
    pairs = [*without(":scheme"), (":scheme", scheme)]
    answer: dict[str, str] = {}
    with contextlib.suppress(OSError, EOFError):
        answer = dict(await http2_request(bench.proxy.port, bench.proxy.tls("h2"), pairs, server_name="app.localhost"))
    assert answer.get(":status", "400") in ({"200"} if scheme == "https" else {"200", "400"}), answer
    assert len(bench.upstream.requests) == len(bench.authorizer.checks) == (answer.get(":status") == "200")
    for seen in bench.upstream.requests:
        assert seen["path"] == "/a"
        assert dict(seen["headers"])["x-forwarded-proto"] == "https"


async def test_s31_headers_that_the_check_adds_do_not_choose_another_route(bench: Bench):
    bench.authorizer.added = [
        ("x-envoy-original-path", "/exact"),
        ("x-original-url", "/exact"),
        ("x-rewrite-url", "/exact"),
        ("x-forwarded-host", "other.localhost"),
        ("x-http-method-override", "DELETE"),
    ]
    answer = await bench.proxy.get("/a")
    assert answer.status == 200
    assert bench.upstream.requests[-1]["path"] == "/a"
    assert len(bench.authorizer.checks) == 1


async def test_s32_a_check_that_is_late_is_a_refusal_that_may_be_tried_again(bench: Bench):
    before = await bench.told("doorward_envoy_checks_total", result="error")
    bench.authorizer.late_seconds = 2 * CHECK_TIMEOUT_SECONDS
    answers = await asyncio.gather(*(bench.proxy.get("/") for _ in range(10)))
    assert {answer.status for answer in answers} == {503}
    assert bench.upstream.requests == []
    after = await bench.told("doorward_envoy_checks_total", result="error")
    assert after == before + 10, "what an alert looks at"
    assert await bench.told("doorward_envoy_check_tries_failed_total", reason="timeout") > 0
    assert await bench.told("doorward_envoy_up") == 1
    assert await bench.told("doorward_envoy_healthy_processes", plane="authorize") == 1
    assert await bench.told("doorward_envoy_checks_total", result="unchecked") == 0
    bench.authorizer.late_seconds = 0.0
    async with asyncio.timeout(10):
        while (await bench.proxy.get("/")).status != 200:
            pass


async def test_a_check_may_take_nearly_all_its_time_and_is_asked_once(bench: Bench):
    bench.authorizer.late_seconds = 0.7 * CHECK_TIMEOUT_SECONDS
    assert (await bench.proxy.get("/")).status == 200
    assert len(bench.authorizer.checks) == 1


async def test_s33_an_error_is_503_and_a_denial_keeps_its_status_and_cookies(bench: Bench):
    errors = grpc.StatusCode
    for error in (errors.INTERNAL, errors.INVALID_ARGUMENT, errors.RESOURCE_EXHAUSTED, errors.PERMISSION_DENIED):
        bench.authorizer.error = error
        assert (await bench.proxy.get("/")).status == 503, error
    bench.authorizer.error = None
    bench.authorizer.allow = lambda _: False
    denied = await bench.proxy.get("/")
    assert denied.status == 403
    assert b"set-cookie: __Host-doorward-flow-1=x" in denied.data
    assert bench.upstream.requests == []


async def test_s34_a_check_carries_each_header_by_itself_and_none_twice(bench: Bench):
    sent = (
        "Cookie: a=b\r\nAccept: text/html\r\nOrigin: https://x\r\nX-Team: red\r\nx-TEAM: blue\r\nUser-Agent: agent\r\n"
    )
    await bench.proxy.get("/", headers=sent)
    headers = headers_of(bench.authorizer.checks[-1])
    assert {"cookie", "accept", "origin", "x-team", "x-request-id", CLIENT_ADDRESS_HEADER} <= headers.keys()
    assert headers["x-team"] == [b"red", b"blue"]
    assert not headers.keys() & set(UNREAD_HEADERS)
    assert all(name == name.lower() for name in headers)
    http = bench.authorizer.checks[-1].attributes.request.http
    assert (http.method, http.path) == ("GET", "/")
    assert dict(bench.upstream.requests[-1]["headers"])["user-agent"] == "agent", "the upstream gets them all the same"


@dataclass(frozen=True)
class Odd:
    """What becomes of bytes within a value, and at its end; ``None``: the request is refused."""

    over_http1: tuple[bytes, bytes] | None
    over_http2: bool


ODD_BYTES = {
    b"\x00": Odd(None, over_http2=False),
    b"\x01": Odd(None, over_http2=False),
    b"\x1b[31m": Odd(None, over_http2=False),
    b"\x7f": Odd(None, over_http2=False),
    # Over HTTP/1.1 Envoy's parser takes line breaks out before anybody sees the value: nobody behind it gets another one.
    b"\r": Odd((b"vw", b"v"), over_http2=False),
    b"\r\n folded": Odd((b"v foldedw", b"v folded"), over_http2=False),
    b"\r\n\tfolded": Odd((b"v\tfoldedw", b"v\tfolded"), over_http2=False),
    # What is beyond ASCII is opaque (RFC 9110, section 5.5) and arrives as it came; no policy compares it.
    b"\x80": Odd((b"v\x80w", b"v\x80"), over_http2=True),
    b"\xff": Odd((b"v\xffw", b"v\xff"), over_http2=True),
    b"\xc3\xa9": Odd((b"v\xc3\xa9w", b"v\xc3\xa9"), over_http2=True),
}


def seen_of(bench: Bench) -> tuple[list[bytes], list[bytes]]:
    """The values of `x-a` that the check carried, and those that the upstream got."""
    decided = [value for check in bench.authorizer.checks for value in headers_of(check).get("x-a", [])]
    told = [
        value.encode("latin-1") for seen in bench.upstream.requests for name, value in seen["headers"] if name == "x-a"
    ]
    return decided, told


@pytest.mark.parametrize("spoiled", ODD_BYTES)
async def test_s10_odd_bytes_in_a_header_are_refused_or_are_gone_before_policy(bench: Bench, spoiled: bytes):
    odd = ODD_BYTES[spoiled]
    lines = {b"x-a" + spoiled + b"b: v": None, b"x-a: v" + spoiled + b"w": 0, b"x-a: v" + spoiled: 1}
    for line, which in lines.items():
        bench.forget()
        answer = await bench.proxy.raw(
            b"GET / HTTP/1.1\r\nhost: app.localhost\r\n" + line + b"\r\nconnection: close\r\n\r\n"
        )
        if which is None or odd.over_http1 is None:
            assert answer.status in {400, 0}, line
            assert bench.upstream.requests == bench.authorizer.checks == [], line
        else:
            assert answer.status == 200, line
            assert seen_of(bench) == ([odd.over_http1[which]], [odd.over_http1[which]])
    for pair in ((b"x-a" + spoiled, b"v"), (b"x-a", b"v" + spoiled + b"w"), (b"x-a", b"v" + spoiled)):
        bench.forget()
        await http2_flood(bench, opened(1, pair), lambda seen: bool(seen.keys() & {frames.HEADERS, frames.RST_STREAM}))
        if odd.over_http2 and pair[0] == b"x-a":
            assert seen_of(bench) == ([pair[1]], [pair[1]])
        else:
            assert bench.upstream.requests == bench.authorizer.checks == [], pair


@pytest.mark.parametrize(
    "line", [b"content-length: 0\r5", b"transfer-encoding: chun\rked", b"host: app.localhost\nevil"]
)
async def test_s10_a_line_break_within_what_frames_a_request_changes_nothing(bench: Bench, line: bytes):
    """The bytes behind are no second request that only one of two servers sees."""
    hidden = b"GET /exact HTTP/1.1\r\nhost: app.localhost\r\n\r\n"
    host = b"" if line.startswith(b"host") else b"host: app.localhost\r\n"
    await bench.proxy.raw(b"POST / HTTP/1.1\r\n" + host + line + b"\r\nconnection: close\r\n\r\n" + hidden, wait=1.0)
    assert "/exact" not in {seen["path"] for seen in bench.upstream.requests}
    assert len(bench.upstream.requests) <= len(bench.authorizer.checks) <= 1


GOOD = [(":method", "GET"), (":scheme", "https"), (":path", "/a"), (":authority", "app.localhost")]


def without(name: str) -> list[tuple[str, str]]:
    return [pair for pair in GOOD if pair[0] != name]


ODD_REQUESTS: dict[str, list[tuple[str, str]]] = {
    "a path without a slash": [*without(":path"), (":path", "a")],
    "an empty path": [*without(":path"), (":path", "")],
    "no path": without(":path"),
    "no method": without(":method"),
    "no authority": without(":authority"),
    "two paths": [*GOOD, (":path", "/exact")],
    "two methods": [*GOOD, (":method", "POST")],
    "two authorities": [*GOOD, (":authority", "other.localhost")],
    "a host that differs": [*GOOD, ("host", "other.localhost")],
    "a method that is none": [*without(":method"), (":method", "G ET")],
    "a method in lower case": [*without(":method"), (":method", "get")],
    "an unknown pseudo-header": [*GOOD, (":evil", "x")],
    "a pseudo-header at the end": [GOOD[0], ("x-a", "b"), *GOOD[1:]],
    "a name in upper case": [*GOOD, ("X-Upper", "b")],
    "a connection header": [*GOOD, ("connection", "close")],
    "a transfer coding": [*GOOD, ("transfer-encoding", "chunked")],
    "more headers than there may be": [*GOOD, *((f"x-{number}", "v") for number in range(150))],
    "more crumbs than there may be": [*GOOD, *(("cookie", f"c{number}=v") for number in range(5_000))],
    "longer headers than there may be": [*GOOD, *((f"x-{number}", "v" * 8_000) for number in range(12))],
}


@pytest.mark.parametrize("kind", ODD_REQUESTS)
async def test_s22_s82_an_odd_http2_request_is_refused_or_read_alike(bench: Bench, kind: str):
    """Whatever Envoy lets through, the policy saw what the upstream sees."""
    tls = bench.proxy.tls("h2")
    try:
        answer = dict(await http2_request(bench.proxy.port, tls, ODD_REQUESTS[kind], server_name="app.localhost"))
    except (OSError, EOFError):
        answer = {}
    assert len(bench.upstream.requests) <= len(bench.authorizer.checks) <= 1
    if not bench.upstream.requests:
        assert answer.get(":status", "400") in {"400", "404", "431", "405"}, answer
        return
    http = bench.authorizer.checks[0].attributes.request.http
    seen = bench.upstream.requests[0]
    assert (http.method, http.path) == (seen["method"], seen["path"])
    assert http.path.startswith("/")
    assert bench.authorizer.checks[0].attributes.context_extensions["host"] == "app.localhost"


async def test_s82_floods_keep_nobody_else_from_being_served(bench: Bench):
    """Rapid reset, an endless header block, settings and pings without end, against the listener that we generate."""
    block = frames.header_block([(name.encode(), value.encode()) for name, value in GOOD])
    opening = frames.PREFACE + frames.settings({})

    def reset(number: int) -> bytes:
        both = frames.END_HEADERS | frames.END_STREAM
        return frames.frame(frames.HEADERS, both, 2 * number + 1, block) + frames.reset(2 * number + 1, 8)

    floods = {
        "rapid reset": b"".join(reset(number) for number in range(3_000)),
        "continuation": frames.frame(frames.HEADERS, 0, 1, block)
        + frames.frame(frames.CONTINUATION, 0, 1, frames.header_block([(b"x", b"y" * 200)]) * 50) * 200,
        "settings": frames.settings({}) * 20_000,
        "pings": frames.frame(frames.PING, 0, 0, bytes(8)) * 20_000,
        "empty data": frames.frame(frames.HEADERS, frames.END_HEADERS, 1, block)
        + frames.frame(frames.DATA, 0, 1, b"") * 20_000,
    }
    for kind, flood in floods.items():
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", bench.proxy.port, ssl=bench.proxy.tls("h2"), server_hostname="app.localhost"
        )
        writer.write(opening + flood)
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(2):
                while await reader.read(65536):
                    pass
        assert (await bench.proxy.get("/")).status == 200, f"nobody is served beside {kind}"
        writer.transport.abort()
        assert (await bench.proxy.get("/")).status == 200, f"nobody is served after {kind}"


async def http2_flood(
    bench: Bench, flood: bytes, enough: Callable[[dict[int, list[bytes]]], bool]
) -> dict[int, list[bytes]]:
    """Payloads that came back for ``flood``, by the kind of their frames, until there are ``enough`` or the connection ends."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", bench.proxy.port, ssl=bench.proxy.tls("h2"), server_hostname="app.localhost"
    )
    writer.write(frames.PREFACE + frames.settings({}) + flood)
    seen: dict[int, list[bytes]] = {}
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionError, EOFError):
            while not enough(seen):
                high, low, kind, _, _ = frames.FRAME.unpack(await reader.readexactly(frames.FRAME_BYTES))
                seen.setdefault(kind, []).append(await reader.readexactly((high << 16) + low))
    writer.transport.abort()
    return seen


def opened(count: int, *further: tuple[bytes, bytes]) -> bytes:
    """As many requests on one connection, all at once, with ``further`` headers."""
    block = frames.header_block([*((name.encode(), value.encode()) for name, value in GOOD), *further])
    both = frames.END_HEADERS | frames.END_STREAM
    return b"".join(frames.frame(frames.HEADERS, both, 2 * number + 1, block) for number in range(count))


async def test_s82_streams_beyond_the_limit_of_a_connection_are_refused(bench: Bench):
    bench.upstream.delay_seconds = 0.3
    answered = await http2_flood(
        bench,
        opened(MAX_STREAMS_OF_A_CONNECTION + 50),
        lambda seen: len(seen.get(frames.HEADERS, ())) + len(seen.get(frames.RST_STREAM, ())) >= 150,
    )
    assert 0 < len(bench.authorizer.checks) <= MAX_STREAMS_OF_A_CONNECTION
    assert len(answered.get(frames.HEADERS, ())) <= MAX_STREAMS_OF_A_CONNECTION
    refused = answered.get(frames.RST_STREAM, [])
    assert refused == [frames.REFUSED_STREAM.to_bytes(4, "big")] * 50 or frames.GOAWAY in answered
    bench.upstream.delay_seconds = 0.0
    assert (await bench.proxy.get("/")).status == 200


async def test_s82_hundreds_of_streams_that_end_at_once_hold_nobody_up(bench: Bench):
    """What a connection leaves behind is cleared away in time that grows with it, and not with its square."""
    bench.upstream.delay_seconds = 1.0
    writers = []
    for _ in range(5):
        _, writer = await asyncio.open_connection(
            "127.0.0.1", bench.proxy.port, ssl=bench.proxy.tls("h2"), server_hostname="app.localhost"
        )
        writer.write(frames.PREFACE + frames.settings({}) + opened(MAX_STREAMS_OF_A_CONNECTION))
        writers.append(writer)
    async with asyncio.timeout(10):
        while len(bench.authorizer.checks) < MAX_STREAMS_OF_A_CONNECTION:
            await asyncio.sleep(0.01)
    for writer in writers:
        writer.transport.abort()
    bench.upstream.delay_seconds = 0.0
    async with asyncio.timeout(5):
        while (await bench.proxy.get("/")).status != 200:  # the authorizer of this test is slow
            pass
