"""Nothing that Envoy answers goes past the check, whatever it matches."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from tests.support.deployment import free_port
from tests.support.envoy import SIGN_IN_HOST, EchoUpstream, RunningProxy, route, running_proxy, settings_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

REQUESTS = [
    ("GET", "/", "app.localhost", 200, {"host": "app.localhost"}),
    ("GET", "/exact", "app.localhost", 200, {"host": "app.localhost"}),
    ("GET", "/api/x", "paths.localhost", 200, {"host": "paths.localhost"}),
    ("GET", "/api", "paths.localhost", 200, {"host": "paths.localhost"}),
    ("GET", "/apix", "paths.localhost", 404, {"route": "@unmatched", "host": "paths.localhost"}),
    ("GET", "/exact/x", "paths.localhost", 404, {"route": "@unmatched", "host": "paths.localhost"}),
    ("GET", "/.doorward/whoami", "app.localhost", 200, {"route": "@pages", "host": "app.localhost"}),
    ("GET", "/.doorward", "app.localhost", 404, {"route": "@pages", "host": "app.localhost"}),
    ("GET", "/.doorwardx", "app.localhost", 200, {"host": "app.localhost"}),
    ("GET", "/broken/x", "app.localhost", 503, {"route": "@broken", "host": "app.localhost"}),
    ("GET", "/", "broken.localhost", 503, {"route": "@broken", "host": "broken.localhost"}),
    ("GET", "/.doorward/whoami", "broken.localhost", 503, {"route": "@broken", "host": "broken.localhost"}),
    ("GET", "/", SIGN_IN_HOST, 503, {"route": "@sign-in", "host": SIGN_IN_HOST}),
    ("GET", "/", "unknown.localhost", 404, {"route": "@unmatched", "host": ""}),
    ("GET", "/.doorward/whoami", "unknown.localhost", 404, {"route": "@unmatched", "host": ""}),
    ("CONNECT", "app.localhost:443", "app.localhost:443", 404, {"route": "@unmatched", "host": "app.localhost"}),
    ("CONNECT", "evil.example:22", "evil.example:22", 404, {"route": "@unmatched", "host": ""}),
    ("BOGUS", "/", "app.localhost", 400, None),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[RunningProxy]:
    upstream = EchoUpstream(free_port())
    to = [("http", "127.0.0.1", upstream.port)]
    settings = settings_of(
        route(match="/exact", exact=True, to=to),
        route(match="/broken", to=(), broken="for the test"),
        route(to=to),
        route("paths.localhost", "/api", to=to),
        route("paths.localhost", "/exact", exact=True, to=to),
        broken_hosts=(("broken.localhost", "for the test"),),
    )
    async with upstream.running(), running_proxy(settings) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def proxy(running: RunningProxy) -> AsyncIterator[RunningProxy]:
    """The proxy with an authorizer that answers, also after a test that has taken it away."""
    running.authorizer.checks.clear()
    yield running
    if not running.authorizer_servers:
        running.authorizer_servers = await running.authorizer.serve(running.endpoints)
        await answered(running)


async def answered(proxy: RunningProxy) -> None:
    """Return once the authorizer lets a request through."""
    async with asyncio.timeout(10):
        while (await proxy.get("/")).status != 200:
            await asyncio.sleep(0.05)


async def test_every_answer_was_checked_with_its_context(proxy: RunningProxy) -> None:
    for method, path, host, status, expected in REQUESTS:
        proxy.authorizer.checks.clear()
        answer = await proxy.get(path, host=host, method=method)
        label = f"{method} {host} {path}"
        assert answer.status == status, label
        if expected is None:
            assert not proxy.authorizer.checks, label
            continue
        assert len(proxy.authorizer.checks) == 1, label
        context = proxy.authorizer.contexts()[0]
        assert expected.items() <= context.items(), label
        assert (context["digest"] == "internal") is context["route"].startswith("@"), label


async def test_the_context_names_the_route_that_matched(proxy: RunningProxy) -> None:
    await proxy.get("/exact")
    routes = {
        item.route.match.value: item.route for item in proxy.settings.routes if item.route.host == "app.localhost"
    }
    assert proxy.authorizer.contexts()[-1] == {
        "route": routes["/exact"].id,
        "digest": routes["/exact"].digest,
        "host": "app.localhost",
    }


async def test_a_broken_route_keeps_its_place(proxy: RunningProxy) -> None:
    """Left out, its traffic would fall to the broader route, and its upstream."""
    assert (await proxy.get("/broken")).status == 503
    assert (await proxy.get("/brokenx")).status == 200


async def test_s29_without_an_authorizer_everything_is_503(proxy: RunningProxy) -> None:
    await proxy.stop_authorizer()
    for method, path, host, _, expected in REQUESTS:
        if expected is not None:
            answer = await proxy.get(path, host=host, method=method)
            assert answer.status == 503, f"{method} {host} {path}: {answer.data!r}"


async def test_s29_an_authorizer_that_hangs_is_503_in_time(proxy: RunningProxy) -> None:
    await proxy.stop_authorizer()
    connections = []

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        with contextlib.suppress(ConnectionError):
            await reader.read()

    path = proxy.endpoints.check(0)
    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(never, str(path))
    try:
        async with asyncio.timeout(5):
            while not connections:
                assert (await proxy.get("/")).status == 503
        started = asyncio.get_running_loop().time()
        assert (await proxy.get("/")).status == 503
        assert asyncio.get_running_loop().time() - started < 2.0
    finally:
        server.close()
        for writer in connections:
            writer.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"garbage\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" + b"\xff" * 64,
    ],
    ids=["closes", "text", "http1", "broken-http2"],
)  # fmt: skip
async def test_s29_an_authorizer_that_answers_garbage_lets_nobody_in(proxy: RunningProxy, answer: bytes) -> None:
    await proxy.stop_authorizer()
    served = 0

    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        with contextlib.suppress(ConnectionError):
            await reader.read(1024)
            writer.write(answer)
            await writer.drain()
        writer.close()

    path = proxy.endpoints.check(0)
    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(garbage, str(path))
    try:
        async with asyncio.timeout(5):
            while not served:
                assert (await proxy.get("/")).status == 503
        for method, target, host, _, expected in REQUESTS:
            if expected is not None:
                assert (await proxy.get(target, host=host, method=method)).status == 503, target
    finally:
        server.close()


async def test_s29_a_grpc_answer_that_is_no_decision_lets_nobody_in(proxy: RunningProxy) -> None:
    await proxy.stop_authorizer()
    path = proxy.endpoints.check(0)
    path.unlink(missing_ok=True)
    server = grpc.aio.server()
    asked = 0

    async def noise(request: bytes, context: object) -> bytes:
        nonlocal asked
        del request, context
        asked += 1
        return b"\xff\xff\xff"

    handlers = {"Check": grpc.unary_unary_rpc_method_handler(noise)}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("envoy.service.auth.v3.Authorization", handlers),)
    )
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    try:
        async with asyncio.timeout(10):
            while not asked:
                assert (await proxy.get("/")).status == 503
        assert (await proxy.get("/")).status == 503
    finally:
        await server.stop(None)


async def test_an_authorizer_that_comes_back_is_found_again(proxy: RunningProxy) -> None:
    await proxy.stop_authorizer()
    assert (await proxy.get("/")).status == 503
    proxy.authorizer_servers = await proxy.authorizer.serve(proxy.endpoints)
    async with asyncio.timeout(3):
        while (await proxy.get("/")).status != 200:
            await asyncio.sleep(0.05)
