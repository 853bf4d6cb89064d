"""One stream to a watcher: what waits to be sent, and when it has fallen behind.

Concurrency: belongs to one event loop. Within a watcher's queue order is the feed's order.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from doorward.api.databroker.v1 import databroker_pb2 as pb
from doorward.records.record import NO_VERSION, RecordVersion

QUEUE_LIMIT = 1_000
QUEUE_LIMIT_BYTES = 32 * 1024 * 1024


def never(_: bytes) -> bool:
    """Sends nothing at once: everything goes through the queue."""
    return False


@dataclass(eq=False)
class Watcher:
    """One stream."""

    id: str
    types: frozenset[str]
    if_known: tuple[str, ...] = ()
    """Those of ``types`` that it would also do without."""
    queue: "asyncio.Queue[bytes | None]" = field(default_factory=asyncio.Queue)
    queued_bytes: int = 0
    position: RecordVersion = NO_VERSION
    """What has been queued for it."""
    acknowledged: RecordVersion = NO_VERSION
    stamp: int | None = None
    """Its newest ping."""
    stamped_at: float | None = None
    """When that ping came, on our monotonic clock; no lease of its own can count from later."""
    cut: str | None = None
    """Why it is being cut."""
    at_once: Callable[[bytes], bool] = never
    """Sends a response now if the peer takes it; says whether it did."""
    is_waiting: bool = False
    """Whether everything that was queued has been sent."""
    is_consistent: bool = False
    """Whether it has had all of its snapshot."""
    owed: int | None = None
    """A lease that waits for that: what the snapshot comes upon may take it away."""

    def offer(self, data: bytes) -> None:
        """Send or queue a response, or cut the watcher when it has fallen behind."""
        if self.cut is not None:
            return
        if self.is_waiting and self.queue.empty() and self.at_once(data):
            # Nearly always: a queue and the task behind it cost three times as much as sending.
            return
        if self.queue.qsize() >= QUEUE_LIMIT or self.queued_bytes + len(data) > QUEUE_LIMIT_BYTES:
            self.end("fell behind")
            return
        self.queued_bytes += len(data)
        self.queue.put_nowait(data)

    def grant(self, stamp: int) -> None:
        """Offer the lease that echoes ``stamp``."""
        if self.is_consistent:
            self.offer(pb.WatchResponse(lease=pb.WatchResponse.Lease(stamp=stamp)).SerializeToString())
        else:
            self.owed = stamp

    def end(self, reason: str) -> None:
        """Cut the watcher."""
        self.cut = reason
        self.queue.put_nowait(None)
