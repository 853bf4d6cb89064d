"""What the databroker needs of a record store.

A store keeps versioned records, one ordered feed of their changes, and leases. It knows nothing of planes, sessions or gRPC.
Implementations: ``memory`` (the reference) and ``redis``; both must pass ``tests/conformance/test_record_store.py``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from doorward.records.record import Record, RecordVersion, Write


@dataclass(frozen=True, slots=True)
class FeedEntry:
    """The changes of one put, in order. ``version`` is that of the last."""

    version: RecordVersion
    records: tuple[Record, ...]


class RecordStore(Protocol):
    """Concurrency: safe for any number of tasks; puts are linearised."""

    async def get(self, record_type: str, record_id: str) -> Record:
        """The live record.

        Raises:
            NotFoundError: none, deleted, or expired.
            DataCorruptedError: it does not open; never reported as absent.
            UnavailableError: the store does not answer.
        """
        ...

    async def page(self, record_type: str, after_id: str, limit: int) -> tuple[list[Record], str]:
        """Up to ``limit`` live records with ids after ``after_id``, in id order, and where the next page begins.

        The page may be short; only an empty next id ends the list.
        """
        ...

    async def query(
        self, record_type: str, index: str, value: str, after_id: str, limit: int
    ) -> tuple[list[Record], str]:
        """As ``page``, for records whose index has exactly ``value``."""
        ...

    async def expired(self, record_type: str, before: float, limit: int) -> list[str]:
        """Ids of up to ``limit`` records that are not deleted and whose end lies before ``before``."""
        ...

    async def put(self, writes: Sequence[Write], request_id: str) -> tuple[RecordVersion, ...]:
        """Store all or none; a repeat of ``request_id`` returns the first outcome and writes nothing.

        Raises:
            ConflictError: a precondition does not hold.
            UnavailableError: nothing was written.
            OutcomeUnknownError: it may have been written; repeat with the same request id.
        """
        ...

    async def head(self) -> RecordVersion:
        """The version of the newest change."""
        ...

    async def changes(self, after: RecordVersion, limit: int, wait_seconds: float) -> list[FeedEntry]:
        """Up to ``limit`` feed entries after ``after``, in order; waits for the first one if there is none.

        Raises:
            WatchExpiredError: ``after`` is not a position of the retained feed: trimmed away, another epoch, or a
                history that the store no longer has.
        """
        ...

    async def recover(self, lost: RecordVersion) -> RecordVersion:
        """Begin a new epoch because ``lost`` is no longer part of the history, unless somebody has; its head."""
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
