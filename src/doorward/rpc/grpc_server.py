"""A gRPC server for checks, which every request waits for, and for what planes call.

HTTP/2 is read and written here, and calls are answered in the same callback.

    bytes ─► Connection: frames, header blocks, flow control ─► a whole message
                 unary call   ─► its handler, at once; the answer leaves with a few others, or alone
                 stream       ─► a task with receive and send

grpcio's server, and servers in Rust, hand each call to Python through a task and several events, which costs more than the decision
itself. Here a call costs a few microseconds (``bench/README.md``), and calls that arrive together share a read.

The event loop is never held long: after ``BURST`` calls of one read the rest wait in a bounded queue, so that other connections and
timers get their turn. Beyond the bound the newest are answered by ``Methods.overloaded`` at once instead of timing out late.

Concurrency: everything belongs to one event loop.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from pathlib import Path

from doorward.rpc.grpc_methods import DEADLINE_EXCEEDED, Methods
from doorward.rpc.http2_call import Call
from doorward.rpc.http2_calls import BURST, Calls
from doorward.rpc.http2_connection import Connection
from doorward.rpc.http2_frames import CallHeaders
from doorward.rpc.tls_listener import TlsListener

QUEUE_LIMIT = 2_000
"""Calls that may wait for their turn; some fifty milliseconds' worth."""
CONNECTION_LIMIT = 1_024
_POLL_SECONDS = 0.02
_FAREWELL_SECONDS = 0.5
"""For what is still to be sent, and for the peer's half of the end of TLS."""


class GrpcServer:
    """Listens, and keeps what its connections share."""

    def __init__(
        self,
        methods: Methods | Callable[[asyncio.BaseTransport], Methods],
        *,
        max_streams: int = 10_000,
        admits: Callable[[asyncio.BaseTransport], bool] = lambda _: True,
    ) -> None:
        """``methods`` are what is served, or who says so for each new connection.

        ``admits`` looks at a new connection, its certificate for example; one that it refuses is closed unheard.

        ``max_streams`` is for each connection.
        """
        self.methods_for = (lambda _: methods) if isinstance(methods, Methods) else methods
        """See ``Host.methods_for``."""
        self.max_streams = max_streams
        self.known_headers: dict[bytes, CallHeaders] = {}
        self.connections: set[Calls] = set()
        self._admits = admits
        self._draining = False
        self._queue: deque[tuple[Calls, Call, bytes, float]] = deque()
        self._working = False
        self._loop = asyncio.get_running_loop()
        self._listener: asyncio.Server | TlsListener | None = None

    async def listen_unix(self, path: Path) -> None:
        """Serve on a Unix socket of mode 0600; a file that an earlier process left is replaced."""
        path.unlink(missing_ok=True)
        self._listener = await self._loop.create_unix_server(lambda: Connection(self), path, start_serving=False)
        path.chmod(0o600)
        await self._listener.start_serving()

    async def listen_tcp(self, host: str, port: int, tls: ssl.SSLContext) -> int:
        """Serve on TCP, always with TLS, and return the port. A certificate that ``tls`` loads later counts for new connections."""
        tls.set_alpn_protocols(["h2"])
        self._listener = listener = TlsListener(lambda: Connection(self), tls)
        await listener.start(host, port)
        return listener.port

    async def drain(self, grace_seconds: float) -> None:
        """Take no new calls, tell every peer so, give running calls ``grace_seconds``, then end them and close."""
        self._draining = True
        if self._listener is not None:
            self._listener.close()
        for connection in tuple(self.connections):
            connection.go_away()
        deadline = self._loop.time() + grace_seconds
        while any(c.is_busy for c in self.connections) and self._loop.time() < deadline:  # noqa: ASYNC110  # of many
            await asyncio.sleep(_POLL_SECONDS)
        tasks = [task for connection in tuple(self.connections) for task in connection.end_calls()]
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)
        for connection in tuple(self.connections):
            connection.close()
        if isinstance(self._listener, TlsListener):
            self._listener.end_handshakes()
        deadline = self._loop.time() + _FAREWELL_SECONDS
        while self.connections and self._loop.time() < deadline:  # noqa: ASYNC110  # of many
            await asyncio.sleep(_POLL_SECONDS)
        for connection in tuple(self.connections):
            connection.abort()
        await asyncio.sleep(0)  # aborted transports close in the next turn

    def admits(self, transport: asyncio.BaseTransport) -> bool:
        """See ``Host.admits``."""
        return not self._draining and self._admits(transport) and self._has_room()

    def _has_room(self) -> bool:
        """Whether another connection may be kept; one at which nobody waits makes way for it."""
        if len(self.connections) < CONNECTION_LIMIT:
            return True
        idle = next((connection for connection in self.connections if not connection.is_waited_at), None)
        if idle is None:
            return False
        self.connections.discard(idle)
        idle.abort()
        return True

    @property
    def has_queue(self) -> bool:
        """See ``Host.has_queue``."""
        return bool(self._queue)

    def enqueue(self, connection: Calls, call: Call, message: bytes) -> bool:
        """See ``Host.enqueue``."""
        if len(self._queue) >= QUEUE_LIMIT:
            return False
        self._queue.append((connection, call, message, self._loop.time()))
        if not self._working:
            self._working = True
            self._loop.call_soon(self._work)
        return True

    def _work(self) -> None:
        touched = set()
        now = self._loop.time()
        for _ in range(min(BURST, len(self._queue))):
            connection, call, message, since = self._queue.popleft()
            timeout = call.headers.timeout_seconds
            if timeout is not None and now - since >= timeout:
                connection.refuse(call, DEADLINE_EXCEEDED)
            else:
                connection.serve(call, message)
            touched.add(connection)
        for connection in touched:
            connection.flush()
        self._working = bool(self._queue)
        if self._working:
            self._loop.call_soon(self._work)
