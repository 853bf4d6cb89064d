"""Housekeeping under leases: what has expired becomes tombstones, history is trimmed, old keys are left behind.

Deciding never waits for any of it.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Iterable, Sequence

import structlog

from doorward.clock import Clock
from doorward.errors import ConflictError, DoorwardError, UnavailableError
from doorward.keys.keyring import Keyring
from doorward.records.record import Damaged, Fence, Record, Write
from doorward_databroker.heartbeat import CLOCK_LIMIT_SECONDS
from doorward_databroker.metrics import DatabrokerMetrics
from doorward_databroker.store.maintenance import Maintenance
from doorward_databroker.store.port import Expired, RecordStore

INTERVAL_SECONDS = 60.0
GRACE_SECONDS = 30.0
"""How long after its end a record is left alone, for nodes whose clock is behind."""
HISTORY_ENTRIES = 100_000
HISTORY_SECONDS = 24 * 3600.0
"""What is kept for watchers to resume from; the put script itself trims at four times the count."""
RESEAL_SECONDS = 3600.0
"""After everything was sealed anew, until somebody looks again."""
RESEAL_LEASE_SECONDS = 60.0
"""Extended page by page; how soon another databroker goes on where one has died."""
_RESEAL_PAUSE_SECONDS = 0.05
"""Between two pages, so that sealing anew never crowds out what people wait for."""
_RESEAL_LONG_PAUSE_SECONDS = 0.5
"""While a snapshot is being read: after an upgrade authorizers start just when records are entered in a new index."""
_LEASE = "sweeper"
_RESEAL_LEASE = "resealer"
_BATCH = 200

_log = structlog.stdlib.get_logger(__name__)


class Resealer:
    """Seals everything under the newest key, in the background, for as long as an older one is held or an index lacks records.

    Any databroker may do it at any time: a record that somebody changed meanwhile is sealed under the newest key anyhow.
    """

    def __init__(
        self,
        store: RecordStore,
        maintenance: Maintenance,
        keyring: Keyring,
        report: Callable[[Iterable[Damaged]], None],
        others_wait: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store = store
        self._maintenance = maintenance
        self._keyring = keyring
        self._report = report
        self._others_wait = others_wait

    async def run(self) -> None:
        """Seal until all is done, and look again now and then, until cancelled."""
        while True:
            try:
                if await self._is_needed():
                    await self.keep()
            except DoorwardError as error:
                _log.warning("could not seal anew", reason=str(error))
            await asyncio.sleep(RESEAL_LEASE_SECONDS)

    async def keep(self) -> bool:
        """Seal everything anew if the lease can be had, and whether that was done; nobody does it again for an hour then.

        Raises:
            DoorwardError: the store failed.
        """
        # Another newest key is another piece of work.
        lease = (f"{_RESEAL_LEASE}-{self._keyring.primary.id.hex()}", secrets.token_hex(8))
        if await self._store.acquire_lease(*lease, RESEAL_LEASE_SECONDS) is None:
            return False
        try:
            await self.reseal_all(lease)
        except BaseException:
            # Also when this process ends: another goes on at once.
            with contextlib.suppress(DoorwardError):
                await self._store.release_lease(*lease)
            raise
        await self._store.renew_lease(*lease, RESEAL_SECONDS)
        return True

    async def _is_needed(self) -> bool:
        return len(self._keyring.keys) > 1 or not await self._maintenance.has_complete_indexes()

    async def reseal_all(self, lease: tuple[str, str] | None = None) -> tuple[int, int]:
        """How many values were sealed anew, and how many do not open."""
        resealed = unreadable = 0
        cursor = ""
        while True:
            done = await self._maintenance.reseal(cursor)
            resealed += done.resealed
            unreadable += len(done.damaged)
            self._report(done.damaged)
            cursor = done.next_cursor
            if not cursor:
                break
            if lease is not None:
                await self._store.renew_lease(*lease, RESEAL_LEASE_SECONDS)
            await asyncio.sleep(_RESEAL_LONG_PAUSE_SECONDS if self._others_wait() else _RESEAL_PAUSE_SECONDS)
        if resealed or unreadable:
            _log.info(
                "sealed anew, or entered in an index",
                records=resealed,
                unreadable=unreadable,
                key=self._keyring.primary.id.hex(),
            )
        return resealed, unreadable


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
                await self.keep()
            except DoorwardError as error:
                _log.warning("could not sweep", reason=str(error))

    async def keep(self) -> None:
        """Sweep and trim once, if the lease can be had and the clock is right.

        Raises:
            UnavailableError: this clock disagrees with the store's; by it, everybody's session could be over.
            DoorwardError: the store failed.
        """
        number = await self._store.acquire_lease(_LEASE, self._holder, INTERVAL_SECONDS * 2)
        if number is None:
            return
        offset = self._clock.now() - (await self._store.beat(self._holder, b"")).store_time
        if abs(offset) > CLOCK_LIMIT_SECONDS:
            raise UnavailableError(f"this clock is {offset:+.1f} s from the store's")
        await self.sweep(Fence(_LEASE, self._holder, number))
        self._metrics.history_trimmed.inc(await self._store.trim(HISTORY_ENTRIES, HISTORY_SECONDS))

    async def sweep(self, fence: Fence | None = None) -> int:
        """Delete what has expired, each only in the state that was seen; how many records that were."""
        swept = 0
        for record_type in self._types:
            while True:
                found = await self._store.expired(record_type, self._clock.now() - GRACE_SECONDS, _BATCH)
                gone = await self._delete(record_type, found, fence) if found else 0
                swept += gone
                if len(found) < _BATCH or not gone:
                    break
        self._metrics.swept.inc(swept)
        return swept

    async def _delete(self, record_type: str, found: Sequence[Expired], fence: Fence | None) -> int:
        writes = [
            Write(
                record=Record(type=record_type, id=one.id, deleted=True),
                expected=one.version,
                absent=one.version is None,
            )
            for one in found
        ]
        try:
            await self._store.put(writes, secrets.token_hex(16), fence)
            return len(writes)
        except ConflictError:
            if len(writes) == 1:
                # Written anew meanwhile, with another end; or the lease is lost, and whoever has it sweeps.
                return 0
        middle = len(found) // 2
        return await self._delete(record_type, found[:middle], fence) + await self._delete(
            record_type, found[middle:], fence
        )
