"""Ending sessions: stored first, then applied by every authorizer, or known not to matter to it any more."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from doorward.clock import Clock
from doorward.identity import sign_in_stop
from doorward.records.record import NO_VERSION, Record, RecordVersion, Write
from doorward_databroker.metrics import DatabrokerMetrics
from doorward_databroker.peers import SESSION, Peers
from doorward_databroker.store.port import Page, RecordStore
from doorward_databroker.watch import WatchHub

WAIT_SECONDS = 2.0
_STEP_SECONDS = 0.05
_BATCH = 200
_PAGE = 500
TOKENS = "SessionTokens"
UPSTREAM_TOKEN = "SessionUpstreamToken"  # noqa: S105  # a record type


@dataclass(frozen=True, slots=True)
class RevokeOutcome:
    """What became of a revoke: stored in any case."""

    revoked: int
    pending: tuple[str, ...]
    """Authorizers that have not confirmed and may still decide by what they hold."""
    version: RecordVersion


class Revoker:
    """Ends sessions."""

    def __init__(
        self, store: RecordStore, hub: WatchHub, peers: Peers, clock: Clock, metrics: DatabrokerMetrics
    ) -> None:
        self._store = store
        self._hub = hub
        self._peers = peers
        self._clock = clock
        self._metrics = metrics

    async def revoke(self, session_ids: Sequence[str]) -> RevokeOutcome:
        """End the sessions of these ids; returns once applied, or after two seconds.

        Raises:
            DoorwardError: not, or not certainly, stored.
        """
        began = self._clock.monotonic()
        version = await self._store_end(session_ids)
        pending = await self._wait_applied(version)
        if pending:
            self._metrics.revokes_pending.inc()
        else:
            self._metrics.revoke_seconds.observe(self._clock.monotonic() - began)
        return RevokeOutcome(len(session_ids), pending, version)

    async def stop_sign_ins(self, *marks: str) -> None:
        """Leave marks that sign-ins under way obey; to be stored before sessions are looked for.

        Raises:
            DoorwardError: not, or not certainly, stored.
        """
        ends = self._clock.now() + sign_in_stop.LIFE_SECONDS
        records = [Record(type=sign_in_stop.RECORD_TYPE, id=mark, expires_at=ends) for mark in dict.fromkeys(marks)]
        for start in range(0, len(records), _BATCH):
            writes = [Write(record=record) for record in records[start : start + _BATCH]]
            await self._store.put(writes, secrets.token_hex(16))

    async def sessions_by(self, index: str, value: str) -> list[str]:
        """Ids of the live sessions that an index of theirs finds: those of a user, or of an identity provider."""
        return await self._ids(lambda after_id: self._store.query(SESSION, index, value, after_id, _BATCH))

    async def sessions_of(self, user_ids: Sequence[str]) -> list[str]:
        """Ids of the live sessions of these users."""
        found: list[str] = []
        async with aclosing(self._store.found(SESSION, "user_id", user_ids, _PAGE)) as pages:
            async for page in pages:
                found += _ids_on(page)
        return found

    async def every_session(self) -> list[str]:
        """Ids of all live sessions."""
        return await self._ids(lambda after_id: self._store.page(SESSION, after_id, _BATCH))

    async def _ids(self, read: Callable[[str], Awaitable[Page]]) -> list[str]:
        """Ids on all pages."""
        found: list[str] = []
        after_id = ""
        while True:
            page = await read(after_id)
            found += _ids_on(page)
            after_id = page.next_id
            if not after_id:
                return found

    async def _store_end(self, session_ids: Sequence[str]) -> RecordVersion:
        version = NO_VERSION
        for start in range(0, len(session_ids), _BATCH):
            writes = [
                Write(record=Record(type=kind, id=session_id, deleted=True))
                for session_id in session_ids[start : start + _BATCH]
                for kind in (SESSION, TOKENS, UPSTREAM_TOKEN)
            ]
            version = (await self._store.put(writes, secrets.token_hex(16)))[-1]
        return version if version != NO_VERSION else (await self._store.head()).version

    async def _wait_applied(self, version: RecordVersion) -> tuple[str, ...]:
        deadline = self._clock.monotonic() + WAIT_SECONDS
        while True:
            # Asked after the tombstones were stored: only then are all who may not know of them named.
            self._peers.hear(await self._store.beat(self._peers.id, b""))
            until = min(deadline, self._clock.monotonic() + _STEP_SECONDS)
            others_are_through = False
            async with self._hub.acknowledged:
                while pending := self._peers.behind(version):
                    remaining = until - self._clock.monotonic()
                    if remaining <= 0:
                        break
                    try:
                        async with asyncio.timeout(remaining):
                            await self._hub.acknowledged.wait()
                    except TimeoutError:
                        break
                others_are_through = not pending
            if others_are_through or self._clock.monotonic() >= deadline:
                return tuple(sorted(pending))


def _ids_on(page: Page) -> list[str]:
    """Ids of the sessions on a page; that of one that does not open is among them, for it must end too."""
    return [record.id for record in page.records] + [damaged.id for damaged in page.damaged]
