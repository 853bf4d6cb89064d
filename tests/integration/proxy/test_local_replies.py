"""What clients get where Envoy refuses by itself: safe words in their own form, an id that is Envoy's, and never in place of ours."""

import asyncio
import base64
import contextlib
import json
import re
from collections.abc import AsyncIterator

import grpc.aio
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
)
from tests.support.envoy import settings_of as settings

from doorward.envoy_api.envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from doorward.envoy_api.envoy.service.auth.v3 import external_auth_pb2
from doorward.web.refusal_page import UNAVAILABLE_TEXT
from doorward_proxy.resources import routes

pytestmark = pytest.mark.asyncio(loop_scope="module")

BROWSER = "Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n"
GRPC = "Content-Type: application/grpc\r\nTE: trailers\r\n"
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


class Worded(FakeAuthorizer):
    """Says no in words of its own, or nothing at all."""

    refusal: external_auth_pb2.DeniedHttpResponse | None = None
    broken = False

    async def Check(  # the contract's name
        self,
        request: external_auth_pb2.CheckRequest,
        context: "grpc.aio.ServicerContext",  # type: ignore[override,type-arg]
    ) -> external_auth_pb2.CheckResponse:
        if self.broken:
            await context.abort(grpc.StatusCode.INTERNAL, "planted")
        answer = await super().Check(request, context)
        if self.refusal is not None:
            answer = external_auth_pb2.CheckResponse(denied_response=self.refusal)
            answer.status.code = 7
        return answer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def proxy() -> AsyncIterator[RunningProxy]:
    upstream, authorizer = EchoUpstream(free_port()), Worded()
    to = [("http", "127.0.0.1", upstream.port)]
    away = route("away.localhost", to=[("http", "127.0.0.1", free_port())])
    broken = route(match="/broken", to=(), broken="for the test")
    only_path = route("few.localhost", match="/app", to=to)
    routed = settings(broken, route(to=to), away, only_path)
    async with upstream.running(), running_proxy(routed, authorizer) as running:
        yield running


@pytest.fixture
def authorizer(proxy: RunningProxy) -> Worded:
    assert isinstance(proxy.authorizer, Worded)
    proxy.authorizer.refusal, proxy.authorizer.broken = None, False
    return proxy.authorizer


def headers_of(answer: Raw) -> dict[str, str]:
    lines = answer.data.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


def is_private(headers: dict[str, str]) -> bool:
    wanted = {"cache-control": "no-store", "referrer-policy": "no-referrer", "x-content-type-options": "nosniff"}
    return wanted.items() <= headers.items()


def framed(answer: Raw) -> dict[str, str]:
    """What a gRPC-Web answer says in its frame of trailers, the only one that it has."""
    is_text = headers_of(answer)["content-type"].startswith("application/grpc-web-text")
    frame = base64.b64decode(answer.body, validate=True) if is_text else answer.body
    assert frame[:5] == b"\x80" + (len(frame) - 5).to_bytes(4, "big")
    lines = frame[5:].decode().removesuffix("\r\n").split("\r\n")
    return {name: value for name, _, value in (line.partition(":") for line in lines)}


async def test_a_browser_gets_a_page_that_says_when_to_come_again(proxy: RunningProxy, authorizer: Worded):
    authorizer.broken = True
    answer = await proxy.get("/", headers=BROWSER)
    headers, page = headers_of(answer), answer.body.decode()
    assert answer.status == 503
    assert headers["retry-after"] == "5"
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert is_private(headers)
    assert UNAVAILABLE_TEXT in page
    assert f"<code>{headers['x-request-id']}</code>" in page
    assert page.endswith("</html>")


@pytest.mark.parametrize(
    ("host", "path", "status", "error", "said"),
    [
        ("few.localhost", "/elsewhere", 404, "not-found", "No application has this address."),
        ("nobody.localhost", "/", 404, "not-found", "No application has this address."),
        ("app.localhost", "/broken", 503, "misconfigured", "Whoever looks after this address has to mend it."),
    ],
)
async def test_an_address_that_is_not_configured_or_broken_says_so(
    proxy: RunningProxy, authorizer: Worded, host: str, path: str, status: int, error: str, said: str
):
    page = await proxy.get(path, host=host, headers=BROWSER)
    assert (page.status, headers_of(page)["content-type"]) == (status, "text/html; charset=utf-8")
    assert said in page.body.decode()
    answer = await proxy.get(path, host=host)
    headers, told = headers_of(answer), json.loads(answer.body)
    assert (answer.status, told["error"], told["request_id"]) == (status, error, headers["x-request-id"])
    assert said in told["message"]
    assert "retry-after" not in headers
    assert is_private(headers)
    assert (
        framed(await proxy.get(path, host=host, headers="Content-Type: application/grpc-web+proto\r\n"))["grpc-status"]
        == {404: "12", 503: "14"}[status]
    )


async def test_a_program_gets_json(proxy: RunningProxy, authorizer: Worded):
    authorizer.broken = True
    for host in ("app.localhost", "unknown.localhost"):
        answer = await proxy.get("/", host=host)
        headers = headers_of(answer)
        assert (answer.status, headers["retry-after"], headers["content-type"]) == (503, "5", "application/json")
        assert is_private(headers)
        assert json.loads(answer.body) == {
            "error": "unavailable",
            "message": UNAVAILABLE_TEXT,
            "request_id": headers["x-request-id"],
        }


async def test_grpc_gets_its_status_and_no_page(proxy: RunningProxy, authorizer: Worded):
    authorizer.broken = True
    answer = await proxy.get("/", method="POST", headers=GRPC + BROWSER)
    headers = headers_of(answer)
    assert (answer.status, headers["grpc-status"], headers["grpc-message"]) == (200, "14", UNAVAILABLE_TEXT)
    assert not headers.keys() & {"retry-after", "content-security-policy"}
    assert answer.body == b""


@pytest.mark.parametrize("kind", ["application/grpc-web", "application/grpc-web-text"])
async def test_grpc_web_gets_its_status_in_a_frame_of_its_own(proxy: RunningProxy, authorizer: Worded, kind: str):
    asked = f"Content-Type: {kind}+thrift\r\n{BROWSER}"
    away = await proxy.get("/", host="away.localhost", method="POST", headers=asked)
    authorizer.broken = True
    undecided = await proxy.get("/", method="POST", headers=asked)
    for answer, words in ((away, "does not answer"), (undecided, UNAVAILABLE_TEXT)):
        headers = headers_of(answer)
        assert (answer.status, headers["content-type"]) == (200, f"{kind}+proto")
        assert is_private(headers)
        assert "retry-after" not in headers
        told = framed(answer)
        assert told.keys() == {"grpc-status", "grpc-message"}
        assert told["grpc-status"] == "14"
        assert words in told["grpc-message"]


@pytest.mark.parametrize("wanted", ["", BROWSER])
@pytest.mark.parametrize("status", [403, 503])
async def test_what_authorize_has_worded_goes_out_as_it_is(
    proxy: RunningProxy, authorizer: Worded, status: int, wanted: str
):
    """To Envoy it is a local reply like its own."""
    given = [("content-type", "text/plain"), ("retry-after", "77"), ("cache-control", "no-cache")]
    authorizer.refusal = external_auth_pb2.DeniedHttpResponse(
        headers=[HeaderValueOption(header=HeaderValue(key=name, value=value)) for name, value in given],
        body="100% worded",
    )
    authorizer.refusal.status.code = status  # type: ignore[assignment]
    answer = await proxy.get("/", headers=wanted)
    headers = headers_of(answer)
    assert (answer.status, answer.body) == (status, b"100% worded")
    assert dict(given).items() <= headers.items()
    assert "content-security-policy" not in headers
    authorizer.refusal = external_auth_pb2.DeniedHttpResponse()
    authorizer.refusal.status.code = status  # type: ignore[assignment]
    bare = await proxy.get("/", headers=wanted)
    assert (bare.status, bare.body, "retry-after" in headers_of(bare)) == (status, b"", False)


async def test_an_application_that_is_away_is_told_apart_and_nothing_of_it_is_told(
    proxy: RunningProxy, authorizer: Worded
):
    page = await proxy.get("/", host="away.localhost", headers=BROWSER)
    told = await proxy.get("/", host="away.localhost")
    called = await proxy.get("/", host="away.localhost", method="POST", headers=GRPC)
    assert (page.status, told.status, called.status) == (503, 503, 200)
    assert json.loads(told.body)["error"] == "no-answer"
    assert json.loads(told.body)["request_id"] == headers_of(told)["x-request-id"]
    assert f"<code>{headers_of(page)['x-request-id']}</code>" in page.body.decode()
    assert headers_of(called)["grpc-status"] == "14"
    for answer in (page, told, called):
        assert b"does not answer" in answer.data
        for word in (b"upstream", b"reset", b"failure", b"127.0.0.1"):
            assert word not in answer.data.lower()
        assert "retry-after" not in headers_of(answer), "nobody here knows when it comes back"
    assert is_private(headers_of(page))
    assert is_private(headers_of(told))


async def test_pages_of_our_own_that_are_away_are_no_application(proxy: RunningProxy, authorizer: Worded):
    """Nobody serves the sign-in host here."""
    aside = proxy.endpoints.proxy_pages.rename(proxy.endpoints.proxy_pages.with_suffix(".aside"))
    try:
        for host, path in ((SIGN_IN_HOST, "/"), ("app.localhost", "/.doorward/callback")):
            page = await proxy.get(path, host=host, headers=BROWSER)
            told = await proxy.get(path, host=host)
            called = await proxy.get(path, host=host, method="POST", headers=GRPC)
            web = await proxy.get(path, host=host, method="POST", headers="Content-Type: application/grpc-web\r\n")
            assert (page.status, told.status, called.status, web.status) == (503, 503, 200, 200)
            assert "<h1>Signing in and out is not possible right now</h1>" in page.body.decode()
            assert f"<code>{headers_of(page)['x-request-id']}</code>" in page.body.decode()
            body = json.loads(told.body)
            assert (body["error"], body["request_id"]) == ("unavailable", headers_of(told)["x-request-id"])
            assert headers_of(page)["retry-after"] == headers_of(told)["retry-after"] == "5"
            assert (headers_of(called)["grpc-status"], framed(web)["grpc-status"]) == ("14", "14")
            assert headers_of(called)["grpc-message"] == framed(web)["grpc-message"] == body["message"]
            for answer in (page, told, called, web):
                assert b"The sign-in service does not answer." in answer.data
                assert b"application behind" not in answer.data
    finally:
        aside.rename(proxy.endpoints.proxy_pages)
    assert (await proxy.get("/.doorward/whoami")).status == 200


async def test_what_takes_too_long_is_worded_like_what_is_away(monkeypatch: pytest.MonkeyPatch):
    """The bound of a whole exchange: Envoy has another name for its end, and 504."""
    monkeypatch.setattr(routes, "OWN_PAGES_SECONDS", 0.5)
    upstream = EchoUpstream(free_port(), delay_seconds=20)
    to = [("http", "127.0.0.1", upstream.port)]
    async with (
        upstream.running(),
        running_proxy(settings(route(to=to, timeout_seconds=0.5))) as proxy,
        await asyncio.start_unix_server(hang, proxy.endpoints.authenticate_pages),
    ):
        slow = await proxy.get(headers=BROWSER)
        ours = await proxy.get(host=SIGN_IN_HOST, headers=BROWSER)
        late = f"POST / HTTP/1.1\r\nHost: app.localhost\r\n{BROWSER}Content-Length: 9\r\n\r\n"
        unfinished = await proxy.raw(late.encode())
    assert (slow.status, ours.status, unfinished.status) == (504, 503, 408)
    assert "<h1>No answer</h1>" in slow.body.decode()
    assert "retry-after" not in headers_of(slow)
    assert "<h1>Signing in and out is not possible right now</h1>" in ours.body.decode()
    assert headers_of(ours)["retry-after"] == "5"
    assert b"<h1>" not in unfinished.body, "it is the client who is late"


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take everything, say nothing."""
    with contextlib.closing(writer), contextlib.suppress(ConnectionError):
        while await reader.read(65536):
            pass


@pytest.mark.parametrize("sent", ["abc<script>", "3b241101-e2bb-4255-8caf-4136c566a962", '"},"forged":{"'])
async def test_a_request_has_the_id_that_envoy_gives_it(proxy: RunningProxy, authorizer: Worded, sent: str):
    """It stands in records, logs and pages, and joins a stream's end to its beginning: it is nothing for clients to choose."""
    answer = await proxy.get("/", headers=f"X-Request-Id: {sent}\r\n")
    (told,) = [value for name, value in json.loads(answer.body)["headers"] if name == "x-request-id"]
    (asked,) = [
        header.raw_value.decode()
        for header in authorizer.checks[-1].attributes.request.http.header_map.headers
        if header.key == "x-request-id"
    ]
    assert told == asked == headers_of(answer)["x-request-id"] != sent
    assert UUID.match(told)
    authorizer.broken = True
    page = await proxy.get("/", headers=f"X-Request-Id: {sent}\r\n{BROWSER}")
    assert sent not in page.data.decode()
    assert UUID.match(headers_of(page)["x-request-id"])
