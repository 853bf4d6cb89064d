"""Serving pages to Envoy: an ASGI application behind h2corn, on a Unix socket or over TCP with mutual TLS.

h2corn reads its certificate once, and drops connections that are being made when it is told to stop. Over TCP it therefore stays on a
Unix socket of its own, and TLS is ours: each new connection gets the newest certificate, is looked at, and is then passed on.

Concurrency: belongs to one event loop.
"""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any, TypeAlias

import h2corn
import structlog

from doorward.config.endpoints import Address
from doorward.errors import ConfigurationError
from doorward.rpc.credentials import PlaneIdentity
from doorward.rpc.plane_listener import admitted, following_context
from doorward.rpc.planes import Plane
from doorward.rpc.tls_listener import TlsListener

_CHUNK_BYTES = 64 * 1024
_FAREWELL_SECONDS = 1.0
_LIMIT = 4_096
"""Connections at once; only other planes get this far."""

_log = structlog.stdlib.get_logger(__name__)

Application: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]


class AsgiServer:
    """One application at one place. Over TCP it demands a certificate of one of ``callers``.

    ``options`` are h2corn's.

    Raises:
        ConfigurationError: an address, but no certificate of ours to listen there with.
    """

    def __init__(
        self,
        application: Application,
        place: Path | Address,
        callers: Collection[Plane],
        identity: PlaneIdentity | None = None,
        **options: Any,
    ) -> None:
        self._front: _Front | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if isinstance(place, Address):
            if identity is None:
                raise ConfigurationError([f"{place}: error: no certificate to listen with"])
            self._folder = tempfile.TemporaryDirectory(prefix="doorward-")
            socket = Path(self._folder.name) / "pages.sock"
            self._front = _Front(place, socket, callers, identity)
        else:
            socket = place
        self._socket = socket
        bind = (f"unix:{socket}",)
        self._server = h2corn.Server(
            application,
            h2corn.Config(bind=bind, uds_permissions=0o600, access_log=False, lifespan="off", **options),
        )
        self._started = asyncio.Event()

    async def wait_started(self) -> None:
        """Return once it serves."""
        await self._started.wait()

    def shutdown(self) -> None:
        """Stop serving, with h2corn's grace period for open requests; ``serve`` returns then. Idempotent."""
        if self._front is not None:
            self._front.stop_accepting()
        self._server.shutdown()

    async def serve(self) -> None:
        """Serve until ``shutdown``.

        Raises:
            ConfigurationError: the place cannot be listened at.
        """
        self._socket.unlink(missing_ok=True)
        task = asyncio.create_task(self._server.serve())
        try:
            await self._server.wait_started()
            if self._front is not None:
                await self._front.start()
            self._started.set()
            await task
        finally:
            self.shutdown()
            await asyncio.wait({task})
            if self._front is not None:
                await self._front.close()
            if self._folder is not None:
                self._folder.cleanup()


class _Front:
    """Takes TLS off and passes bytes on."""

    def __init__(self, address: Address, socket: Path, callers: Collection[Plane], identity: PlaneIdentity) -> None:
        self._address = address
        self._socket = socket
        self._admits = admitted(callers)
        self._identity = identity
        self._listener: TlsListener | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigurationError: it cannot.
        """
        self._listener = TlsListener(self._protocol, following_context(self._identity))
        try:
            await self._listener.start(self._address.host, self._address.port)
        except OSError as error:
            raise ConfigurationError([f"{self._address}: error: cannot listen there: {error.strerror}"]) from error

    def stop_accepting(self) -> None:
        """Take no more connections. Idempotent."""
        if self._listener is not None:
            self._listener.close()

    async def close(self) -> None:
        """End what is open."""
        self.stop_accepting()
        if self._listener is not None:
            self._listener.end_handshakes()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await asyncio.sleep(0)  # aborted transports close in the next turn

    def _protocol(self) -> asyncio.Protocol:
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(_CHUNK_BYTES), self._connected)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= _LIMIT or not self._admits(writer.transport):
            writer.transport.abort()
            return
        task = asyncio.ensure_future(self._pass_on(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        await asyncio.wait({task})

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pumps: list[asyncio.Future[None]] = []
        writers = [writer]
        try:
            inner_reader, inner_writer = await asyncio.open_unix_connection(self._socket, limit=_CHUNK_BYTES)
            writers.append(inner_writer)
            pumps = [asyncio.ensure_future(_pump(*ends)) for ends in ((reader, inner_writer), (inner_reader, writer))]
            # Either side may go at any time; the other one is closed then.
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except OSError as error:
            _log.warning("the pages do not answer", reason=str(error))
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, *map(_closed, writers), return_exceptions=True)


async def _closed(writer: asyncio.StreamWriter) -> None:
    """Close, with a moment for what is still to be sent and for the peer's farewell."""
    writer.close()
    try:
        async with asyncio.timeout(_FAREWELL_SECONDS):
            await writer.wait_closed()
    finally:
        writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes on, as fast as the other side takes them, until there are no more."""
    while data := await reader.read(_CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
