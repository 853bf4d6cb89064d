"""Who connects and says nothing must not keep anybody else from connecting."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs
from tests.support.deployment import free_port
from tests.support.planes import Planes

from doorward.keys.plane_authority import plane_host
from doorward.rpc.planes import Plane
from doorward.rpc.tls_listener import TlsListener


@pytest.fixture(scope="module")
def planes(tmp_path_factory: pytest.TempPathFactory) -> Planes:
    return Planes(tmp_path_factory.mktemp("authority") / "planes")


class Greeter(asyncio.Protocol):
    """Says hello once the handshake is over."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hello")
        transport.close()


@asynccontextmanager
async def listening(planes: Planes, seconds: float, limit: int) -> AsyncIterator[TlsListener]:
    context = planes.identity(Plane.AUTHORIZE).current.server_context()
    listener = TlsListener(Greeter, context, handshake_seconds=seconds, handshakes_limit=limit)
    await listener.start("127.0.0.1", 0)
    try:
        yield listener
    finally:
        listener.close()
        listener.end_handshakes()
        await asyncio.sleep(0)


async def greeted(planes: Planes, port: int) -> bytes:
    context = ssl.create_default_context(cafile=str(planes.folder / "authority.crt"))
    context.load_cert_chain(planes.folder / "proxy/tls.crt", planes.folder / "proxy/tls.key")
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname=plane_host("authorize")
    )
    said = await reader.read()
    writer.close()
    return said


async def test_s77_the_oldest_unfinished_handshake_makes_way(planes: Planes):
    async with listening(planes, 60, 2) as listener:
        silent = [await asyncio.open_connection("127.0.0.1", listener.port) for _ in range(5)]
        async with asyncio.timeout(5):
            for reader, _ in silent[:3]:
                assert await reader.read() == b""
            assert await greeted(planes, listener.port) == b"hello"
            assert await silent[3][0].read() == b"", "it was the oldest when the honest one came"
        waiting = asyncio.ensure_future(silent[4][0].read())
        await asyncio.sleep(0)
        assert not waiting.done(), "the newest silent one still has its time"
        waiting.cancel()
        for _, writer in silent:
            writer.transport.abort()


async def test_s77_a_handshake_has_an_end(planes: Planes):
    async with listening(planes, 0.05, 10) as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.transport.abort()
        # What is no handshake at all is as little a reason to stop.
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(5):
            assert not (await reader.read()).startswith(b"HTTP")
        writer.transport.abort()
        assert await greeted(planes, listener.port) == b"hello"


async def test_s77_who_shows_no_certificate_is_named_in_the_log_once_a_second(planes: Planes):
    bare = ssl.create_default_context(cafile=str(planes.folder / "authority.crt"))
    with capture_logs() as logs:
        async with listening(planes, 60, 10) as listener, asyncio.timeout(5):
            for _ in range(3):
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", listener.port, ssl=bare, server_hostname=plane_host("authorize")
                )
                with contextlib.suppress(OSError):
                    assert await reader.read() == b""
                writer.transport.abort()
            silent, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            writer.transport.abort()
            del silent
    assert [(line["event"], line["reason"]) for line in logs] == [
        ("refused in the handshake", "PEER_DID_NOT_RETURN_A_CERTIFICATE")
    ]


async def test_a_taken_address_is_an_error_and_a_closed_listener_lets_go_of_its_own(planes: Planes):
    context = planes.identity(Plane.AUTHORIZE).current.server_context()
    port = free_port()
    first, second = TlsListener(Greeter, context), TlsListener(Greeter, context)
    await first.start("127.0.0.1", port)
    with pytest.raises(OSError, match="in use"):
        await second.start("127.0.0.1", port)
    first.close()
    first.close()
    await second.start("127.0.0.1", port)
    assert await greeted(planes, port) == b"hello"
    second.close()
