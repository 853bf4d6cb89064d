"""Freshness, proven by a write.

Four times a second a heartbeat goes through the store. Only when it is stored, and everything before it has been handed to the
watchers, does each watcher get a lease that echoes its newest ping from before the write began. A store that cannot take
writes, or a reader that lags, extends nothing.
"""

import asyncio
import secrets

import structlog

from doorward.api.databroker.v1 import databroker_pb2 as pb
from doorward.clock import Clock
from doorward.errors import DoorwardError
from doorward.records.record import Record, Write
from doorward_databroker.store.port import RecordStore
from doorward_databroker.watch import WatchHub

INTERVAL_SECONDS = 0.25
_CATCH_UP_SECONDS = 1.0
_LIFE_SECONDS = 60.0

_log = structlog.stdlib.get_logger(__name__)


class Heartbeat:
    """Writes heartbeats and grants leases."""

    def __init__(self, store: RecordStore, hub: WatchHub, clock: Clock, databroker_id: str) -> None:
        self._store = store
        self._hub = hub
        self._clock = clock
        self._id = databroker_id
        self.healthy = False
        """Whether the last heartbeat was stored."""

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            began = self._clock.monotonic()
            try:
                await self.beat()
                if not self.healthy:
                    _log.info("the store takes writes")
                self.healthy = True
            except DoorwardError as error:
                if self.healthy:
                    _log.error("the store takes no writes", reason=str(error))
                self.healthy = False
            await asyncio.sleep(max(0.02, INTERVAL_SECONDS - (self._clock.monotonic() - began)))

    async def beat(self) -> None:
        """One heartbeat and its leases.

        Raises:
            DoorwardError: it was not stored; no lease was granted.
        """
        began = self._clock.monotonic()
        stamps = {watcher: watcher.stamp for watcher in self._hub.watchers}
        record = Record(type="Heartbeat", id=self._id, expires_at=self._clock.now() + _LIFE_SECONDS)
        await self._store.put([Write(record=record)], secrets.token_hex(16))
        head = await self._store.head()
        if not await self._hub.wait_for(head, _CATCH_UP_SECONDS):
            return
        for watcher, stamp in stamps.items():
            if stamp is not None:
                watcher.offer(pb.WatchResponse(lease=pb.WatchResponse.Lease(stamp=stamp)))
                watcher.lease_sent_at = began
