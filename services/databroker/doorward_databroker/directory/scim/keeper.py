"""Holds the lease of a directory that pushes for as long as it can be had; the storage serves only then."""

import asyncio

import structlog

from doorward.clock import Clock
from doorward.errors import ConflictError, DoorwardError
from doorward.records.client import RecordClient
from doorward.records.lease import hold_lease
from doorward.telemetry.seldom import Seldom
from doorward_databroker.directory.scim.storage import ScimStorage

_LEASE_SECONDS = 15.0
_WAIT_SECONDS = 1.0

_log = structlog.stdlib.get_logger(__name__)


async def keep_serving(
    directory_id: str, storage: ScimStorage, client: RecordClient, holder: str, clock: Clock
) -> None:
    """Let ``storage`` serve while the lease is ours, until cancelled."""
    seldom = Seldom(_log, clock)
    while True:
        try:
            async with hold_lease(client, f"directory/{directory_id}", holder, _LEASE_SECONDS) as lease:
                storage.hold(lease.fence)
                try:
                    await lease.lost.wait()
                finally:
                    storage.hold(None)
        except ConflictError:
            pass  # another replica serves it
        except DoorwardError as error:
            seldom.warning("a pushed directory cannot be served now", directory=directory_id, reason=str(error))
        await asyncio.sleep(_WAIT_SECONDS)
