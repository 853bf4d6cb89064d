"""One directory read and written: all of it, or nothing."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from doorward.clock import Clock
from doorward.config.directory_settings import DirectorySettings
from doorward.errors import NotFoundError
from doorward.identity.directory import (
    GROUP_TYPE,
    STATE_TYPE,
    USER_TYPE,
    DirectoryGroup,
    DirectoryState,
)
from doorward.records.client import Revoked
from doorward.records.record import Fence, Record, RecordVersion, Write
from doorward_databroker.directory.plan import Plan, Stored, make_plan
from doorward_databroker.directory.port import Phase, Progress, Source
from doorward_databroker.directory.roster import Roster

_REVOKES_AT_ONCE = 16

_log = structlog.stdlib.get_logger(__name__)


class Records(Protocol):
    """The databroker, as far as directories need it (``doorward.records.client.RecordClient``)."""

    async def get(self, record_type: str, record_id: str) -> Record:
        """The live record."""
        ...

    def list(self, record_type: str) -> AsyncIterator[Record]:
        """Every live record of a type."""
        ...

    def query(self, record_type: str, index: str, value: str) -> AsyncIterator[Record]:
        """Every live record whose index has this value."""
        ...

    async def put(self, writes: Sequence[Write], fence: Fence | None = None) -> tuple[RecordVersion, ...]:
        """Write all or nothing, and only while the lease of ``fence`` was not taken again."""
        ...

    async def revoke(self, *, user_id: str) -> Revoked:
        """End the sessions of a user."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run did."""

    users: int
    groups: int
    written: int
    sessions_ended: int


async def synchronise(
    settings: DirectorySettings,
    source: Source,
    records: Records,
    clock: Clock,
    progress: Progress,
    fence: Fence,
    *,
    accept_removals: bool = False,
) -> Outcome:
    """Bring the records of a directory up to date, under the lease of ``fence``.

    Raises:
        DirectoryError: it was not read, or says what cannot be meant; nothing was written.
        ConflictError: the lease was lost on the way; whoever has it now begins anew.
        DoorwardError: the databroker failed; the next run writes the rest.
    """
    roster = Roster()
    progress.enter(Phase.READING_USERS)
    await source.read(roster, progress)
    stored = await load_stored(settings, records)
    now = clock.now()
    # Built in a thread: a large directory takes seconds, and leases must go on being renewed.
    plan = await asyncio.to_thread(make_plan, settings, roster, stored, now, accept_removals=accept_removals)
    progress.enter(Phase.WRITING, len(plan.writes))
    for batch in plan.batches():
        await records.put(batch, fence)
        progress.done += len(batch)
    ended = await end_sessions(plan, records)
    return Outcome(
        users=plan.after.state.users, groups=plan.after.state.groups, written=len(plan.writes), sessions_ended=ended
    )


async def load_stored(settings: DirectorySettings, records: Records) -> Stored:
    """What is recorded of a directory now."""
    stored = Stored()
    prefix = f"{settings.id}/"
    async for record in records.list(USER_TYPE):
        if record.id.startswith(prefix):
            stored.people[record.id] = record.data
    async for record in records.list(GROUP_TYPE):
        if record.id.startswith(prefix):
            group = DirectoryGroup.from_bytes(record.data)
            stored.groups[group.group_id] = group
    try:
        stored.state = DirectoryState.from_bytes((await records.get(STATE_TYPE, settings.id)).data)
    except NotFoundError:
        stored.state = DirectoryState()
    return stored


async def end_sessions(plan: Plan, records: Records) -> int:
    """End the sessions of whoever went inactive; authorize refuses them from the record alone, this tidies up."""
    limit = asyncio.Semaphore(_REVOKES_AT_ONCE)

    async def end(record_id: str) -> int:
        async with limit:
            ended = 0
            async for user in records.query("User", "directory_user", record_id):
                ended += (await records.revoke(user_id=user.id)).revoked
            return ended

    results = await asyncio.gather(*(end(record_id) for record_id in plan.inactive))
    if total := sum(results):
        _log.info("sessions have ended", why="inactive in the directory", sessions=total, people=len(plan.inactive))
    return total


def new_holder() -> str:
    """A random name for holding leases."""
    return secrets.token_hex(8)
