"""One record for each decision: JSON lines, written after the answer.

The queue is bounded; when it is full, records are dropped and counted. Written at least every ``FLUSH_SECONDS``, which bounds what
a crash can lose. No token is ever part of a record; path and query are keyed hashes, so that equal ones can be found and none read.
"""

import asyncio
import hmac
import json
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import structlog

from doorward.keys.keyring import Keyring
from doorward_authorize.metrics import AuthorizeMetrics

FLUSH_SECONDS = 0.05
QUEUE_LIMIT = 100_000

_log = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True)
class DecisionRecord:
    """What is recorded of one decision; not frozen, because one is made for each check."""

    id: str
    time: float
    route: str
    host: str
    method: str
    path: str
    outcome: str
    status: int
    reasons: tuple[str, ...]
    rule: str | None
    user_id: str | None
    session_id: str | None
    generation: str
    data_version: str
    request_id: str
    client_address: str | None


class DecisionLog:
    """Queues records and writes them in the background."""

    def __init__(self, path: Path | None, keyring: Keyring, metrics: AuthorizeMetrics) -> None:
        self._path = path
        self._key = keyring.primary.secret.reveal()
        self._metrics = metrics
        self._queue: deque[DecisionRecord] = deque()

    def add(self, record: DecisionRecord) -> None:
        """Queue one record; never waits."""
        if len(self._queue) >= QUEUE_LIMIT:
            self._metrics.log_drops.inc()
            return
        self._queue.append(record)

    async def run(self) -> None:
        """Write until cancelled, then write what is left."""
        try:
            while True:
                await asyncio.sleep(FLUSH_SECONDS)
                self._flush()
        finally:
            self._flush()

    def _flush(self) -> None:
        if not self._queue:
            return
        lines = []
        while self._queue:
            lines.append(self._line(self._queue.popleft()))
        text = "".join(lines)
        try:
            # Opened anew each time: whoever rotates the file need not tell us.
            if self._path is None:
                _write(sys.stdout, text)
            else:
                with self._path.open("a") as file:
                    _write(file, text)
        except OSError as error:
            self._metrics.log_drops.inc(len(lines))
            _log.error("the decision log cannot be written", lost=len(lines), error=str(error))

    def _line(self, record: DecisionRecord) -> str:
        return (
            json.dumps(
                {
                    "decision_id": record.id,
                    "time": round(record.time, 6),
                    "route": record.route,
                    "host": record.host,
                    "method": record.method,
                    "path_hash": hmac.digest(self._key, record.path.encode(), "sha256").hex()[:32],
                    "outcome": record.outcome,
                    "status": record.status,
                    "reasons": record.reasons,
                    "rule": record.rule,
                    "user_id": record.user_id,
                    "session_id": record.session_id,
                    "generation": record.generation,
                    "data_version": record.data_version,
                    "request_id": record.request_id,
                    "client_address": record.client_address,
                }
            )
            + "\n"
        )


def _write(file: TextIO, text: str) -> None:
    file.write(text)
    file.flush()
