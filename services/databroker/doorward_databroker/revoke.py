"""Ending sessions: stored first, then applied by every authorizer, or known not to matter to it any more."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from doorward.clock import Clock
from doorward.records.record import NO_VERSION, Record, RecordVersion, Write
from doorward_databroker.store.port import RecordStore
from doorward_databroker.watch import WatchHub

WAIT_SECONDS = 2.0
_BATCH = 200
SESSION = "Session"
TOKENS = "SessionTokens"


@dataclass(frozen=True, slots=True)
class RevokeOutcome:
    """What became of a revoke: stored in any case."""

    revoked: int
    pending: tuple[str, ...]
    """Authorizers that have not confirmed and may still decide by what they hold."""
    version: RecordVersion


class Revoker:
    """Ends sessions."""

    def __init__(self, store: RecordStore, hub: WatchHub, clock: Clock, staleness_limit_seconds: float) -> None:
        self._store = store
        self._hub = hub
        self._clock = clock
        self._limit = staleness_limit_seconds
        self._gone: dict[str, float] = {}
        """Watchers whose stream ended, and until when the lease that they may still hold can last."""

    def watcher_gone(self, watcher_id: str, lease_sent_at: float | None) -> None:
        """Remember a watcher whose stream ended: it decides by its copy until its lease has run out."""
        now = self._clock.monotonic()
        self._gone = {name: until for name, until in self._gone.items() if until > now}
        if lease_sent_at is not None:
            self._gone[watcher_id] = lease_sent_at + self._limit

    async def revoke(self, session_ids: list[str]) -> RevokeOutcome:
        """End the sessions of these ids; returns once applied, or after two seconds.

        Raises:
            DoorwardError: not, or not certainly, stored.
        """
        version = await self._store_end(session_ids)
        pending = await self._wait_applied(version)
        return RevokeOutcome(len(session_ids), pending, version)

    async def sessions_by(self, index: str, value: str) -> list[str]:
        """Ids of the live sessions that an index of theirs finds: those of a user, or of an identity provider."""
        return await self._ids(lambda after_id: self._store.query(SESSION, index, value, after_id, _BATCH))

    async def every_session(self) -> list[str]:
        """Ids of all live sessions."""
        return await self._ids(lambda after_id: self._store.page(SESSION, after_id, _BATCH))

    async def _ids(self, page: Callable[[str], Awaitable[tuple[list[Record], str]]]) -> list[str]:
        found: list[str] = []
        after_id = ""
        while True:
            records, after_id = await page(after_id)
            found += [record.id for record in records]
            if not after_id:
                return found

    async def _store_end(self, session_ids: list[str]) -> RecordVersion:
        version = NO_VERSION
        for start in range(0, len(session_ids), _BATCH):
            writes = [
                Write(record=Record(type=kind, id=session_id, deleted=True))
                for session_id in session_ids[start : start + _BATCH]
                for kind in (SESSION, TOKENS)
            ]
            version = (await self._store.put(writes, secrets.token_hex(16)))[-1]
        return version if version != NO_VERSION else await self._store.head()

    async def _wait_applied(self, version: RecordVersion) -> tuple[str, ...]:
        deadline = self._clock.monotonic() + WAIT_SECONDS
        async with self._hub.acknowledged:
            while pending := self._pending(version):
                remaining = deadline - self._clock.monotonic()
                if remaining <= 0:
                    break
                try:
                    await asyncio.wait_for(self._hub.acknowledged.wait(), min(remaining, 0.1))
                except TimeoutError:
                    continue
        return tuple(sorted(pending))

    def _pending(self, version: RecordVersion) -> set[str]:
        """Who may still let the ended sessions in."""
        now = self._clock.monotonic()
        live = {
            watcher.id
            for watcher in self._hub.watchers
            if SESSION in watcher.types
            and watcher.acknowledged < version
            and watcher.lease_sent_at is not None
            and watcher.lease_sent_at + self._limit > now
        }
        confirmed = {watcher.id for watcher in self._hub.watchers if watcher.acknowledged >= version}
        return live | {name for name, until in self._gone.items() if until > now and name not in confirmed}
