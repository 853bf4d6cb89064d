"""A lease held while a piece of work runs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from doorward.errors import ConflictError, DoorwardError
from doorward.records.client import RecordClient
from doorward.records.record import Fence
from doorward.telemetry.background import watched


class HeldLease:
    """A lease that is renewed in the background."""

    def __init__(self, fence: Fence) -> None:
        self.fence = fence
        """To be given with every write made under the lease; refused once somebody has taken it since."""
        self.lost = asyncio.Event()
        """Set once the lease could not be renewed: somebody else may hold it now, so stop."""


@asynccontextmanager
async def hold_lease(client: RecordClient, name: str, holder: str, seconds: float) -> AsyncIterator[HeldLease]:
    """Hold the lease ``name`` for as long as the block runs, renewing it at a third of its life.

    Raises:
        ConflictError: somebody else holds it.
    """
    fencing_number = await client.acquire_lease(name, holder, seconds)
    if fencing_number is None:
        raise ConflictError(f"the lease `{name}` is held by somebody else")
    held = HeldLease(Fence(name, holder, fencing_number))
    # Whatever has ended the renewing, the lease runs out.
    renewing = watched(
        asyncio.create_task(_renew(client, name, holder, seconds, held)), f"renewing the lease {name}", held.lost.set
    )
    try:
        yield held
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
        if not held.lost.is_set():
            # It runs out on its own; giving it back only spares the next holder the wait.
            with contextlib.suppress(DoorwardError):
                await client.release_lease(name, holder)


async def _renew(client: RecordClient, name: str, holder: str, seconds: float, held: HeldLease) -> None:
    loop = asyncio.get_running_loop()
    good_until = loop.time() + seconds
    while True:
        await asyncio.sleep(seconds / 3)
        asked = loop.time()
        try:
            renewed = await client.renew_lease(name, holder, seconds)
        except DoorwardError:
            renewed = asked < good_until - seconds / 3  # not reached: still ours until shortly before it runs out
        else:
            good_until = asked + seconds
        if not renewed:
            held.lost.set()
            return
