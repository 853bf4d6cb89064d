"""Between planes over TCP: both sides show certificates, each looks for the other's name, and both may be replaced any time."""

import asyncio
import contextlib
import shutil
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.support.deployment import free_port
from tests.support.planes import Planes, odd_certificate

from doorward.config.endpoints import Address
from doorward.errors import ConfigurationError, PermissionDeniedError, UnavailableError
from doorward.keys.plane_authority import plane_host, plane_uri
from doorward.rpc import client as rpc_client
from doorward.rpc.asgi_server import AsgiServer
from doorward.rpc.client import open_channel
from doorward.rpc.credentials import PlaneIdentity
from doorward.rpc.grpc_methods import Methods, Receive, Send
from doorward.rpc.grpc_server import GrpcServer
from doorward.rpc.plane_listener import admitted, listen
from doorward.rpc.planes import Plane
from doorward.rpc.server import PlaneServer
from doorward.rpc.status import error_of

# Peers vanish in the middle of TLS here; asyncio leaves some of those transports to the collector, which warns.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

ASK = health_pb2.HealthCheckRequest(service="")


@pytest.fixture
def planes(tmp_path: Path) -> Planes:
    return Planes(tmp_path / "planes")


@asynccontextmanager
async def served(identity: PlaneIdentity, *callers: Plane) -> AsyncIterator[Address]:
    address = Address(host="127.0.0.1", port=free_port())
    server = PlaneServer(address, callers, lambda _: None, [], identity)
    await server.start()
    try:
        yield address
    finally:
        await server.stop(0)


async def ask(address: Address, plane: Plane, identity: PlaneIdentity) -> int:
    async with open_channel((address,), plane, identity) as channel:
        try:
            return int((await health_pb2_grpc.HealthStub(channel).Check(ASK, timeout=5)).status)
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from error


async def test_planes_know_each_other_by_certificate(planes: Planes):
    async with served(planes.identity(Plane.DATABROKER), Plane.PROXY, Plane.AUTHORIZE) as address:
        assert await ask(address, Plane.DATABROKER, planes.identity(Plane.PROXY)) == 1
        assert await ask(address, Plane.DATABROKER, planes.identity(Plane.AUTHORIZE)) == 1


@asynccontextmanager
async def far_away(address: Address, seconds: float) -> AsyncIterator[Address]:
    """``address`` by a way on which everything takes so long in each direction."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await asyncio.sleep(seconds)
                writer.write(data)
        writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(address.host, address.port)
        await asyncio.gather(carry(reader, there[1]), carry(there[0], writer))

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    try:
        yield Address(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
    finally:
        server.close()


async def test_a_peer_that_is_slow_in_the_handshake_is_reached(planes: Planes):
    """Each attempt was given up after half a second at most, so that a busy peer, or one far away, was never reached at all."""
    async with served(planes.identity(Plane.DATABROKER), Plane.PROXY) as address, far_away(address, 0.2) as far:
        assert await ask(far, Plane.DATABROKER, planes.identity(Plane.PROXY)) == 1


async def test_s77_a_plane_that_has_no_business_there_is_refused_by_name(planes: Planes):
    async with served(planes.identity(Plane.DATABROKER), Plane.PROXY) as address:
        with pytest.raises(PermissionDeniedError, match="plane `authorize` is not accepted"):
            await ask(address, Plane.DATABROKER, planes.identity(Plane.AUTHORIZE))


async def test_s77_whoever_answers_must_be_the_plane_that_was_called(planes: Planes):
    """An authorizer that was broken into must not pass for the databroker."""
    async with served(planes.identity(Plane.AUTHORIZE), Plane.PROXY) as address:
        with pytest.raises(UnavailableError, match="Hostname Verification"):
            await ask(address, Plane.DATABROKER, planes.identity(Plane.PROXY))


async def test_s77_foreign_expired_and_missing_certificates_open_nothing(planes: Planes, tmp_path: Path):
    async with served(planes.identity(Plane.DATABROKER), *Plane) as address:
        foreign = Planes(tmp_path / "foreign")
        with pytest.raises(UnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
            await ask(address, Plane.DATABROKER, foreign.identity(Plane.PROXY))
        # It trusts the right authority and shows a certificate of another one.
        (tmp_path / "foreign" / "proxy" / "ca.crt").write_bytes((planes.folder / "authority.crt").read_bytes())
        mixed = planes.identity(Plane.PROXY)
        mixed.current = type(mixed.current)(
            Plane.PROXY,
            (tmp_path / "foreign" / "proxy" / "tls.crt").read_bytes(),
            (tmp_path / "foreign" / "proxy" / "tls.key").read_bytes(),
            mixed.current.authorities_pem,
            0.0,
        )
        with pytest.raises(UnavailableError):
            await ask(address, Plane.DATABROKER, mixed)
        old = odd_certificate(tmp_path / "old", planes.folder, [plane_uri("proxy")], now=time.time() - 7200)
        mixed.current = type(mixed.current)(
            Plane.PROXY,
            (old / "tls.crt").read_bytes(),
            (old / "tls.key").read_bytes(),
            mixed.current.authorities_pem,
            0.0,
        )
        with pytest.raises(UnavailableError):
            await ask(address, Plane.DATABROKER, mixed)
        bare = ssl.create_default_context(cafile=str(planes.folder / "authority.crt"))
        bare.set_alpn_protocols(["h2"])
        reader, writer = await asyncio.open_connection(
            address.host, address.port, ssl=bare, server_hostname=plane_host("databroker")
        )
        said = b""
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            said = await reader.read(4096)
        assert said == b"", "a server that accepts speaks first"
        writer.transport.abort()


async def test_a_certificate_of_several_planes_or_of_an_unknown_one_is_nobodys(planes: Planes, tmp_path: Path):
    async with served(planes.identity(Plane.DATABROKER), *Plane) as address:
        for number, uris in enumerate(([plane_uri("proxy"), plane_uri("operator")], [plane_uri("gateway")], [])):
            folder = odd_certificate(tmp_path / f"odd{number}", planes.folder, uris or ["https://x.example"])
            identity = planes.identity(Plane.PROXY)
            identity.current = type(identity.current)(
                Plane.PROXY,
                (folder / "tls.crt").read_bytes(),
                (folder / "tls.key").read_bytes(),
                identity.current.authorities_pem,
                0.0,
            )
            with pytest.raises(PermissionDeniedError):
                await ask(address, Plane.DATABROKER, identity)


async def test_a_plane_of_an_unknown_version_is_refused_in_words(planes: Planes, monkeypatch: pytest.MonkeyPatch):
    options = [item for item in rpc_client._REMOTE_OPTIONS if item[0] != "grpc.primary_user_agent"]
    newer = ("grpc.primary_user_agent", "doorward/9.0.0 contract/7")
    monkeypatch.setattr(rpc_client, "_REMOTE_OPTIONS", [*options, newer])
    async with served(planes.identity(Plane.DATABROKER), Plane.PROXY) as address:
        channel = open_channel((address,), Plane.DATABROKER, planes.identity(Plane.PROXY))
        with pytest.raises(grpc.aio.AioRpcError, match="speaks contract 7, and this plane understands 1") as caught:
            await health_pb2_grpc.HealthStub(channel).Check(ASK, timeout=5)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        await channel.close()


async def test_replacing_certificates_drops_no_call_and_cuts_no_stream(planes: Planes):
    ours, theirs = planes.identity(Plane.PROXY), planes.identity(Plane.DATABROKER)
    async with (
        served(theirs, Plane.PROXY) as address,
        open_channel((address,), Plane.DATABROKER, ours) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        stream = stub.Watch(ASK)
        assert (await stream.read()).status == 1
        for _ in range(3):
            running = [asyncio.ensure_future(stub.Check(ASK, timeout=5)) for _ in range(20)]
            planes.renew(ours, theirs)
            for answer in await asyncio.gather(*running):
                assert answer.status == 1
        waiting = asyncio.ensure_future(stream.read())
        done, _ = await asyncio.wait({waiting}, timeout=0.3)
        assert not done, "the stream was cut"
        stream.cancel()


async def test_a_change_of_authority_drops_no_call_and_cuts_no_stream(planes: Planes, tmp_path: Path):
    """Whatever step each side has reached; and at its end the old authority opens nothing."""
    old = PlaneIdentity(Path(shutil.copytree(planes.folder / "proxy", tmp_path / "old")), Plane.PROXY, planes.clock)
    ours, theirs, checks = (planes.identity(plane) for plane in (Plane.PROXY, Plane.DATABROKER, Plane.AUTHORIZE))
    at = Address(host="127.0.0.1", port=free_port())
    server = GrpcServer(ECHO, admits=admitted([Plane.PROXY]))
    await listen(server, at, checks)
    async with (
        served(theirs, Plane.PROXY) as address,
        open_channel((address,), Plane.DATABROKER, ours) as channel,
        open_channel((at,), Plane.AUTHORIZE, ours) as checked,
    ):
        stub, check = health_pb2_grpc.HealthStub(channel), checked.unary_unary("/x/Check")
        stream, guard = stub.Watch(ASK), checked.stream_stream("/x/Guard")()
        assert (await stream.read()).status == 1
        await guard.write(b"before")
        assert await guard.read() == b"before"
        for step in (planes.authority.add, planes.authority.promote, planes.authority.retire):
            step()
            planes.authority.renew(tuple(Plane), None)
            for late in (theirs, checks, ours):
                late.look()
                # New connections, between one that has taken the step and one that has not.
                assert await ask(address, Plane.DATABROKER, ours) == 1
                async with open_channel((at,), Plane.AUTHORIZE, ours) as another:
                    assert await another.unary_unary("/x/Check")(b"new", timeout=5) == b"new"
                assert (await stub.Check(ASK, timeout=5)).status == 1
                assert await check(b"old", timeout=5) == b"old"
        await guard.write(b"still there")
        assert await guard.read() == b"still there"
        waiting = asyncio.ensure_future(stream.read())
        done, _ = await asyncio.wait({waiting}, timeout=0.1)
        assert not done, "the stream was cut"
        with pytest.raises(UnavailableError):
            await ask(address, Plane.DATABROKER, old)
        old.current = replace(old.current, authorities_pem=ours.current.authorities_pem)
        with pytest.raises(UnavailableError):
            await ask(address, Plane.DATABROKER, old)
        async with open_channel((at,), Plane.AUTHORIZE, old) as refused:
            with pytest.raises(grpc.aio.AioRpcError):
                await refused.unary_unary("/x/Check")(b"old", timeout=5)
        stream.cancel()
        guard.cancel()
    await server.drain(0.1)


async def test_a_server_without_certificate_and_a_taken_address_are_named(planes: Planes):
    address = Address(host="127.0.0.1", port=free_port())
    with pytest.raises(ConfigurationError, match="no certificate to listen with"):
        await PlaneServer(address, [Plane.PROXY], lambda _: None, []).start()
    with pytest.raises(ConfigurationError, match="there is no certificate"):
        open_channel((address,), Plane.DATABROKER)
    async with served(planes.identity(Plane.DATABROKER), Plane.PROXY) as taken:
        with pytest.raises(ConfigurationError, match="cannot listen there"):
            await PlaneServer(taken, [Plane.PROXY], lambda _: None, [], planes.identity(Plane.DATABROKER)).start()


async def _echo(receive: Receive, send: Send) -> int:
    while (message := await receive()) is not None:
        await send(message)
    return 1


ECHO = Methods(unary={b"/x/Check": lambda data: data}, streams={b"/x/Guard": _echo}, overloaded=lambda data: data)


async def test_what_envoy_asks_serves_proxies_alone_and_replaces_its_certificate_in_flight(planes: Planes):
    identity = planes.identity(Plane.AUTHORIZE)
    address = Address(host="127.0.0.1", port=free_port())
    server = GrpcServer(ECHO, admits=admitted([Plane.PROXY]))
    await listen(server, address, identity)
    with pytest.raises(ConfigurationError, match="cannot listen there"):
        await listen(GrpcServer(ECHO), address, identity)
    async with open_channel((address,), Plane.AUTHORIZE, planes.identity(Plane.DATABROKER)) as other:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await other.unary_unary("/x/Check")(b"one", timeout=5)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    async with open_channel((address,), Plane.AUTHORIZE, planes.identity(Plane.PROXY)) as proxy:
        check = proxy.unary_unary("/x/Check")
        assert await check(b"one", timeout=5) == b"one"
        stream = proxy.stream_stream("/x/Guard")()
        await stream.write(b"before")
        assert await stream.read() == b"before"
        serial = await _serial(planes, address, "authorize")
        planes.renew(identity)
        async with asyncio.timeout(5):
            while await _serial(planes, address, "authorize") == serial:
                assert await check(b"meanwhile", timeout=5) == b"meanwhile"
        for _ in range(20):
            assert await check(b"after", timeout=5) == b"after"
        await stream.write(b"still there")
        assert await stream.read() == b"still there"
        stream.cancel()
    await server.drain(0.1)
    await asyncio.sleep(0.1)  # TLS says goodbye in turns of the loop of its own
    with pytest.raises(OSError, match=r"refused|Connect call failed"):
        await asyncio.open_connection(address.host, address.port)


async def _greet(scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]):
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/long":
        for _ in range(20):
            await send({"type": "http.response.body", "body": b".", "more_body": True})
            await asyncio.sleep(0.05)
    await send({"type": "http.response.body", "body": b"hello"})


def _client(planes: Planes, plane: Plane) -> httpx.AsyncClient:
    context = ssl.create_default_context(cafile=str(planes.folder / "authority.crt"))
    context.load_cert_chain(planes.folder / plane / "tls.crt", planes.folder / plane / "tls.key")
    return httpx.AsyncClient(verify=context, trust_env=False, http1=False, http2=True)


async def test_pages_serve_proxies_alone_and_replace_their_certificate_in_flight(planes: Planes):
    identity = planes.identity(Plane.AUTHENTICATE)
    address = Address(host="127.0.0.1", port=free_port())
    with pytest.raises(ConfigurationError, match="no certificate to listen with"):
        AsgiServer(_greet, address, [Plane.PROXY])
    server = AsgiServer(_greet, address, [Plane.PROXY], identity)
    task = asyncio.create_task(server.serve())
    await server.wait_started()
    with pytest.raises(ConfigurationError, match="cannot listen there"):
        await AsgiServer(_greet, address, [Plane.PROXY], identity).serve()
    base, named = f"https://{address}", {"sni_hostname": plane_host("authenticate")}
    async with _client(planes, Plane.PROXY) as proxy, _client(planes, Plane.DATABROKER) as other:
        assert (await proxy.get(f"{base}/", extensions=named)).text == "hello"
        with pytest.raises(httpx.TransportError):
            await other.get(f"{base}/", extensions=named)
        long = asyncio.ensure_future(proxy.get(f"{base}/long", extensions=named))
        serial = await _serial(planes, address, "authenticate")
        planes.renew(identity)
        async with asyncio.timeout(5):
            while await _serial(planes, address, "authenticate") == serial:
                assert (await proxy.get(f"{base}/", extensions=named)).text == "hello"
        assert (await proxy.get(f"{base}/", extensions=named)).text == "hello"
        assert (await long).text == "." * 20 + "hello"
    server.shutdown()
    await task
    with pytest.raises(OSError, match=r"refused|Connect call failed"):
        await asyncio.open_connection(address.host, address.port)


async def _serial(planes: Planes, address: Address, plane: str) -> bytes:
    """The certificate that the server shows now."""
    context = ssl.create_default_context(cafile=str(planes.folder / "authority.crt"))
    context.load_cert_chain(planes.folder / "proxy" / "tls.crt", planes.folder / "proxy" / "tls.key")
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection(
        address.host, address.port, ssl=context, server_hostname=plane_host(plane)
    )
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    await asyncio.sleep(0)
    assert isinstance(shown, bytes)
    return shown
