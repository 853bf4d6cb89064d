"""The decision log: records are queued beside the decision and written in the background.

normal          written after the answer, at least every ``FLUSH_SECONDS``, which bounds what a crash can lose. Queues are bounded; when
                one is full, records are dropped and counted.
audit or deny   on the disk before the answer; a decision that cannot be recorded in time becomes a refusal. Records that wait
                together are written together.

There are two sinks, the file and the export. What one of them loses still reaches the other, and each counts what it has lost.

A refusal for want of a record is recorded itself, by the same id. Where the decision's own record has got into the file all the same (too
late, or in part), the file holds two records of the id, and the refusal is the one that counts. It is kept until the file takes it.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeVar

import structlog

from doorward_authorize.decision_record import DecisionRecord, RecordEncoder, encoded, not_recorded
from doorward_authorize.log_file import LogFile
from doorward_authorize.metrics import AuthorizeMetrics

FLUSH_SECONDS = 0.05
TIDY_SECONDS = 3_600.0
"""How often what is beyond the retention is looked for."""
QUEUE_LIMIT = 20_000
DURABLE_SECONDS = 0.4
"""How long an answer waits for its record; under Envoy's timeout."""
LAST_SECONDS = 0.5
"""How long the end waits for what is being written."""
RETRY_SECONDS = 1.0
"""How soon the file is tried again with refusals that it has not taken."""
_SLICE = 100
"""Records put into words before other callbacks get their turn; well under a millisecond."""
_TOGETHER = 500
"""Records that one write to the disk may make durable."""

_Result = TypeVar("_Result")

_log = structlog.stdlib.get_logger(__name__)


class Export(Protocol):
    """Takes records elsewhere, besides the file."""

    def offer(self, lines: Sequence[str]) -> None:
        """Take lines; never waits."""
        ...


@dataclass(eq=False, slots=True)
class _Waiting:
    """A record that an answer waits for."""

    record: DecisionRecord
    written: asyncio.Future[bool]
    is_refused: bool = False
    """Whether the answer is given up, and a refusal recorded."""


class DecisionLog:
    """Queues records and writes them. Concurrency: belongs to one event loop; ``run`` is one task."""

    def __init__(
        self,
        file: LogFile,
        encoder: RecordEncoder,
        metrics: AuthorizeMetrics,
        *,
        audit_or_deny: bool = False,
        export: Export | None = None,
        on_refused: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``on_refused`` hears the ids of decisions that nobody is told, because they were not recorded in time."""
        self.audit_or_deny = audit_or_deny
        self._file = file
        self._encoder = encoder
        self._metrics = metrics
        self._export = export
        self._on_refused = on_refused
        self._queue: deque[DecisionRecord] = deque()
        self._lines: deque[str] = deque()
        """For the file; the export has them."""
        self._waiting: deque[_Waiting] = deque()
        self._refusals: deque[str] = deque()
        """For the file; the export has them."""
        self._wake = asyncio.Event()

    def add(self, record: DecisionRecord) -> None:
        """Queue one record; never waits."""
        if len(self._queue) >= QUEUE_LIMIT:
            self._metrics.log_drops.inc()
            if self._export is not None:
                self._metrics.export_drops.inc()
            return
        self._queue.append(record)
        if self.audit_or_deny:
            self._wake.set()  # of a stream that was cut; it must not wait until somebody asks something

    async def add_durably(self, record: DecisionRecord) -> bool:
        """Whether the record is on the disk, within the time that an answer can wait for it.

        Where it is not, or whoever asks is cancelled, the decision counts as refused: so it is recorded and told to ``on_refused``.
        """
        waiting = _Waiting(record, asyncio.get_running_loop().create_future())
        is_written = False
        try:
            if len(self._waiting) < QUEUE_LIMIT:
                self._waiting.append(waiting)
                self._wake.set()
                async with asyncio.timeout(DURABLE_SECONDS):
                    is_written = await waiting.written
        except TimeoutError:
            pass
        finally:
            if not is_written and not waiting.is_refused:
                self._refuse(waiting)
                self._wake.set()
        return is_written

    async def run(self) -> None:
        """Write until cancelled, then write what is left."""
        tidied = float("-inf")
        clock = asyncio.get_running_loop().time
        try:
            while True:
                if clock() - tidied >= TIDY_SECONDS:
                    tidied = clock()
                    await self._beside(self._tidy())
                if self.audit_or_deny:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(RETRY_SECONDS if self._refusals else TIDY_SECONDS):
                            await self._wake.wait()
                    self._wake.clear()
                else:
                    await asyncio.sleep(FLUSH_SECONDS)
                await self._beside(self.flush())
        finally:
            await self._write_rest()

    async def flush(self) -> None:
        """Write everything that is queued."""
        await self._put_into_words()
        while self._lines:
            lines = list(self._lines)
            self._lines.clear()
            await _in_thread(self._append_or_lose, lines, durable=False)
        while self._waiting:
            await self._write_waiting([self._waiting.popleft() for _ in range(min(len(self._waiting), _TOGETHER))])
        while self._refusals and await self._write_refusals():
            pass

    async def _beside(self, work: Coroutine[None, None, None]) -> None:
        """Wait for ``work`` with the disk, which may hang: that must hold up the file alone, and nothing that others are to get."""
        task = asyncio.create_task(work)
        try:
            while not (await asyncio.wait({task}, timeout=FLUSH_SECONDS))[0]:
                await self._put_into_words()
        finally:
            # When the process ends, what has begun is given time; only what hangs is left to its thread, which may write it yet.
            await asyncio.wait({task}, timeout=LAST_SECONDS)
            task.cancel()
            await asyncio.wait({task})
        task.result()

    async def _tidy(self) -> None:
        try:
            await asyncio.to_thread(self._file.tidy)
        except OSError as error:
            _log.error("old decision records cannot be dropped", error=str(error))

    async def _put_into_words(self) -> None:
        """Hand what is queued to both sinks."""
        while self._queue:
            lines = encoded(self._encoder, [self._queue.popleft() for _ in range(min(len(self._queue), _SLICE))])
            self._offer(lines)
            room = QUEUE_LIMIT - len(self._lines)
            self._lines.extend(lines[:room])
            if len(lines) > room:
                self._metrics.log_drops.inc(len(lines) - room)
            await asyncio.sleep(0)

    def _offer(self, lines: Sequence[str]) -> None:
        if self._export is not None and lines:
            self._export.offer(lines)

    async def _write_waiting(self, taken: Sequence[_Waiting]) -> None:
        together = [waiting for waiting in taken if not waiting.written.done()]  # of the others the answer was given up
        if not together:
            return
        lines = encoded(self._encoder, [waiting.record for waiting in together])
        is_written = False
        try:
            is_written = await _in_thread(self._append, lines, durable=True)
        finally:  # also when the process ends meanwhile
            told = []
            for line, waiting in zip(lines, together, strict=True):
                if waiting.written.done():
                    continue
                if is_written:
                    told.append(line)
                else:
                    self._refuse(waiting)
                waiting.written.set_result(is_written)
            self._offer(told)

    def _refuse(self, waiting: _Waiting) -> None:
        """Nobody is told this decision: what is to be found by its id is that."""
        waiting.is_refused = True
        self._on_refused(waiting.record.id)
        lines = encoded(self._encoder, [not_recorded(waiting.record)])
        self._offer(lines)
        if len(self._refusals) < QUEUE_LIMIT:
            self._refusals.extend(lines)
        else:
            self._metrics.log_drops.inc()

    async def _write_refusals(self) -> bool:
        """Whether the file took the first of them."""
        lines = list(islice(self._refusals, _TOGETHER))
        if not await _in_thread(self._append, lines, durable=True):
            return False
        for _ in lines:
            self._refusals.popleft()
        return True

    async def _write_rest(self) -> None:
        """The last records, when the process ends; nobody is told what still waits."""
        for waiting in self._waiting:
            if not waiting.written.done():
                self._refuse(waiting)
                waiting.written.set_result(False)
        self._waiting.clear()
        await self._put_into_words()
        lines = [*self._lines, *self._refusals]
        self._lines.clear()
        self._refusals.clear()
        if lines:
            await _in_thread(self._append_or_lose, lines, durable=self.audit_or_deny)

    # In threads: a disk that hangs must not hold up decisions.

    def _append(self, lines: Sequence[str], durable: bool) -> bool:
        try:
            self._file.append("".join(lines), durable=durable)
        except OSError as error:
            _log.error("the decision log cannot be written", records=len(lines), error=str(error))
            return False
        return True

    def _append_or_lose(self, lines: Sequence[str], durable: bool) -> None:
        if not self._append(lines, durable):
            self._metrics.log_drops.inc(len(lines))


async def _in_thread(
    append: Callable[[Sequence[str], bool], _Result], lines: Sequence[str], *, durable: bool
) -> _Result:
    """Shielded: what has been handed over is written, or counted as lost, also when nobody waits for it any more."""
    return await asyncio.shield(asyncio.to_thread(append, lines, durable))
