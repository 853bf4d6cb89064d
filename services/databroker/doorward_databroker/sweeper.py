"""Housekeeping under a lease: expired records become tombstones, and history is trimmed; deciding never waits for this."""

import asyncio
import secrets
from collections.abc import Sequence

import structlog

from doorward.clock import Clock
from doorward.errors import DoorwardError
from doorward.records.record import Fence, Record, Write
from doorward_databroker.metrics import DatabrokerMetrics
from doorward_databroker.store.port import RecordStore

INTERVAL_SECONDS = 60.0
GRACE_SECONDS = 30.0
"""How long after its end a record is left alone, for nodes whose clock is behind."""
HISTORY_ENTRIES = 100_000
HISTORY_SECONDS = 24 * 3600.0
"""What is kept for watchers to resume from; the put script itself trims at four times the count."""
_LEASE = "sweeper"
_BATCH = 200

_log = structlog.stdlib.get_logger(__name__)


class Sweeper:
    """Sweeps while it holds the lease."""

    def __init__(
        self, store: RecordStore, types: Sequence[str], clock: Clock, holder: str, metrics: DatabrokerMetrics
    ) -> None:
        self._store = store
        self._types = types
        self._clock = clock
        self._holder = holder
        self._metrics = metrics

    async def run(self) -> None:
        """Sweep now and then until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            try:
                number = await self._store.acquire_lease(_LEASE, self._holder, INTERVAL_SECONDS * 2)
                if number is not None:
                    await self.sweep(Fence(_LEASE, self._holder, number))
                    trimmed = await self._store.trim(HISTORY_ENTRIES, HISTORY_SECONDS)
                    self._metrics.history_trimmed.inc(trimmed)
            except DoorwardError as error:
                _log.warning("could not sweep", reason=str(error))

    async def sweep(self, fence: Fence | None = None) -> int:
        """Delete what has expired and return how many records that were."""
        swept = 0
        for record_type in self._types:
            while True:
                ids = await self._store.expired(record_type, self._clock.now() - GRACE_SECONDS, _BATCH)
                if ids:
                    writes = [Write(record=Record(type=record_type, id=name, deleted=True)) for name in ids]
                    await self._store.put(writes, secrets.token_hex(16), fence)
                    swept += len(ids)
                if len(ids) < _BATCH:
                    break
        self._metrics.swept.inc(swept)
        return swept
