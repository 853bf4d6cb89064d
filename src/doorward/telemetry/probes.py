"""Metrics and probes on a listener of their own: ``/metrics``, ``/healthz`` (the process lives) and ``/readyz`` (it can do its work).

HTTP/1.1 for machines of ours: one short GET a connection, nothing else. What it says is no secret, and it takes nothing.
"""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from doorward.config.endpoints import Address

_REQUEST_LIMIT = 8 * 1024
_SECONDS = 5.0

_log = structlog.stdlib.get_logger(__name__)


class ProbeServer:
    """Answers probes. Concurrency: belongs to one event loop."""

    def __init__(
        self, registry: CollectorRegistry, is_ready: Callable[[], bool], why: Callable[[], str] | None = None
    ) -> None:
        """``why`` says what keeps it from being ready, to whoever asks."""
        self._registry = registry
        self._is_ready = is_ready
        self._why = why
        self._server: asyncio.Server | None = None
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)

    async def start(self, place: Path | Address) -> int:
        """Listen on a private Unix socket or at an address, and return the port (0 for a socket)."""
        if isinstance(place, Path):
            place.unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(self._answer, place, limit=_REQUEST_LIMIT)
            place.chmod(0o600)
            return 0
        self._server = await asyncio.start_server(self._answer, place.host, place.port, limit=_REQUEST_LIMIT)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._response(head))
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, ConnectionError):
            pass  # whoever asks badly or slowly is not answered
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def _response(self, head: bytes) -> bytes:
        line = head.split(b"\r\n", 1)[0].split(b" ")
        if len(line) != 3 or line[0] not in {b"GET", b"HEAD"}:
            return _http(405, "text/plain", b"GET only\n")
        match line[1].split(b"?", 1)[0]:
            case b"/metrics":
                status, kind, body = 200, CONTENT_TYPE_LATEST, generate_latest(self._registry)
            case b"/healthz":
                status, kind, body = 200, "text/plain", b"ok\n"
            case b"/readyz":
                status, kind, body = 200, "text/plain", b"ready\n"
                if not self._is_ready():
                    because = f": {self._why()}" if self._why is not None else ""
                    status, body = 503, f"not ready{because}\n".encode()
            case _:
                status, kind, body = 404, "text/plain", b"not found\n"
        return _http(status, kind, b"" if line[0] == b"HEAD" else body)


_REASONS = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


def _http(status: int, kind: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n"
        "cache-control: no-store\r\nconnection: close\r\n\r\n"
    )
    return head.encode("ascii") + body
