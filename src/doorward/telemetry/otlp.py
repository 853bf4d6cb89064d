"""Sending to an OpenTelemetry collector: OTLP/HTTP with JSON bodies (https://opentelemetry.io/docs/specs/otlp/), in the background.

What the collector does not take in time is dropped and counted. Nobody waits for it.
"""

import asyncio
import http.client
import json
import urllib.parse
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import structlog

QUEUE_LIMIT = 20_000
BATCH = 500
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
        self._wake = asyncio.Event()

    def offer(self, items: Sequence[Item]) -> None:
        """Queue ``items``; never waits."""
        room = QUEUE_LIMIT - len(self._queue)
        self._queue.extend(items[:room])
        if len(items) > room:
            self._on_drop(len(items) - room)
        self._wake.set()

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                items = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
                try:
                    await asyncio.to_thread(self._send, json.dumps(self._body(items)).encode())
                except (OSError, http.client.HTTPException) as error:
                    self._on_drop(len(items))
                    _log.warning("a collector does not take it", path=self._path, lost=len(items), reason=str(error))
                    await asyncio.sleep(_PAUSE_SECONDS)

    def _send(self, body: bytes) -> None:
        kind = http.client.HTTPSConnection if self._is_tls else http.client.HTTPConnection
        connection = kind(*self._address, timeout=_SECONDS)
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
