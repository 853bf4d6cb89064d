"""When clients take all that there is: limits that Envoy keeps by itself."""

import asyncio
import contextlib

import httpx
import pytest
from tests.support.envoy import EchoUpstream, RunningProxy, free_port, route, running_proxy, settings_of

LIMIT = 8


async def stats(proxy: RunningProxy, wanted: str) -> dict[str, int]:
    """Numbers that Envoy tells, by their names."""
    transport = httpx.AsyncHTTPTransport(uds=str(proxy.endpoints.envoy_admin))
    async with httpx.AsyncClient(transport=transport, base_url="http://envoy") as client:
        lines = (await client.get(f"/stats?filter={wanted}")).text.splitlines()
    return {name: int(value) for name, _, value in (line.partition(": ") for line in lines) if value.isdigit()}


async def is_open(proxy: RunningProxy) -> asyncio.StreamWriter | None:
    """A connection that has come through its handshake, or ``None`` when Envoy has closed it."""
    try:
        _, writer = await asyncio.open_connection(
            "127.0.0.1", proxy.port, ssl=proxy.tls(), server_hostname="app.localhost"
        )
    except OSError:
        return None
    return writer


async def is_served(proxy: RunningProxy) -> bool:
    """Whether a new connection gets an answer; one that Envoy closes at once gets none."""
    with contextlib.suppress(OSError):
        return (await proxy.get("/")).status == 200
    return False


async def test_s82_connections_beyond_the_limit_are_closed_and_those_that_are_there_go_on():
    upstream = EchoUpstream(free_port())
    limits = {"max_connections": LIMIT, "max_heap_bytes": 64 << 20}
    settings = settings_of(route(to=[("http", "127.0.0.1", upstream.port)]), **limits)
    async with upstream.running(), running_proxy(settings) as proxy, contextlib.AsyncExitStack() as stack:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", proxy.port, ssl=proxy.tls(), server_hostname="app.localhost"
        )
        stack.callback(writer.transport.abort)
        others = [await is_open(proxy) for _ in range(LIMIT - 1)]
        assert None not in others
        assert await is_open(proxy) is None, "one more than there may be"
        writer.write(b"GET / HTTP/1.1\r\nHost: app.localhost\r\n\r\n")
        assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 200")
        pressure = "overload.envoy.resource_monitors.fixed_heap.pressure"
        async with asyncio.timeout(10):
            while not (told := await stats(proxy, "downstream_global_cx_overflow|overload_actions|fixed_heap"))[
                pressure
            ]:
                await asyncio.sleep(0.05)  # between two looks: Envoy measures its heap once a second
        assert sum(value for name, value in told.items() if "cx_overflow" in name) == 1, (
            "the admin interface is not full"
        )
        for action in ("stop_accepting_connections", "stop_accepting_requests", "shrink_heap"):
            assert told[f"overload.envoy.overload_actions.{action}.active"] == 0
        assert told[pressure] < 90
        for other in others:
            assert other is not None
            other.transport.abort()
        async with asyncio.timeout(5):
            while not await is_served(proxy):
                pass


async def test_s82_without_memory_requests_are_refused_and_nobody_is_asked():
    """A limit that is reached from the beginning: nothing gets through, and Envoy lives."""
    settings = settings_of(route(), max_heap_bytes=1024)
    async with running_proxy(settings) as proxy:
        async with asyncio.timeout(5):
            while not (await stats(proxy, "stop_accepting_requests")).get(
                "overload.envoy.overload_actions.stop_accepting_requests.active"
            ):
                await asyncio.sleep(0.05)
        with pytest.raises((TimeoutError, OSError)):
            async with asyncio.timeout(0.5):
                assert (await proxy.get("/")).status == 503
                raise OSError  # a connection that was taken before the listener closed
        assert proxy.authorizer.checks == []
        assert proxy.plane.envoy.pid is not None
