"""Counts and times what is asked of a store, whichever that is.

A call that waits for something to happen (`changes`) is counted and not timed: it would tell how quiet the deployment is.

Cost: some four microseconds a call.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Collection, Sequence
from contextlib import aclosing
from typing import TypeVar

from prometheus_client import Counter, Histogram

from doorward.errors import (
    ConflictError,
    DataCorruptedError,
    InvalidArgumentError,
    NotFoundError,
    OutcomeUnknownError,
    UnavailableError,
    WatchExpiredError,
)
from doorward.records.record import Fence, Record, RecordVersion, Write
from doorward_databroker.store.port import Beat, Expired, FeedEntry, Page, Position, RecordStore, SnapshotPage

_T = TypeVar("_T")
OUTCOMES: dict[type[BaseException], str] = {
    NotFoundError: "not_found",
    ConflictError: "conflict",
    WatchExpiredError: "expired",
    InvalidArgumentError: "invalid",
    UnavailableError: "unavailable",
    OutcomeUnknownError: "unknown",
    DataCorruptedError: "corrupted",
    asyncio.CancelledError: "cancelled",
}
"""How a call may fail, by the first of its classes that stands here; whatever else it is, it has `failed`."""


class _Meter:
    """One operation's figures; looking its labels up each time would cost as much as all the rest."""

    def __init__(self, name: str, operations: Counter, seconds: Histogram | None) -> None:
        self._name = name
        self._operations = operations
        self._done = operations.labels(name, "ok")
        self._seconds = None if seconds is None else seconds.labels(name)

    async def __call__(self, call: Awaitable[_T]) -> _T:
        began = time.perf_counter()
        try:
            answer = await call
        except BaseException as error:
            self._operations.labels(self._name, _outcome(error)).inc()
            self._observe(began)
            raise
        self._done.inc()
        self._observe(began)
        return answer

    def _observe(self, began: float) -> None:
        if self._seconds is not None:
            self._seconds.observe(time.perf_counter() - began)


class MeteredStore:
    """A store that keeps count; see ``RecordStore``."""

    def __init__(self, store: RecordStore, operations: Counter, seconds: Histogram) -> None:
        """``operations`` has the labels ``operation`` and ``outcome``, ``seconds`` has ``operation``."""

        def meter(name: str, timed: Histogram | None = seconds) -> _Meter:
            return _Meter(name, operations, timed)

        self._store = store
        self.lost = store.lost
        self._get = meter("get")
        self._stored_version = meter("stored_version")
        self._page = meter("page")
        self._snapshot = meter("snapshot")
        self._query = meter("query")
        self._found = meter("found")
        self._expired = meter("expired")
        self._put = meter("put")
        self._beat = meter("beat")
        self._head = meter("head")
        self._changes = meter("changes", None)
        self._oldest = meter("oldest")
        self._contains = meter("contains")
        self._recover = meter("recover")
        self._hold = meter("hold")
        self._release = meter("release")
        self._trim = meter("trim")
        self._lease = meter("lease")

    async def get(self, record_type: str, record_id: str) -> Record:
        """See ``RecordStore.get``."""
        return await self._get(self._store.get(record_type, record_id))

    async def stored_version(self, record_type: str, record_id: str) -> tuple[RecordVersion, bool] | None:
        """See ``RecordStore.stored_version``."""
        return await self._stored_version(self._store.stored_version(record_type, record_id))

    async def page(self, record_type: str, after_id: str, limit: int) -> Page:
        """See ``RecordStore.page``."""
        return await self._page(self._store.page(record_type, after_id, limit))

    async def snapshot(self, record_type: str, limit: int) -> AsyncGenerator[SnapshotPage, None]:
        """See ``RecordStore.snapshot``; each page counts, and the end of them."""
        async with aclosing(self._store.snapshot(record_type, limit)) as pages:
            while (page := await self._snapshot(anext(pages, None))) is not None:
                yield page

    async def query(self, record_type: str, index: str, value: str, after_id: str, limit: int) -> Page:
        """See ``RecordStore.query``."""
        return await self._query(self._store.query(record_type, index, value, after_id, limit))

    async def found(
        self, record_type: str, index: str, values: Collection[str], limit: int
    ) -> AsyncGenerator[Page, None]:
        """See ``RecordStore.found``; each page counts, and the end of them."""
        async with aclosing(self._store.found(record_type, index, values, limit)) as pages:
            while (page := await self._found(anext(pages, None))) is not None:
                yield page

    async def expired(self, record_type: str, before: float, limit: int) -> list[Expired]:
        """See ``RecordStore.expired``."""
        return await self._expired(self._store.expired(record_type, before, limit))

    async def put(
        self, writes: Sequence[Write], request_id: str, fence: Fence | None = None
    ) -> tuple[RecordVersion, ...]:
        """See ``RecordStore.put``."""
        return await self._put(self._store.put(writes, request_id, fence))

    async def beat(self, databroker_id: str, report: bytes) -> Beat:
        """See ``RecordStore.beat``."""
        return await self._beat(self._store.beat(databroker_id, report))

    async def head(self) -> Position:
        """See ``RecordStore.head``."""
        return await self._head(self._store.head())

    async def changes(self, after: Position, limit: int, wait_seconds: float) -> list[FeedEntry]:
        """See ``RecordStore.changes``."""
        return await self._changes(self._store.changes(after, limit, wait_seconds))

    def unread(self, after: RecordVersion) -> Sequence[FeedEntry]:
        """See ``RecordStore.unread``; nobody is asked, so it does not count."""
        return self._store.unread(after)

    async def oldest(self) -> RecordVersion | None:
        """See ``RecordStore.oldest``."""
        return await self._oldest(self._store.oldest())

    async def contains(self, position: Position) -> bool:
        """See ``RecordStore.contains``."""
        return await self._contains(self._store.contains(position))

    async def recover(self, lost: RecordVersion) -> Position:
        """See ``RecordStore.recover``."""
        return await self._recover(self._store.recover(lost))

    def begin(self, epoch: int, common: RecordVersion | None) -> None:
        """See ``RecordStore.begin``; nobody is asked, so it does not count."""
        self._store.begin(epoch, common)

    async def hold(self, name: str, seconds: float) -> None:
        """See ``RecordStore.hold``."""
        await self._hold(self._store.hold(name, seconds))

    async def release(self, name: str) -> None:
        """See ``RecordStore.release``."""
        await self._release(self._store.release(name))

    async def trim(self, count: int, age_seconds: float) -> int:
        """See ``RecordStore.trim``."""
        return await self._trim(self._store.trim(count, age_seconds))

    async def acquire_lease(self, name: str, holder: str, seconds: float) -> int | None:
        """See ``RecordStore.acquire_lease``."""
        return await self._lease(self._store.acquire_lease(name, holder, seconds))

    async def renew_lease(self, name: str, holder: str, seconds: float) -> bool:
        """See ``RecordStore.renew_lease``."""
        return await self._lease(self._store.renew_lease(name, holder, seconds))

    async def release_lease(self, name: str, holder: str) -> None:
        """See ``RecordStore.release_lease``."""
        await self._lease(self._store.release_lease(name, holder))


def _outcome(error: BaseException) -> str:
    return next((OUTCOMES[kind] for kind in type(error).__mro__ if kind in OUTCOMES), "failed")
