"""The decision log: records are queued beside the decision and written in the background.

normal          written after the answer, at least every ``FLUSH_SECONDS``, which bounds what a crash can lose. The queue is bounded; when
                it is full, records are dropped and counted.
audit or deny   on the disk before the answer; a decision that cannot be recorded in time becomes a refusal. Records that wait
                together are written together.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import structlog

from doorward_authorize.decision_record import DecisionRecord, RecordEncoder, encoded
from doorward_authorize.log_file import LogFile
from doorward_authorize.metrics import AuthorizeMetrics

FLUSH_SECONDS = 0.05
TIDY_SECONDS = 3_600.0
"""How often what is beyond the retention is looked for."""
QUEUE_LIMIT = 20_000
DURABLE_SECONDS = 0.4
"""How long an answer waits for its record; under Envoy's timeout."""
_SLICE = 100
"""Records put into words before other callbacks get their turn; well under a millisecond."""
_TOGETHER = 500
"""Records that one write to the disk may make durable."""

_log = structlog.stdlib.get_logger(__name__)


class Export(Protocol):
    """Takes records elsewhere, besides the file."""

    def offer(self, lines: Sequence[str]) -> None:
        """Take lines; never waits."""
        ...


class DecisionLog:
    """Queues records and writes them. Concurrency: belongs to one event loop."""

    def __init__(
        self,
        file: LogFile,
        encoder: RecordEncoder,
        metrics: AuthorizeMetrics,
        *,
        audit_or_deny: bool = False,
        export: Export | None = None,
    ) -> None:
        self.audit_or_deny = audit_or_deny
        self._file = file
        self._encoder = encoder
        self._metrics = metrics
        self._export = export
        self._queue: deque[DecisionRecord] = deque()
        self._waiting: deque[tuple[DecisionRecord, asyncio.Future[bool]]] = deque()
        self._wake = asyncio.Event()

    def add(self, record: DecisionRecord) -> None:
        """Queue one record; never waits."""
        if len(self._queue) >= QUEUE_LIMIT:
            self._metrics.log_drops.inc()
            return
        self._queue.append(record)
        if self.audit_or_deny:
            self._wake.set()  # of a stream that was cut; it must not wait until somebody asks something

    async def add_durably(self, record: DecisionRecord) -> bool:
        """Whether the record is on the disk, within the time that an answer can wait for it."""
        if len(self._waiting) >= QUEUE_LIMIT:
            return False
        written: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((record, written))
        self._wake.set()
        try:
            async with asyncio.timeout(DURABLE_SECONDS):
                await written
        except TimeoutError:
            return False
        return written.result()

    async def run(self) -> None:
        """Write until cancelled, then write what is left."""
        tidied = float("-inf")
        clock = asyncio.get_running_loop().time
        try:
            while True:
                if clock() - tidied >= TIDY_SECONDS:
                    tidied = clock()
                    await self._tidy()
                if self.audit_or_deny:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(TIDY_SECONDS):
                            await self._wake.wait()
                    self._wake.clear()
                else:
                    await asyncio.sleep(FLUSH_SECONDS)
                await self.flush()
        finally:
            self._write_rest()

    async def flush(self) -> None:
        """Write everything that is queued."""
        lines: list[str] = []
        while self._queue:
            lines += encoded(self._encoder, self._taken())
            await asyncio.sleep(0)
        if lines:
            await self._write(lines, durable=False)
        while self._waiting:
            together = [self._waiting.popleft() for _ in range(min(len(self._waiting), _TOGETHER))]
            lines = encoded(self._encoder, [record for record, _ in together])
            is_written = await self._write(lines, durable=True)
            for _, future in together:
                if not future.done():
                    future.set_result(is_written)

    async def _tidy(self) -> None:
        try:
            await asyncio.to_thread(self._file.tidy)
        except OSError as error:
            _log.error("old decision records cannot be dropped", error=str(error))

    def _taken(self) -> list[DecisionRecord]:
        return [self._queue.popleft() for _ in range(min(len(self._queue), _SLICE))]

    async def _write(self, lines: list[str], *, durable: bool) -> bool:
        try:
            # In a thread: a disk that hangs must not hold up decisions.
            await asyncio.to_thread(self._file.append, "".join(lines), durable=durable)
        except OSError as error:
            self._lost(lines, error)
            return False
        if self._export is not None:
            self._export.offer(lines)
        return True

    def _write_rest(self) -> None:
        """The last records, when the process ends; nobody waits for answers any more."""
        lines = encoded(self._encoder, [*self._queue, *(record for record, _ in self._waiting)])
        self._queue.clear()
        if not lines:
            return
        try:
            self._file.append("".join(lines), durable=self.audit_or_deny)
        except OSError as error:
            self._lost(lines, error)

    def _lost(self, lines: list[str], error: OSError) -> None:
        self._metrics.log_drops.inc(len(lines))
        _log.error("the decision log cannot be written", lost=len(lines), error=str(error))
