"""The databroker's client over the reference store: what a plane sees, without a server between."""

import secrets
from collections.abc import AsyncIterator, MutableSequence, Sequence

from prometheus_client import CollectorRegistry
from tests.support.key_material import keyring

from doorward.clock import Clock
from doorward.errors import DataCorruptedError
from doorward.identity import sign_in_stop
from doorward.keys.store import Purpose
from doorward.records.client import Revoked, Status
from doorward.records.record import Damaged, Fence, Record, RecordVersion, Write
from doorward_databroker.metrics import DatabrokerMetrics
from doorward_databroker.store.codec import SealedCodec
from doorward_databroker.store.memory import MemoryStore
from doorward_databroker.store.metered import MeteredStore
from doorward_databroker.store.port import Page, RecordStore

PAGE = 100


def metered(store: RecordStore, registry: CollectorRegistry | None = None) -> MeteredStore:
    """``store`` as a databroker has it."""
    metrics = DatabrokerMetrics(registry or CollectorRegistry())
    return MeteredStore(store, metrics.store_operations, metrics.store_operation_seconds)


def plain(store: RecordStore) -> RecordStore:
    """``store`` as it is."""
    return store


class StoreRecords:
    """Obeys the ports that planes declare over ``doorward.records.client.RecordClient``."""

    def __init__(self, clock: Clock, store: RecordStore | None = None) -> None:
        self.store = store if store is not None else MemoryStore(clock, SealedCodec(keyring(Purpose.RECORDS)))
        self.clock = clock
        self.puts: list[int] = []

    async def get(self, record_type: str, record_id: str) -> Record:
        return await self.store.get(record_type, record_id)

    async def put(self, writes: Sequence[Write], fence: Fence | None = None) -> tuple[RecordVersion, ...]:
        self.puts.append(len(writes))
        return await self.store.put(writes, secrets.token_hex(16), fence)

    async def acquire_lease(self, name: str, holder: str, seconds: float) -> int | None:
        return await self.store.acquire_lease(name, holder, seconds)

    async def renew_lease(self, name: str, holder: str, seconds: float) -> bool:
        return await self.store.renew_lease(name, holder, seconds)

    async def release_lease(self, name: str, holder: str) -> None:
        await self.store.release_lease(name, holder)

    async def list(self, record_type: str, damaged: MutableSequence[Damaged] | None = None) -> AsyncIterator[Record]:
        after = ""
        while True:
            page = await self.store.page(record_type, after, PAGE)
            _tell(page, damaged)
            after = page.next_id
            for record in page.records:
                yield record
            if not after:
                return

    async def query(
        self, record_type: str, index: str, value: str, damaged: MutableSequence[Damaged] | None = None
    ) -> AsyncIterator[Record]:
        after = ""
        while True:
            page = await self.store.query(record_type, index, value, after, PAGE)
            _tell(page, damaged)
            after = page.next_id
            for record in page.records:
                yield record
            if not after:
                return

    async def status(self) -> Status:
        return Status(version=(await self.store.head()).version, store_healthy=True, watchers=())

    async def revoke(self, *, session_id: str | None = None, user_id: str | None = None) -> Revoked:
        if session_id is not None:
            ids = [session_id]
        else:
            ends = self.clock.now() + sign_in_stop.LIFE_SECONDS
            mark = Record(type=sign_in_stop.RECORD_TYPE, id=sign_in_stop.of_user(user_id or ""), expires_at=ends)
            await self.put([Write(record=mark)])
            ids = [record.id async for record in self.query("Session", "user_id", user_id or "")]
        version = RecordVersion(0, 0)
        for found in ids:
            writes = [Write(record=Record(type=kind, id=found, deleted=True)) for kind in ("Session", "SessionTokens")]
            version = (await self.put(writes))[-1]
        return Revoked(applied=True, revoked=len(ids), pending=(), version=version)


def _tell(page: Page, damaged: MutableSequence[Damaged] | None) -> None:
    if damaged is not None:
        damaged.extend(page.damaged)
    elif page.damaged:
        raise DataCorruptedError(page.damaged[0].reason)
