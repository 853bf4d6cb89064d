"""Sending to an OpenTelemetry collector: OTLP/HTTP with JSON bodies (https://opentelemetry.io/docs/specs/otlp/), in the background.

What the collector does not take in time is dropped and counted. Nobody waits for it, but at the end: then what is queued has
``LEAVE_SECONDS`` to leave.
"""

import asyncio
import contextlib
import http.client
import json
import socket
import urllib.parse
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import structlog

QUEUE_LIMIT = 20_000
BATCH = 500
LEAVE_SECONDS = 1.0
_SECONDS = 5.0
_PAUSE_SECONDS = 1.0
Item = TypeVar("Item")

_log = structlog.stdlib.get_logger(__name__)


class OtlpSender(Generic[Item]):
    """Queues items and sends them in batches. Concurrency: belongs to one event loop; ``run`` is one task."""

    def __init__(
        self, endpoint: str, path: str, body: Callable[[Sequence[Item]], object], on_drop: Callable[[int], None]
    ) -> None:
        """``endpoint`` is the collector's base address, ``body`` makes a request's JSON, ``on_drop`` hears how many are lost."""
        parts = urllib.parse.urlsplit(endpoint)
        self._is_tls = parts.scheme == "https"
        self._address = (parts.hostname or "", parts.port or (443 if self._is_tls else 80))
        self._path = parts.path.rstrip("/") + path
        self._body = body
        self._on_drop = on_drop
        self._queue: deque[Item] = deque()
        self._sending: asyncio.Task[bool] | None = None
        self._sending_count = 0
        self._connection: http.client.HTTPConnection | None = None
        self._has_ended = False
        self._wake = asyncio.Event()

    def offer(self, items: Sequence[Item]) -> None:
        """Queue ``items``; never waits."""
        room = 0 if self._has_ended else QUEUE_LIMIT - len(self._queue)
        self._queue.extend(items[:room])
        if len(items) > room:
            self._on_drop(len(items) - room)
        self._wake.set()

    async def run(self) -> None:
        """Send until cancelled, then for ``LEAVE_SECONDS`` at the most; what is left then is lost, and that is said."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._queue:
                    if not await self._is_next_taken():
                        await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            await self._leave()

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                is_taken = self._sending is None or self._sending.done() or await asyncio.shield(self._sending)
                while is_taken and self._queue:  # a collector that does not take the one will not take the next
                    is_taken = await self._is_next_taken()
        except TimeoutError:
            pass
        finally:
            self._has_ended = True
            lost = len(self._queue)
            self._queue.clear()
            if self._sending is not None and not self._sending.done():
                lost += self._sending_count
                self._sending.cancel()
                self._hang_up()
            if lost:
                self._on_drop(lost)
                _log.warning("the end came before a collector had taken everything", path=self._path, lost=lost)

    async def _is_next_taken(self) -> bool:
        items = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
        self._sending_count = len(items)
        self._sending = asyncio.create_task(self._is_taken(items))
        # Whoever is cancelled here must still learn what becomes of them.
        return await asyncio.shield(self._sending)

    async def _is_taken(self, items: Sequence[Item]) -> bool:
        try:
            await asyncio.to_thread(self._send, json.dumps(self._body(items)).encode())
        except (OSError, http.client.HTTPException) as error:
            self._on_drop(len(items))
            _log.warning("a collector does not take it", path=self._path, lost=len(items), reason=str(error))
            return False
        return True

    def _hang_up(self) -> None:
        """A thread that waits for the collector would keep the process from ending."""
        connection = self._connection
        sock = connection.sock if connection is not None else None
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _send(self, body: bytes) -> None:
        kind = http.client.HTTPSConnection if self._is_tls else http.client.HTTPConnection
        connection = self._connection = kind(*self._address, timeout=_SECONDS)
        try:
            connection.request("POST", self._path, body, {"content-type": "application/json"})
            response = connection.getresponse()
            response.read()
            if response.status >= 300:
                raise http.client.HTTPException(f"status {response.status}")
        finally:
            connection.close()


def attribute(name: str, value: str) -> dict[str, object]:
    """A text attribute."""
    return {"key": name, "value": {"stringValue": value}}
