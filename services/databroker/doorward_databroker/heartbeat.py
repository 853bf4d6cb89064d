"""Freshness, proven by a write.

Four times a second a heartbeat goes through the store. Only when it is stored where the deployment demands, and everything before
it has been handed to the watchers, does each watcher get a lease that echoes its newest ping from before the write began. A store
that cannot take writes, a reader that lags, or a clock that disagrees with the store's extends nothing.

The heartbeat carries which authorizers may hold a lease from this databroker and how far each has come: a revoke that another
databroker carries out waits for them too.
"""

import asyncio

import structlog

from doorward.clock import Clock
from doorward.errors import DoorwardError, UnavailableError
from doorward.telemetry.seldom import Seldom
from doorward_databroker.damage import described, reread
from doorward_databroker.metrics import DatabrokerMetrics
from doorward_databroker.peers import Peers
from doorward_databroker.store.port import RecordStore
from doorward_databroker.watch import WatchHub

INTERVAL_SECONDS = 0.25
CLOCK_LIMIT_SECONDS = 2.0
_CATCH_UP_SECONDS = 1.0

_log = structlog.stdlib.get_logger(__name__)


class Heartbeat:
    """Writes heartbeats and grants leases."""

    def __init__(
        self, store: RecordStore, hub: WatchHub, peers: Peers, clock: Clock, metrics: DatabrokerMetrics
    ) -> None:
        self._store = store
        self._hub = hub
        self._peers = peers
        self._clock = clock
        self._metrics = metrics
        self._seldom = Seldom(_log, clock)
        self.problem: str | None = "no heartbeat has been stored yet"
        """Why this databroker cannot do its work; ``None`` when it can."""

    @property
    def healthy(self) -> bool:
        """Whether the last heartbeat was stored, by a clock that agrees with the store's."""
        return self.problem is None

    @property
    def unready(self) -> str | None:
        """Why nobody should be sent here: it cannot do its work, or not for every type; ``None`` when it can."""
        if self.problem is not None:
            return self.problem
        if self._hub.unreadable:
            return reread(self._hub.unreadable)
        return described(self._hub.damaged.values()) if self._hub.damaged else None

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            began = self._clock.monotonic()
            try:
                await self.beat()
                if self.problem is not None:
                    _log.info("the store takes writes")
                self.problem = None
            except DoorwardError as error:
                if self.problem != str(error):
                    # What is said of a clock is another text each time.
                    self._seldom.error("the store takes no writes", reason=str(error))
                self.problem = str(error)
                self._metrics.failed_heartbeats.inc()
            self._metrics.healthy.set(self.healthy)
            self._metrics.damaged.set(len(self._hub.damaged))
            self._metrics.unreadable.set(self._hub.unreadable_entries)
            self._metrics.watchers_cut.set(self._hub.cuts)
            if self._hub.position is not None:
                self._metrics.feed_epoch.set(self._hub.position.epoch)
                self._metrics.feed_number.set(self._hub.position.number)
            await asyncio.sleep(max(0.02, INTERVAL_SECONDS - (self._clock.monotonic() - began)))

    async def beat(self) -> None:
        """One heartbeat and its leases.

        Raises:
            DoorwardError: it was not stored, the clocks disagree, or the feed cannot be read; no lease was granted.
        """
        began = self._clock.monotonic()
        stamps = {watcher: watcher.stamp for watcher in self._hub.watchers}
        beat = await self._store.beat(self._peers.id, self._peers.report())
        self._peers.hear(beat)
        took = self._clock.monotonic() - began
        self._metrics.heartbeat_seconds.observe(took)
        offset = self._clock.now() - beat.store_time
        if abs(offset) > CLOCK_LIMIT_SECONDS + took:
            raise UnavailableError(f"this clock is {offset:+.1f} s from the store's")
        if self._hub.problem is not None:
            raise UnavailableError(self._hub.problem)
        if not self._hub.mended.is_set() or not await self._hub.wait_for(beat.head.version, _CATCH_UP_SECONDS):
            return
        for watcher, stamp in stamps.items():
            if stamp is not None and watcher.cut is None and self._hub.vouches_for(watcher.types):
                watcher.grant(stamp)
