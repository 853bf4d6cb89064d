"""What the databroker needs of a record store.

A store keeps versioned records, one ordered feed of their changes, and leases. It knows nothing of planes, sessions or gRPC.
Implementations: ``memory`` (the reference) and ``redis``, and ``metered`` around either; all must pass
``tests/conformance/test_record_store.py``.
"""

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from doorward.errors import DataCorruptedError
from doorward.records.record import Damaged, Fence, Record, RecordVersion, Write


class OlderStateError(DataCorruptedError):
    """What is stored is older than the version ``known``, which `changes` has brought."""

    def __init__(self, record_type: str, known: RecordVersion) -> None:
        super().__init__(f"a stored `{record_type}` is in an older state than was read in the history")
        self.known = known


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the feed: its version, and the chain tag that tells this history from another under the same numbers."""

    version: RecordVersion
    tag: bytes = b""
    """Empty when it is not known; then only the numbers are compared."""


@dataclass(frozen=True, slots=True)
class FeedEntry:
    """The changes of one put, in order. ``version`` is that of the last."""

    version: RecordVersion
    records: tuple[Record, ...]
    tag: bytes = b""
    damaged: tuple[Damaged, ...] = ()
    unreadable: frozenset[str] = frozenset()
    """Types of which it changes records that it does not tell: whoever holds such records has to read all of them again."""
    spoiled: tuple[Damaged, ...] = ()
    """Those records, as far as their names are known."""

    @property
    def position(self) -> Position:
        """The place after this entry."""
        return Position(self.version, self.tag)


@dataclass(frozen=True, slots=True)
class Page:
    """Some records in id order."""

    records: tuple[Record, ...]
    next_id: str
    """Where the next page begins; only an empty one ends the list."""
    damaged: tuple[Damaged, ...] = ()


@dataclass(frozen=True, slots=True)
class Expired:
    """A record whose end is over, in the state that ended."""

    id: str
    version: RecordVersion | None
    """``None`` where the record itself has vanished."""


@dataclass(frozen=True, slots=True)
class Beat:
    """What came back from a heartbeat."""

    head: Position
    store_time: float
    """The store's own clock, in seconds since the Unix epoch."""
    peers: Mapping[str, bytes]
    """What each databroker that was heard of lately has said."""


@dataclass(frozen=True, slots=True)
class SnapshotPage:
    """Some records in id order, each a serialized ``databroker.v1.Record``."""

    records: tuple[bytes, ...]
    damaged: tuple[Damaged, ...] = ()


class RecordStore(Protocol):
    """Concurrency: safe for any number of tasks; puts are linearised."""

    lost: asyncio.Event
    """Set when the store was seen to have gone back behind what it had said; whoever reads the feed clears it."""

    async def get(self, record_type: str, record_id: str) -> Record:
        """The live record.

        Raises:
            NotFoundError: none, deleted, or expired.
            DataCorruptedError: it does not open, or is an ``OlderStateError``; never reported as absent.
            UnavailableError: the store does not answer.
        """
        ...

    async def stored_version(self, record_type: str, record_id: str) -> tuple[RecordVersion, bool] | None:
        """Version of what is stored, and whether it is a tombstone; ``None`` when there is nothing at all."""
        ...

    async def page(self, record_type: str, after_id: str, limit: int) -> Page:
        """Up to ``limit`` live records with ids after ``after_id``; a page may be short."""
        ...

    def snapshot(self, record_type: str, limit: int) -> AsyncGenerator[SnapshotPage, None]:
        """Every live record, serialized, for those who only pass records on: pages of up to ``limit`` records, some without any.

        What comes next is read ahead; whoever stops early closes it.
        """
        ...

    async def query(self, record_type: str, index: str, value: str, after_id: str, limit: int) -> Page:
        """As ``page``, for records that are found under exactly ``value`` in an index."""
        ...

    def found(self, record_type: str, index: str, values: Collection[str], limit: int) -> AsyncGenerator[Page, None]:
        """Every live record that is found under any of ``values``, in pages of up to ``limit``.

        One that is under several may come more than once. Whoever stops early closes it.
        """
        ...

    async def expired(self, record_type: str, before: float, limit: int) -> list[Expired]:
        """Up to ``limit`` records that are not deleted and whose end lies before ``before``, oldest end first."""
        ...

    async def put(
        self, writes: Sequence[Write], request_id: str, fence: Fence | None = None
    ) -> tuple[RecordVersion, ...]:
        """Store all or none; a repeat of ``request_id`` returns the first outcome and writes nothing.

        What is outside the feed gets number 0, in the epoch in which it was written.

        Raises:
            ConflictError: a precondition does not hold, or the lease of ``fence`` has been taken again since.
            UnavailableError: nothing was written.
            OutcomeUnknownError: it may have been written; repeat with the same request id.
        """
        ...

    async def beat(self, databroker_id: str, report: bytes) -> Beat:
        """Store this databroker's heartbeat and hear the others'; an empty ``report`` only asks.

        Raises:
            UnavailableError, OutcomeUnknownError: it is not stored where the deployment demands.
        """
        ...

    async def head(self) -> Position:
        """The place after the newest change."""
        ...

    async def changes(self, after: Position, limit: int, wait_seconds: float) -> list[FeedEntry]:
        """Up to ``limit`` feed entries after ``after``, in order; waits for the first one if there is none.

        Raises:
            WatchExpiredError: ``after`` is not a position of the retained feed: trimmed away, another epoch, or a
                history that the store no longer has.
        """
        ...

    def unread(self, after: RecordVersion) -> Sequence[FeedEntry]:
        """Puts made here after ``after``, in its epoch, which the store has confirmed and `changes` has not brought back yet."""
        ...

    async def oldest(self) -> RecordVersion | None:
        """The version of the oldest entry of the retained feed; ``None`` when there is none."""
        ...

    async def contains(self, position: Position) -> bool:
        """Whether ``position``, with its tag, is in this history; also where its changes are trimmed, as far as that is still known."""
        ...

    async def recover(self, lost: RecordVersion) -> Position:
        """Begin a new epoch because ``lost`` is no longer part of the history, unless somebody has; its head."""
        ...

    def begin(self, epoch: int, common: RecordVersion | None) -> None:
        """In ``epoch`` the history is the one that was read before only up to ``common``; there is none of it where that is ``None``."""
        ...

    async def hold(self, name: str, seconds: float) -> None:
        """Keep all history from now on for ``seconds``, or until ``release``, while a snapshot is read."""
        ...

    async def release(self, name: str) -> None:
        """End a hold; harmless when there is none."""
        ...

    async def trim(self, count: int, age_seconds: float) -> int:
        """Forget history beyond ``count`` entries or older than ``age_seconds``, unless held; how many entries went."""
        ...

    async def acquire_lease(self, name: str, holder: str, seconds: float) -> int | None:
        """A fencing number that grows with each taking, or ``None`` when somebody else holds the lease."""
        ...

    async def renew_lease(self, name: str, holder: str, seconds: float) -> bool:
        """Extend the lease if ``holder`` still holds it."""
        ...

    async def release_lease(self, name: str, holder: str) -> None:
        """Free the lease if ``holder`` holds it."""
        ...
