"""Changes, faults and the end: what Envoy serves while the configuration, its process or its neighbours change."""

import asyncio
import contextlib
import dataclasses
import os
import signal
import ssl
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from tests.support.deployment import free_port
from tests.support.envoy import EchoUpstream, RunningProxy, route, running_proxy, settings_of
from tests.unit.proxy.examples import CERTIFIED, EXAMPLES, surroundings

from doorward.config.settings import RoutePolicy
from doorward_proxy.envoy.binary import find_envoy
from doorward_proxy.envoy.validator import EnvoyValidator
from doorward_proxy.gate import admit
from doorward_proxy.resources.build import build_snapshot


@pytest.mark.parametrize("name", EXAMPLES)
async def test_envoy_accepts_every_example(name: str, tmp_path: object) -> None:
    snapshot = build_snapshot(EXAMPLES[name], CERTIFIED, surroundings())
    admit(snapshot)
    assert await EnvoyValidator(find_envoy(None), tmp_path).refusal(snapshot) is None  # type: ignore[arg-type]


async def test_a_reload_under_load_drops_no_request() -> None:
    first, second = EchoUpstream(free_port(), "first"), EchoUpstream(free_port(), "second")

    def to(*upstreams: EchoUpstream) -> list[tuple[str, str, int]]:
        return [("http", "127.0.0.1", upstream.port) for upstream in upstreams]

    statuses: list[int] = []
    stop = asyncio.Event()

    async def load(proxy: RunningProxy) -> None:
        while not stop.is_set():
            statuses.append((await proxy.get("/")).status)

    async with first.running(), second.running(), running_proxy(settings_of(route(to=to(first)))) as proxy:
        workers = [asyncio.create_task(load(proxy)) for _ in range(4)]
        for number in range(2, 8):
            chosen = (second, first)[number % 2]
            extra = route(f"new-{number}.localhost", to=to(chosen), set_request_headers=((f"x-{number}", "1"),))
            settings = settings_of(route(to=to(chosen)), extra, generation=f"g{number}")
            await proxy.publish(dataclasses.replace(settings, listen=proxy.settings.listen))
            before = len(chosen.requests)
            async with asyncio.timeout(5):
                while len(chosen.requests) < before + 5:
                    await asyncio.sleep(0.01)
        stop.set()
        await asyncio.gather(*workers)
        assert (await proxy.get("/", host="new-7.localhost")).status == 200
        assert (await proxy.get("/", host="new-2.localhost")).status == 404
    assert set(statuses) == {200}


async def test_a_changed_route_waits_for_authorize() -> None:
    """Envoy must not send ids that authorize has never heard of."""
    async with running_proxy(settings_of(route())) as proxy:
        proxy.authorizer.generation = "g1"
        changed = dataclasses.replace(
            settings_of(route(), route("new.localhost"), generation="g2"), listen=proxy.settings.listen
        )
        proxy.plane.publisher.submit(changed)
        await asyncio.sleep(0.3)
        assert (await proxy.get("/", host="new.localhost")).status == 404
        proxy.authorizer.generation = "g2"
        async with asyncio.timeout(1.5):
            while proxy.plane.publisher.status.generation != "g2":
                await asyncio.sleep(0.01)


async def test_a_host_that_envoy_refuses_is_isolated() -> None:
    """One bad host among many must not keep the others from changing."""
    upstream = EchoUpstream(free_port())
    to = [("http", "127.0.0.1", upstream.port)]

    def routes(*hosts: str) -> Sequence[RoutePolicy]:
        return [route(host, to=to) for host in hosts]

    async with upstream.running(), running_proxy(settings_of(*routes("a.localhost"))) as proxy:
        bad = route("bad.localhost", to=to, set_request_headers=((":path", "x"),))
        settings = settings_of(*routes("a.localhost", "b.localhost", "c.localhost"), bad, generation="g2")
        proxy.authorizer.generation = "g2"
        proxy.plane.publisher.submit(dataclasses.replace(settings, listen=proxy.settings.listen))
        async with asyncio.timeout(20):
            while not proxy.plane.publisher.status.isolated:
                await asyncio.sleep(0.02)
            await proxy.plane.discovery.wait_current()
        status = proxy.plane.publisher.status
        assert [host for host, _ in status.isolated] == ["bad.localhost"]
        assert status.fault
        assert (await proxy.get("/", host="bad.localhost")).status == 503
        for host in ("a.localhost", "b.localhost", "c.localhost"):
            assert (await proxy.get("/", host=host)).status == 200
        good = settings_of(*routes("a.localhost", "bad.localhost"), generation="g3")
        await proxy.publish(dataclasses.replace(good, listen=proxy.settings.listen))
        assert (await proxy.get("/", host="bad.localhost")).status == 200
        assert not proxy.plane.publisher.status.isolated


async def test_a_bad_trust_store_isolates_its_host_alone() -> None:
    upstream = EchoUpstream(free_port())
    good = route("a.localhost", to=[("http", "127.0.0.1", upstream.port)])
    bad = route("bad.localhost", to=[("https", "127.0.0.1", 9)], tls_ca_pem="no certificate")
    async with upstream.running(), running_proxy(settings_of(good)) as proxy:
        proxy.authorizer.generation = "g2"
        settings = settings_of(good, bad, generation="g2")
        proxy.plane.publisher.submit(dataclasses.replace(settings, listen=proxy.settings.listen))
        async with asyncio.timeout(20):
            while not proxy.plane.publisher.status.isolated:
                await asyncio.sleep(0.02)
            await proxy.plane.discovery.wait_current()
        assert (await proxy.get("/", host="bad.localhost")).status == 503
        assert (await proxy.get("/", host="a.localhost")).status == 200


async def test_envoy_is_started_again_when_it_is_killed() -> None:
    upstream = EchoUpstream(free_port())
    async with (
        upstream.running(),
        running_proxy(settings_of(route(to=[("http", "127.0.0.1", upstream.port)]))) as proxy,
    ):
        first = proxy.plane.envoy.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        async with asyncio.timeout(15):
            while True:
                with contextlib.suppress(OSError, ssl.SSLError):
                    if proxy.plane.envoy.pid not in {None, first} and (await proxy.get("/")).status == 200:
                        break
                await asyncio.sleep(0.05)


async def test_a_drain_lets_an_open_request_finish_and_accepts_no_other() -> None:
    upstream = EchoUpstream(free_port(), delay_seconds=0.8)
    async with (
        upstream.running(),
        running_proxy(settings_of(route(to=[("http", "127.0.0.1", upstream.port)]))) as proxy,
    ):
        slow = asyncio.create_task(proxy.get("/"))
        async with asyncio.timeout(5):
            while not upstream.requests:
                await asyncio.sleep(0.01)
        drain = asyncio.create_task(proxy.plane.envoy.drain())
        assert (await slow).status == 200
        async with asyncio.timeout(8):
            await drain
        with pytest.raises(OSError):  # refused or reset, as the system pleases
            await proxy.get("/")


async def test_a_new_host_gets_a_certificate_without_a_restart() -> None:
    async with running_proxy(settings_of(route())) as proxy:
        pid = proxy.plane.envoy.pid
        assert "new.localhost" not in await _names(proxy)
        settings = settings_of(route(), route("new.localhost"), generation="g2")
        await proxy.publish(dataclasses.replace(settings, listen=proxy.settings.listen))
        assert "new.localhost" in await _names(proxy)
        assert proxy.plane.envoy.pid == pid


async def _names(proxy: RunningProxy) -> list[str]:
    """The names in the certificate that the listener presents."""
    _, writer = await asyncio.open_connection("127.0.0.1", proxy.port, ssl=proxy.tls(), server_hostname="app.localhost")
    try:
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()
    extension = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return extension.value.get_values_for_type(x509.DNSName)


async def test_the_guard_holds_continuous_routes_and_only_those() -> None:
    upstream = EchoUpstream(free_port(), delay_seconds=20)
    to = [("http", "127.0.0.1", upstream.port)]
    settings = settings_of(route(to=to, continuous=True), route("free.localhost", to=to))
    async with upstream.running(), running_proxy(settings) as proxy:
        held = asyncio.create_task(proxy.raw(b"GET / HTTP/1.1\r\nHost: app.localhost\r\n\r\n", wait=15))
        free = asyncio.create_task(proxy.get("/", host="free.localhost"))
        async with asyncio.timeout(5):
            while len(upstream.requests) < 2:
                await asyncio.sleep(0.01)
        assert proxy.authorizer.guarded == [settings.routes[0].route.id]
        told = proxy.plane.registry.get_sample_value
        await proxy.plane.guard_figures.read()
        assert (told("doorward_guard_up"), told("doorward_guard_streams")) == (1, 1)
        proxy.authorizer.guard_ends.set()
        started = asyncio.get_running_loop().time()
        assert (await held).status != 200
        assert asyncio.get_running_loop().time() - started < 1.0
        free.cancel()
        await asyncio.gather(free, return_exceptions=True)
        await proxy.plane.guard_figures.read()
        assert told("doorward_guard_streams_cut_total", {"reason": "denied"}) == 1
        assert await probed(proxy.endpoints.probes("guard", 0), "/readyz") == 200
        await proxy.stop_authorizer()
        async with asyncio.timeout(10):
            while await probed(proxy.endpoints.probes("guard", 0), "/readyz") != 503:
                await asyncio.sleep(0.05)
        assert await probed(proxy.endpoints.probes("guard", 0), "/healthz") == 200


async def probed(socket: Path, path: str) -> int:
    transport = httpx.AsyncHTTPTransport(uds=str(socket))
    async with httpx.AsyncClient(transport=transport, base_url="http://probes") as client:
        return (await client.get(path)).status_code


async def test_the_guard_cuts_an_upgraded_connection() -> None:
    async def upgrade(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1024):
                writer.write(data)
        writer.close()

    server = await asyncio.start_server(upgrade, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    to = [("http", "127.0.0.1", port)]
    settings = settings_of(route(to=to, continuous=True, websocket=True), route("plain.localhost", to=to))
    wanted = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n"
    try:
        async with running_proxy(settings) as proxy:
            refused = await proxy.raw(f"GET / HTTP/1.1\r\nHost: plain.localhost\r\n{wanted}".encode())
            assert refused.status == 403
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", proxy.port, ssl=proxy.tls(), server_hostname="app.localhost"
            )
            writer.write(f"GET / HTTP/1.1\r\nHost: app.localhost\r\n{wanted}".encode())
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
            writer.write(b"ping")
            assert await reader.readexactly(4) == b"ping"
            proxy.authorizer.guard_ends.set()
            async with asyncio.timeout(2):
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
            writer.close()
    finally:
        server.close()
