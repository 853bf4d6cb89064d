"""Stored records that do not open: sealed under a key that is not held, or spoiled. Told, and watched until they open again.

does not open ─► nothing of its type is vouched for, this databroker is not ready
    opens again (its key is back) ─► written anew, so that every watcher gets it ─┐
    is not there any more         ─► deleted anew, for watchers may still hold it ┴─► vouched for, ready
"""

import asyncio
import hashlib
import secrets
from collections.abc import Collection

import structlog

from doorward.errors import ConflictError, DataCorruptedError, DoorwardError, NotFoundError
from doorward.records.record import Damaged, Record, Write
from doorward_databroker.store.port import RecordStore
from doorward_databroker.watch import WatchHub

INTERVAL_SECONDS = 2.0
_AT_ONCE = 200

_log = structlog.stdlib.get_logger(__name__)


def described(damaged: Collection[Damaged]) -> str:
    """Which records do not open, for probes and logs: type, a hash of the id, and why. Everything else is in `status`."""
    first = min(damaged, key=lambda one: (one.type, one.id))
    name = hashlib.sha256(first.id.encode()).hexdigest()[:12]
    others = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
    verb = "do" if len(damaged) > 1 else "does"
    return f"a stored `{first.type}` (id hash {name}){others} {verb} not open: {first.reason}"


class Rereader:
    """Looks again at what did not open."""

    def __init__(self, store: RecordStore, hub: WatchHub) -> None:
        self._store = store
        self._hub = hub

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            try:
                await self.look()
            except DoorwardError as error:
                _log.warning("what did not open could not be looked at again", reason=str(error))

    async def look(self) -> int:
        """Write anew what opens again, some at a time; how many records that were.

        Raises:
            DoorwardError: the store failed.
        """
        if not self._hub.mended.is_set():
            return 0
        written = 0
        for one in list(self._hub.damaged.values())[:_AT_ONCE]:
            try:
                write = await self._anew(one)
                await self._store.put([write], secrets.token_hex(16))
            except DataCorruptedError:
                self._hub.look_later(one)
                continue
            except ConflictError:
                continue  # somebody has written it just now, and the feed will say so
            written += 1
        if written:
            _log.info("records open again", records=written)
        return written

    async def _anew(self, one: Damaged) -> Write:
        """What has to be written so that everybody learns what is stored."""
        try:
            found = await self._store.get(one.type, one.id)
        except NotFoundError:
            return Write(record=Record(type=one.type, id=one.id, deleted=True), absent=True)
        plain = Record(
            type=found.type, id=found.id, data=found.data, expires_at=found.expires_at, indexes=found.indexes
        )
        return Write(record=plain, expected=found.version)
