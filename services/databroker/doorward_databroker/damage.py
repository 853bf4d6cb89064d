"""Stored records that do not open (their key is not held, they are spoiled or have vanished): told, and watched until they open again.

does not open ─► nothing of its type is vouched for, this databroker is not ready
    opens again (its key is back) ─► written anew, so that every watcher gets it ─┐
    is not there any more         ─► deleted anew, for watchers may still hold it ┴─► vouched for, ready

a change cannot be read ─► the same for its type, until all records of the type have been read again
"""

import asyncio
import hashlib
import secrets
from collections.abc import Collection, Mapping
from contextlib import aclosing

import structlog

from doorward.errors import ConflictError, DataCorruptedError, DoorwardError, NotFoundError
from doorward.records.record import Damaged, Record, RecordVersion, Write
from doorward_databroker.store.port import RecordStore
from doorward_databroker.watch import WatchHub

INTERVAL_SECONDS = 2.0
_AT_ONCE = 200
_PAGE = 500

_log = structlog.stdlib.get_logger(__name__)


def described(damaged: Collection[Damaged]) -> str:
    """Which records do not open, for probes and logs: type, a hash of the id, and why. Everything else is in `status`."""
    first = min(damaged, key=lambda one: (one.type, one.id))
    name = hashlib.sha256(first.id.encode()).hexdigest()[:12]
    others = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
    verb = "do" if len(damaged) > 1 else "does"
    return f"a stored `{first.type}` (id hash {name}){others} {verb} not open: {first.reason}"


def reread(unreadable: Mapping[str, RecordVersion]) -> str:
    """Which types are read again because of changes that cannot be read, for probes, logs and `status`."""
    record_type, version = min(unreadable.items(), key=lambda item: item[1])
    others = f", and of {len(unreadable) - 1} more types" if len(unreadable) > 1 else ""
    return f"a change of `{record_type}` at `{version}` cannot be read; its records are being read again{others}"


class Rereader:
    """Looks again at what did not open, and at types of which a change cannot be read."""

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
        for record_type, version in list(self._hub.unreadable.items()):
            await self._read_again(record_type, version)
        written = 0
        for one in list(self._hub.damaged.values())[:_AT_ONCE]:
            try:
                write = await self._anew(one)
                (version,) = await self._store.put([write], secrets.token_hex(16))
            except DataCorruptedError:
                self._hub.look_later(one)
                continue
            except ConflictError:
                continue  # somebody has written it just now, and the feed will say so
            self._hub.is_written_anew(one, version)
            written += 1
        if written:
            _log.info("records open again", records=written)
        return written

    async def _read_again(self, record_type: str, version: RecordVersion) -> None:
        records = 0
        async with aclosing(self._store.snapshot(record_type, _PAGE)) as pages:
            async for page in pages:
                self._hub.report(page.damaged)
                records += len(page.records)
        self._hub.has_read_again(record_type, version)
        _log.info("all records of a type were read again", type=record_type, records=records)

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
