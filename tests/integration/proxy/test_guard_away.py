"""The guard stopped, killed, without an authorizer behind it, or saying no: nobody passes, and everybody reads why in their own form."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import grpc
import psutil
import pytest
import pytest_asyncio
from tests.integration.proxy.test_local_replies import BROWSER, GRPC, framed, headers_of, is_private
from tests.support.envoy import FakeAuthorizer, Raw, RunningProxy, route, running_proxy, settings_of
from tests.support.http2 import http2_request

from doorward.api.guard.v1 import guard_pb2

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

WORDS = "Open connections cannot be watched at this moment. Try again soon."
ENDED = "Access to this address has ended. Open it again to see why."
UPGRADE = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n"


@dataclass
class Moody(FakeAuthorizer):
    """Vouches for streams, for none of them, says no to each, or no longer knows their route as it was."""

    mood: str = "allows"

    async def WatchStreams(  # the contract's name
        self, request_iterator: AsyncIterator[guard_pb2.WatchStreamsRequest], context: object
    ) -> AsyncIterator[guard_pb2.WatchStreamsResponse]:
        async for answer in super().WatchStreams(request_iterator, context):
            if self.mood == "is away":
                assert isinstance(context, grpc.aio.ServicerContext)
                await context.abort(grpc.StatusCode.UNAVAILABLE, "planted")
            for verdict in answer.verdicts:
                verdict.allowed = verdict.allowed and self.mood == "allows"
                verdict.unavailable = self.mood == "has moved on"
            yield answer


@dataclass
class World:
    proxy: RunningProxy
    authorizer: Moody
    reached: list[bytes] = field(default_factory=list)
    """The beginning of everything that came through."""
    held: asyncio.Event = field(default_factory=asyncio.Event)
    """Set: the application answers."""

    def guard(self) -> psutil.Process:
        """The guard's process.

        Raises:
            LookupError: none runs.
        """
        folder = str(self.proxy.endpoints.guard.parent)
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                command = child.cmdline()
                if {"serve", "guard", folder} <= set(command) and "doorward.runtime.child" not in command:
                    return child
        raise LookupError("no guard runs")

    async def passes(self) -> None:
        """Return once requests pass again."""
        async with asyncio.timeout(30):
            while (await self.proxy.get()).status != 200:
                await asyncio.sleep(0.05)
        self.reached.clear()

    async def send(self) -> asyncio.Task[Raw]:
        """A request that has reached the application, which does not answer yet."""
        self.held.clear()
        task = asyncio.create_task(self.proxy.get("/slow"))
        async with asyncio.timeout(10):
            while not self.reached:
                await asyncio.sleep(0.01)
        return task


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole() -> AsyncIterator[World]:
    served: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        served.add(task)
        with contextlib.closing(writer), contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            made.reached.append(await reader.readuntil(b"\r\n\r\n"))
            await made.held.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            await writer.drain()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = settings_of(route(to=[("http", "127.0.0.1", port)], continuous=True, websocket=True))
    authorizer = Moody()
    try:
        async with running_proxy(settings, authorizer) as proxy:
            made = World(proxy, authorizer)
            yield made
    finally:
        server.close()
        for task in served:  # what was cut while the application had not answered yet
            task.cancel()
        await asyncio.gather(*served, return_exceptions=True)


@pytest_asyncio.fixture(loop_scope="module")
async def world(whole: World) -> World:
    whole.authorizer.mood = "allows"
    whole.held.set()
    await whole.passes()
    return whole


@asynccontextmanager
async def stopped(world: World) -> AsyncIterator[None]:
    guard = world.guard()
    guard.suspend()
    try:
        yield
    finally:
        guard.resume()
        # Whether its own watchdog ends it now is a matter of chance; the next test is not to see that.
        guard.kill()


@asynccontextmanager
async def killed(world: World) -> AsyncIterator[None]:
    """A folder in the place of its socket keeps the next one from starting."""
    place = world.proxy.endpoints.guard
    place.unlink()
    place.mkdir()
    try:
        world.guard().kill()
        yield
    finally:
        place.rmdir()


@asynccontextmanager
async def unvouched(world: World) -> AsyncIterator[None]:
    """The guard is there and gets no word from any authorizer."""
    world.authorizer.mood = "is away"
    yield


Away = Callable[[World], AbstractAsyncContextManager[None]]


async def every_form(world: World) -> tuple[Raw, Raw, Raw, Raw, Raw]:
    """What a browser, a program, gRPC, gRPC-Web and a WebSocket get, all at once."""
    get = world.proxy.get
    socket = f"GET /socket HTTP/1.1\r\nHost: app.localhost\r\nConnection: Upgrade\r\n{UPGRADE}\r\n"
    return await asyncio.gather(
        get(headers=BROWSER),
        get(),
        get(method="POST", headers=GRPC),
        get(method="POST", headers="Content-Type: application/grpc-web+proto\r\n"),
        world.proxy.raw(socket.encode()),
    )


@pytest.mark.parametrize("away", [stopped, killed, unvouched])
async def test_without_a_guard_nobody_passes_and_everybody_reads_why(world: World, away: Away):
    async with away(world):
        page, program, called, web, socket = await every_form(world)
        assert world.reached == []
    assert (page.status, program.status, called.status, web.status, socket.status) == (503, 503, 200, 200, 503)
    headers, text = headers_of(page), page.body.decode()
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert f"<p>{WORDS}</p>" in text
    assert f"<code>{headers['x-request-id']}</code>" in text
    for answer in (program, socket):
        assert headers_of(answer)["content-type"] == "application/json"
        told = {"error": "unavailable", "message": WORDS, "request_id": headers_of(answer)["x-request-id"]}
        assert json.loads(answer.body) == told
    for answer in (page, program, socket):
        assert headers_of(answer)["retry-after"] == "5"
        assert is_private(headers_of(answer))
    assert (headers_of(called)["grpc-status"], headers_of(called)["grpc-message"]) == ("14", WORDS)
    assert framed(web) == {"grpc-status": "14", "grpc-message": WORDS}
    for answer in (called, web):
        assert headers_of(answer)["x-request-id"]
        assert "retry-after" not in headers_of(answer)


async def test_a_websocket_over_http_2_reads_it_too(world: World):
    pairs = [
        *((":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https")),
        *((":path", "/socket"), (":authority", "app.localhost"), ("sec-websocket-version", "13")),
    ]
    async with killed(world):
        answer = dict(await http2_request(world.proxy.port, world.proxy.tls("h2"), pairs, server_name="app.localhost"))
        assert world.reached == []
    assert (answer[":status"], answer["retry-after"], answer["content-type"]) == ("503", "5", "application/json")


async def test_what_is_under_way_when_the_guard_ends_reads_the_same(world: World):
    under_way = await world.send()
    async with killed(world):
        answer = await under_way
    assert (answer.status, headers_of(answer)["retry-after"]) == (503, "5")
    assert json.loads(answer.body)["message"] == WORDS


async def test_a_no_of_the_guard_is_no_fault_and_nothing_to_wait_for(world: World):
    """Access may end between the check and the guard's first look; the next request is told why."""
    world.authorizer.mood = "denies"
    page, program, called, web, socket = await every_form(world)
    assert world.reached == []
    assert (page.status, program.status, called.status, web.status, socket.status) == (403, 403, 200, 200, 403)
    assert f"<p>{ENDED}</p>" in page.body.decode()
    for answer in (program, socket):
        assert json.loads(answer.body)["error"] == "ended"
        assert json.loads(answer.body)["message"] == ENDED
    assert (headers_of(called)["grpc-status"], headers_of(called)["grpc-message"]) == ("7", ENDED)
    assert framed(web) == {"grpc-status": "7", "grpc-message": ENDED}
    for answer in (page, program, called, web, socket):
        assert headers_of(answer)["x-request-id"]
        assert "retry-after" not in headers_of(answer)


async def test_a_route_that_has_changed_meanwhile_refuses_nobody(world: World):
    """Envoy is a moment behind authorize; the next request comes by the new configuration."""
    world.authorizer.mood = "has moved on"
    page, program, called, web, socket = await every_form(world)
    assert world.reached == []
    assert (page.status, program.status, called.status, web.status, socket.status) == (503, 503, 200, 200, 503)
    for answer in (page, program, socket):
        assert headers_of(answer)["retry-after"] == "5"
    assert headers_of(called)["grpc-status"] == "14"


async def test_a_request_whose_access_ends_before_its_answer_reads_that(world: World):
    under_way = await world.send()
    world.authorizer.guard_ends.set()
    try:
        answer = await under_way
    finally:
        world.authorizer.guard_ends.clear()
    assert (answer.status, json.loads(answer.body)["message"]) == (403, ENDED)
    assert "retry-after" not in headers_of(answer)
