"""Decision records to an OpenTelemetry collector: OTLP/HTTP with JSON bodies (opentelemetry-proto, `logs/v1`), in the background.

What the collector does not take in time is dropped and counted; the file has it.
"""

import asyncio
import http.client
import json
import urllib.parse
from collections import deque
from collections.abc import Mapping, Sequence

import structlog

from doorward_authorize.metrics import AuthorizeMetrics

QUEUE_LIMIT = 20_000
BATCH = 500
_SECONDS = 5.0
_PAUSE_SECONDS = 1.0

_log = structlog.stdlib.get_logger(__name__)


class OtlpExport:
    """Sends lines as log records. Concurrency: belongs to one event loop."""

    def __init__(self, endpoint: str, resource: Mapping[str, str], metrics: AuthorizeMetrics) -> None:
        """``endpoint`` is the collector's base address; records go to ``/v1/logs`` below it."""
        parts = urllib.parse.urlsplit(endpoint)
        self._is_tls = parts.scheme == "https"
        self._address = (parts.hostname or "", parts.port or (443 if self._is_tls else 80))
        self._path = parts.path.rstrip("/") + "/v1/logs"
        self._resource = [_attribute(name, value) for name, value in resource.items()]
        self._metrics = metrics
        self._queue: deque[str] = deque()
        self._wake = asyncio.Event()

    def offer(self, lines: Sequence[str]) -> None:
        """See ``Export.offer``."""
        room = QUEUE_LIMIT - len(self._queue)
        self._queue.extend(lines[:room])
        if len(lines) > room:
            self._metrics.export_drops.inc(len(lines) - room)
        self._wake.set()

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                lines = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
                try:
                    await asyncio.to_thread(self._send, lines)
                except (OSError, http.client.HTTPException) as error:
                    self._metrics.export_drops.inc(len(lines))
                    _log.warning("a collector does not take decision records", lost=len(lines), reason=str(error))
                    await asyncio.sleep(_PAUSE_SECONDS)

    def _send(self, lines: list[str]) -> None:
        kind = http.client.HTTPSConnection if self._is_tls else http.client.HTTPConnection
        connection = kind(*self._address, timeout=_SECONDS)
        try:
            connection.request("POST", self._path, self.body(lines), {"content-type": "application/json"})
            response = connection.getresponse()
            response.read()
            if response.status >= 300:
                raise http.client.HTTPException(f"status {response.status}")
        finally:
            connection.close()

    def body(self, lines: Sequence[str]) -> bytes:
        """An ExportLogsServiceRequest as JSON."""
        records = []
        for line in lines:
            record = json.loads(line)
            stamp = str(int(record.get("time", 0) * 1e9))
            attributes = [
                _attribute(f"doorward.{name}", str(record[name]))
                for name in ("decision_id", "route", "outcome", "user_id")
                if record.get(name) is not None
            ]
            records.append(
                {
                    "timeUnixNano": stamp,
                    "severityNumber": 9,
                    "severityText": "INFO",
                    "body": {"stringValue": line.rstrip("\n")},
                    "attributes": attributes,
                }
            )
        scope = {"scope": {"name": "doorward.decisions"}, "logRecords": records}
        return json.dumps(
            {"resourceLogs": [{"resource": {"attributes": self._resource}, "scopeLogs": [scope]}]}
        ).encode()


def _attribute(name: str, value: str) -> dict[str, object]:
    return {"key": name, "value": {"stringValue": value}}
