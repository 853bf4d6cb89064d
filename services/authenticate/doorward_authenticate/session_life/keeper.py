"""The worker that looks after every session that is due, while it holds the lease.

    lease ─► survey: everything that is overdue ─► every ten seconds: the bucket that has just come due

Concurrency: one task; sessions are attended a few at a time. A second replica waits for the lease, and should two hold it
for a moment, each session still has one attempt at a time, and whoever has lost it begins none.
"""

import asyncio
from collections.abc import AsyncIterator, MutableSequence, Sequence
from typing import Protocol

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from doorward.clock import Clock
from doorward.errors import ConflictError, DataCorruptedError, DoorwardError
from doorward.records.client import RecordClient
from doorward.records.lease import HeldLease, hold_lease
from doorward.records.record import Damaged, Fence, Record
from doorward_authenticate.session_life.refresher import Attended, Refresher
from doorward_authenticate.session_life.tokens import BUCKET_SECONDS, DUE_INDEX, RECORD_TYPE, bucket, due_at_of

LEASE = "session-life"
_LEASE_SECONDS = 30.0
_WAIT_SECONDS = 5.0
_AT_ONCE = 32
_LATENESS_SECONDS = 2.0
"""How long after its end a bucket is read, for writers whose clock is behind."""
_SURVEY_SECONDS = 600.0
"""How often everything is looked through, for what a bucket may have missed."""

_log = structlog.stdlib.get_logger(__name__)


class TokenRecords(Protocol):
    """The databroker, as far as finding what is due needs it."""

    def list(self, record_type: str, damaged: MutableSequence[Damaged]) -> AsyncIterator[Record]:
        """Every live record of a type; what does not open goes into ``damaged``."""
        ...

    def query(
        self, record_type: str, index: str, value: str, damaged: MutableSequence[Damaged]
    ) -> AsyncIterator[Record]:
        """Every live record whose index has this value; for ``damaged`` see ``list``."""
        ...


class Keeper:
    """Attends to what is due."""

    def __init__(
        self, records: TokenRecords, refresher: Refresher, clock: Clock, registry: CollectorRegistry | None = None
    ) -> None:
        self._records = records
        self._refresher = refresher
        self._clock = clock
        self._limit = asyncio.Semaphore(_AT_ONCE)
        self.counts: dict[Attended, int] = dict.fromkeys(Attended, 0)
        self._attended = Counter(
            "doorward_sessions_attended",
            "Sessions looked after, by what became of them.",
            ("outcome",),
            registry=registry,
        )
        self._damaged = Gauge(
            "doorward_session_tokens_damaged",
            "Sessions that cannot be looked after because their tokens do not open, as of the last survey.",
            registry=registry,
        )

    async def run(self, client: RecordClient, holder: str) -> None:
        """Work whenever the lease can be had, until cancelled."""
        while True:
            try:
                async with hold_lease(client, LEASE, holder, _LEASE_SECONDS) as held:
                    _log.info("looking after sessions", fencing_number=held.fence.number)
                    await self._work(held)
            except ConflictError:
                pass  # somebody else does it
            except DoorwardError as error:
                _log.warning("cannot look after sessions now", reason=str(error))
            await asyncio.sleep(_WAIT_SECONDS)

    async def _work(self, held: HeldLease) -> None:
        surveyed = self._clock.monotonic()
        reached = await self.survey(held.fence)
        while not held.lost.is_set():
            await asyncio.sleep(1.0)
            if self._clock.monotonic() - surveyed >= _SURVEY_SECONDS:
                surveyed = self._clock.monotonic()
                reached = await self.survey(held.fence)
            reached = await self.advance(reached, held.fence)

    async def survey(self, fence: Fence | None = None) -> int:
        """Attend to everything that is due, and return the first bucket that has not been read."""
        now = self._clock.now()
        damaged: list[Damaged] = []
        await self._attend_all(self._records.list(RECORD_TYPE, damaged), now, fence)
        self._tell(damaged)
        self._damaged.set(len(damaged))
        return int(now // BUCKET_SECONDS)

    async def advance(self, reached: int, fence: Fence | None = None) -> int:
        """Attend to the buckets from ``reached`` on whose time is over; the first one that is not."""
        now = self._clock.now()
        while (reached + 1) * BUCKET_SECONDS + _LATENESS_SECONDS <= now:
            value = bucket(reached * BUCKET_SECONDS)
            damaged: list[Damaged] = []
            await self._attend_all(self._records.query(RECORD_TYPE, DUE_INDEX, value, damaged), now, fence)
            self._tell(damaged)
            reached += 1
        return reached

    def _tell(self, damaged: Sequence[Damaged]) -> None:
        """Tokens that do not open refresh nobody; their sessions last until their end, and all others are looked after."""
        for one in damaged:
            _log.error("tokens cannot be read", session_id=one.id, reason=one.reason)

    async def _attend_all(self, records: AsyncIterator[Record], now: float, fence: Fence | None) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                async for record in records:
                    try:
                        is_due = due_at_of(record) <= now
                    except DataCorruptedError as error:
                        _log.error("tokens cannot be read", session_id=record.id, reason=str(error))
                        continue
                    if is_due:
                        await self._limit.acquire()
                        group.create_task(self._attend(record.id, fence))
        except ExceptionGroup as failures:
            # What is attended to raises nothing, so it is the list that could not be read.
            raise failures.exceptions[0] from None

    async def _attend(self, session_id: str, fence: Fence | None) -> None:
        try:
            outcome = await self._refresher.attend(session_id, fence)
            self.counts[outcome] += 1
            self._attended.labels(outcome.value).inc()
        except DoorwardError as error:
            # It stays due: the next survey finds it.
            _log.warning("a session could not be looked after", session_id=session_id, reason=str(error))
        except Exception as error:
            # A mistake with one session must not keep the others from being looked after.
            _log.error("looking after a session failed", session_id=session_id, error=str(error), exc_info=True)
        finally:
            self._limit.release()
