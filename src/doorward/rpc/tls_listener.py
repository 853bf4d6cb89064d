"""A TLS listener that strangers cannot hold up.

asyncio's own counts a connection only once its handshake is over, and gives that a minute. Here a handshake has some seconds, and
when too many are under way the oldest makes way: whoever connects and says nothing is the oldest soon, and an honest peer never is.

Concurrency: belongs to one event loop.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable

import structlog

HANDSHAKE_SECONDS = 5.0
HANDSHAKES_LIMIT = 256
_BACKLOG = 512
_PAUSE_SECONDS = 0.1
_QUIET_SECONDS = 1.0

_log = structlog.stdlib.get_logger(__name__)


class TlsListener:
    """Accepts connections for ``make``, which is called once for each; its ``connection_made`` comes after the handshake."""

    def __init__(
        self,
        make: Callable[[], asyncio.Protocol],
        context: ssl.SSLContext,
        *,
        handshake_seconds: float = HANDSHAKE_SECONDS,
        handshakes_limit: int = HANDSHAKES_LIMIT,
    ) -> None:
        self._make = make
        self._context = context
        self._seconds = handshake_seconds
        self._limit = handshakes_limit
        self._sockets: list[socket.socket] = []
        self._refused = 0
        self._quiet_until = float("-inf")
        self._shaking: dict[asyncio.Task[None], None] = {}
        """Handshakes under way, the oldest first."""

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._sockets[0].getsockname()[1])

    async def start(self, host: str, port: int) -> None:
        """Listen at every address of ``host``.

        Raises:
            OSError: it cannot be listened there.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        try:
            for family, kind, protocol, _, address in found:
                listening = socket.socket(family, kind, protocol)
                self._sockets.append(listening)
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listening.setblocking(False)
                listening.bind(address)
                listening.listen(_BACKLOG)
        except OSError:
            self.close()
            raise
        for listening in self._sockets:
            self._listen(listening)

    def close(self) -> None:
        """Take no more connections; handshakes that are under way go on. Idempotent."""
        for listening in self._sockets:
            if listening.fileno() >= 0:
                asyncio.get_running_loop().remove_reader(listening)
            listening.close()

    def end_handshakes(self) -> None:
        """End what is under way. Idempotent."""
        for task in self._shaking:
            task.cancel()

    def _listen(self, listening: socket.socket) -> None:
        if listening.fileno() >= 0:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        """Take one connection, in a callback: a task that waits for one can be cancelled with it in its hands."""
        loop = asyncio.get_running_loop()
        try:
            connection, _ = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            # Out of descriptors, most likely: what is open goes on, and it is tried again.
            _log.error("no connection can be accepted", reason=str(error))
            loop.remove_reader(listening)
            loop.call_later(_PAUSE_SECONDS, self._listen, listening)
            return
        connection.setblocking(False)
        if len(self._shaking) >= self._limit:
            next(iter(self._shaking)).cancel()
        begun: list[bool] = []
        task = loop.create_task(self._shake(connection, begun))
        self._shaking[task] = None

        def shaken(task: "asyncio.Task[None]") -> None:
            self._shaken(task)
            if not begun:
                connection.close()  # nobody else has seen it

        task.add_done_callback(shaken)

    async def _shake(self, connection: socket.socket, begun: list[bool]) -> None:
        begun.append(True)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._make, connection, ssl=self._context, ssl_handshake_timeout=self._seconds
            )
        except ssl.SSLError as error:
            self._complain(error)
        except OSError:
            pass  # gone, or silent for too long: who only looks whether somebody listens does the same

    def _complain(self, error: ssl.SSLError) -> None:
        """Say that somebody has shown nothing, or not what we want, in one line a second at most."""
        self._refused += 1
        now = asyncio.get_running_loop().time()
        if now >= self._quiet_until:
            _log.warning("refused in the handshake", count=self._refused, reason=error.reason or str(error))
            self._refused, self._quiet_until = 0, now + _QUIET_SECONDS

    def _shaken(self, task: asyncio.Task[None]) -> None:
        self._shaking.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a connection failed", error=str(error), exc_info=error)
