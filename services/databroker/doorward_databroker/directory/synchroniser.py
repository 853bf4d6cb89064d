"""One directory read and written: all of it, or nothing."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, MutableSequence, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from doorward.clock import Clock
from doorward.config.directory_settings import DirectorySettings
from doorward.errors import DataCorruptedError, NotFoundError
from doorward.identity.directory import (
    GROUP_TYPE,
    STATE_TYPE,
    USER_TYPE,
    DirectoryGroup,
    DirectoryState,
)
from doorward.records.client import Revoked
from doorward.records.record import Damaged, Fence, Record, RecordVersion, Write
from doorward_databroker.directory.plan import Plan, Stored, make_plan, unreadable_person, unused_number
from doorward_databroker.directory.port import Phase, Progress, Source
from doorward_databroker.directory.roster import Roster

_REVOKES_AT_ONCE = 16
_LONGEST_PAUSE_SECONDS = 0.5
_PAUSES_SECONDS = 10.0
"""In all: a first reading of a large directory takes long enough as it is."""

_log = structlog.stdlib.get_logger(__name__)


class Records(Protocol):
    """The databroker, as far as directories need it (``doorward.records.client.RecordClient``)."""

    async def get(self, record_type: str, record_id: str) -> Record:
        """The live record."""
        ...

    def list(self, record_type: str, damaged: MutableSequence[Damaged] | None = None) -> AsyncIterator[Record]:
        """Every live record of a type; what does not open goes into ``damaged``, or fails the list."""
        ...

    def query(
        self, record_type: str, index: str, value: str, damaged: MutableSequence[Damaged] | None = None
    ) -> AsyncIterator[Record]:
        """Every live record whose index has this value; for ``damaged`` see ``list``."""
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
    pause, left = 0.0, _PAUSES_SECONDS
    for batch in plan.batches():
        # Half of the time is others', as long as that is bearable: everybody who follows the records takes these too, beside what
        # they are there for. Behind the last one sessions end, and they do not wait.
        await asyncio.sleep(pause)
        began = time.monotonic()
        await records.put(batch, fence)
        pause = min(time.monotonic() - began, _LONGEST_PAUSE_SECONDS, left)
        left -= pause
        progress.done += len(batch)
    ended = await end_sessions(plan, records)
    return Outcome(
        users=plan.after.state.users, groups=plan.after.state.groups, written=len(plan.writes), sessions_ended=ended
    )


async def load_stored(settings: DirectorySettings, records: Records) -> Stored:
    """What is recorded of a directory now. Its records that do not open are written anew by whoever compares with this.

    A person of whom nothing can be read is gone unless the directory has them; a group's number is not used again.
    """
    stored = Stored()
    prefix = f"{settings.id}/"
    damaged: list[Damaged] = []
    async for record in records.list(USER_TYPE, damaged):
        if record.id.startswith(prefix):
            stored.people[record.id] = record.data
    async for record in records.list(GROUP_TYPE, damaged):
        if record.id.startswith(prefix):
            group = DirectoryGroup.from_bytes(record.data)
            stored.groups[group.group_id] = group
    for one in damaged:
        if one.id.startswith(prefix):
            _log.error("a record of a directory does not open and is written anew", type=one.type, id=one.id)
            if one.type == USER_TYPE:
                stored.people[one.id] = unreadable_person(settings.id).to_bytes()
            elif (number := one.id.removeprefix(prefix)).isdigit():
                stored.damaged_groups.add(int(number))
    try:
        stored.state = DirectoryState.from_bytes((await records.get(STATE_TYPE, settings.id)).data)
    except NotFoundError:
        stored.state = DirectoryState(next_group_number=await asyncio.to_thread(unused_number, stored))
    except DataCorruptedError as error:
        _log.error(
            "a record of a directory does not open and is written anew",
            type=STATE_TYPE,
            id=settings.id,
            reason=str(error),
        )
        stored.state = DirectoryState(next_group_number=await asyncio.to_thread(unused_number, stored))
    return stored


async def end_sessions(plan: Plan, records: Records) -> int:
    """End the sessions of whoever went inactive; authorize refuses them from the record alone, this tidies up."""
    limit = asyncio.Semaphore(_REVOKES_AT_ONCE)

    async def end(record_id: str) -> int:
        async with limit:
            ended = 0
            damaged: list[Damaged] = []
            async for user in records.query("User", "directory_user", record_id, damaged):
                ended += (await records.revoke(user_id=user.id)).revoked
            for one in damaged:
                # Its id is all that is needed; that it may be another's does no harm that a new sign-in does not mend.
                ended += (await records.revoke(user_id=one.id)).revoked
            return ended

    results = await asyncio.gather(*(end(record_id) for record_id in plan.inactive))
    if total := sum(results):
        _log.info("sessions have ended", why="inactive in the directory", sessions=total, people=len(plan.inactive))
    return total


def new_holder() -> str:
    """A random name for holding leases."""
    return secrets.token_hex(8)
