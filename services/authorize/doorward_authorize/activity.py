"""Who has used their session lately: kept here, written seldom, and read only when somebody would be called idle.

    a request, an open guarded stream ─► touch ─► written in batches, at most once per session and tenth of the idle time
    nothing seen here for the idle time ─► one read: another authorizer may have seen them ─► idle, or not

Concurrency: belongs to one event loop.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from doorward.clock import Clock
from doorward.errors import DoorwardError, NotFoundError
from doorward.identity.activity import RECORD_TYPE, Activity
from doorward.identity.session import Session
from doorward.records.record import Record, RecordVersion, Write

FLUSH_SECONDS = 1.0
BATCH = 500
READ_SECONDS = 0.25
"""How long a request waits for the one read; well under Envoy's timeout."""
_WRITTEN_PART = 10

_log = structlog.stdlib.get_logger(__name__)


class ActivityRecords(Protocol):
    """The databroker, as far as activity needs it (``doorward.records.client.RecordClient``)."""

    async def get(self, record_type: str, record_id: str) -> Record:
        """The live record."""
        ...

    async def put(self, writes: Sequence[Write]) -> tuple[RecordVersion, ...]:
        """Write all or nothing."""
        ...


@dataclass(slots=True)
class _Seen:
    at: float
    written: float


class ActivityTracker:
    """Sees uses and judges idleness. ``idle_seconds`` is asked each time, because the configuration may change."""

    def __init__(self, records: ActivityRecords, idle_seconds: Callable[[], float | None], clock: Clock) -> None:
        self._records = records
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._seen: dict[str, _Seen] = {}
        self._due: set[str] = set()

    def touch(self, session_id: str) -> None:
        """Note that a session is being used."""
        idle = self._idle_seconds()
        if idle is None:
            return
        now = self._clock.now()
        seen = self._seen.get(session_id)
        if seen is None:
            seen = self._seen[session_id] = _Seen(now, 0.0)
        seen.at = now
        if now - seen.written >= idle / _WRITTEN_PART:
            self._due.add(session_id)

    def is_recent(self, session: Session) -> bool:
        """Whether this authorizer knows that the session is not idle."""
        return self._clock.now() < self.idle_at(session)

    def idle_at(self, session: Session) -> float:
        """When the session will be idle by what this authorizer knows, in seconds since the Unix epoch."""
        idle = self._idle_seconds()
        if idle is None:
            return float("inf")
        seen = self._seen.get(session.id)
        return (session.issued_at if seen is None else max(seen.at, session.issued_at)) + idle

    async def is_idle(self, session: Session) -> bool:
        """Whether nobody has used the session for the idle time, after one read of what the others have seen.

        Without an answer it counts as idle: that costs a sign-in, the opposite would let somebody in.
        """
        if self.is_recent(session):
            return False
        try:
            async with asyncio.timeout(READ_SECONDS):
                record = await self._records.get(RECORD_TYPE, session.id)
            seen_at = Activity.from_bytes(record.data).seen_at
        except NotFoundError:
            return True
        except (DoorwardError, TimeoutError) as error:
            _log.warning("whether a session is idle cannot be known", reason=str(error) or "no answer in time")
            return True
        known = self._seen.get(session.id)
        if known is None or known.at < seen_at:
            self._seen[session.id] = _Seen(seen_at, seen_at)
        return not self.is_recent(session)

    async def run(self) -> None:
        """Write what was seen until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write what is due; what cannot be written stays due while it is being used."""
        idle = self._idle_seconds()
        if idle is None:
            self._seen.clear()
            self._due.clear()
            return
        due, self._due = sorted(self._due), set()
        for start in range(0, len(due), BATCH):
            part = due[start : start + BATCH]
            seen = [(session_id, self._seen[session_id]) for session_id in part if session_id in self._seen]
            writes = [
                Write(
                    record=Record(
                        type=RECORD_TYPE,
                        id=session_id,
                        data=Activity(seen_at=entry.at).to_bytes(),
                        expires_at=entry.at + 2 * idle,
                    )
                )
                for session_id, entry in seen
            ]
            at = {session_id: entry.at for session_id, entry in seen}
            try:
                await self._records.put(writes)
            except DoorwardError as error:
                _log.warning("activity could not be written", sessions=len(part), reason=str(error))
                continue
            for session_id, entry in seen:
                entry.written = max(entry.written, at[session_id])
        self._forget(idle)

    def _forget(self, idle: float) -> None:
        """Drop what is older than the idle time: it no longer proves anything."""
        horizon = self._clock.now() - idle
        for session_id in [name for name, seen in self._seen.items() if seen.at < horizon]:
            del self._seen[session_id]
