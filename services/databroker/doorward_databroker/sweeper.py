"""Expired records become tombstones, so that they leave memory and index; deciding never waits for this."""

import asyncio
import secrets
from collections.abc import Sequence

import structlog

from doorward.clock import Clock
from doorward.errors import DoorwardError
from doorward.records.record import Record, Write
from doorward_databroker.store.port import RecordStore

INTERVAL_SECONDS = 60.0
GRACE_SECONDS = 30.0
"""How long after its end a record is left alone, for nodes whose clock is behind."""
_LEASE = "sweeper"
_BATCH = 200

_log = structlog.stdlib.get_logger(__name__)


class Sweeper:
    """Sweeps while it holds the lease."""

    def __init__(self, store: RecordStore, types: Sequence[str], clock: Clock, holder: str) -> None:
        self._store = store
        self._types = types
        self._clock = clock
        self._holder = holder

    async def run(self) -> None:
        """Sweep now and then until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            try:
                if await self._store.acquire_lease(_LEASE, self._holder, INTERVAL_SECONDS * 2) is not None:
                    await self.sweep()
            except DoorwardError as error:
                _log.warning("could not sweep", reason=str(error))

    async def sweep(self) -> int:
        """Delete what has expired and return how many records that were."""
        swept = 0
        for record_type in self._types:
            for record_id in await self._store.expired(record_type, self._clock.now() - GRACE_SECONDS, _BATCH):
                write = Write(record=Record(type=record_type, id=record_id, deleted=True))
                await self._store.put([write], secrets.token_hex(16))
                swept += 1
        return swept
