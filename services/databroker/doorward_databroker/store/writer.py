"""Puts in Redis: sealed for the versions that come next, sent in order, many on one round trip.

    put ─► queue ─► [seal for head+1, head+2, …] ─► one pipeline of scripts ─► ok │ done │ conflict ─► the caller
             ▲                                                                 └ moved, stale ─┐
             └─────────────────────────────────────────────────────────────────────────────────┘

A version is part of what a seal authenticates, so it must be known before the script runs. What it will be is only a guess,
which the script checks: when another databroker was faster, everything still queued is sealed for other versions and sent again.
Under load the queue makes one append to the server's log serve many puts.

Concurrency: one drain task; callers may be cancelled at any time, their writes may then still happen.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import NoScriptError

from doorward.clock import Clock
from doorward.errors import (
    ConflictError,
    DataCorruptedError,
    DoorwardError,
    InvalidArgumentError,
    OutcomeUnknownError,
    UnavailableError,
    WatchExpiredError,
)
from doorward.records.record import NO_VERSION, Fence, Record, RecordVersion, Write
from doorward_databroker.store.codec import Codec
from doorward_databroker.store.connection import Call, Link, Script, refusal
from doorward_databroker.store.feed import entry_of, fields_of, names_in, version_from
from doorward_databroker.store.indexing import Indexing
from doorward_databroker.store.keyspace import Keyspace
from doorward_databroker.store.port import FeedEntry, Position
from doorward_databroker.store.types import INDEX_ENTRIES_LIMIT, type_of
from doorward_databroker.store.unread import Unread, is_same

FEED_LENGTH = 400_000
"""Entries at which a put trims the feed itself, should nobody else do it."""
CHAIN_LENGTH = 1_000_000
"""Puts whose tags are kept: a databroker that stood still for longer than the history learns by them that nothing is lost."""
RESULT_MS = 60_000
"""How long a request's outcome is kept for its repeats; callers give up long before."""
TOMBSTONE_MS = 24 * 3600 * 1000
ENDLESS_TOMBSTONE_MS = 30 * 24 * 3600 * 1000
_BATCH_JOBS = 64
_BATCH_WRITES = 500
_TRIES = 60
_UNKNOWN_TRIES = 2
_PAUSE_SECONDS = 0.05


@dataclass(slots=True, eq=False)
class _Job:
    writes: Sequence[Write]
    request_id: str
    fence: Fence | None
    answer: "asyncio.Future[tuple[RecordVersion, ...]]"
    tries: int = 0
    unknown: int = 0
    leaving: list[list[str]] | None = None
    """Index entries to leave, once read; most puts change none."""
    versions: list[RecordVersion] = field(default_factory=list)
    tag: bytes = b""
    changed: list[Record] = field(default_factory=list)
    """What of it is in the feed."""

    @property
    def must_read(self) -> bool:
        return self.leaving is None and any(
            write.record.deleted and type_of(write.record.type).has_indexes for write in self.writes
        )


class Writer:
    """The one way in which records are written."""

    def __init__(
        self,
        link: Link,
        keys: Keyspace,
        codec: Codec,
        indexing: Indexing,
        clock: Clock,
        head: Callable[[], Awaitable[Position]],
        heard: Callable[[Sequence[Any], RecordVersion | None], Awaitable[Position]],
    ) -> None:
        self._link = link
        self._keys = keys
        self._codec = codec
        self._indexing = indexing
        self._clock = clock
        self._ask_head = head
        self._heard = heard
        self._script = Script.load("put")
        self._queue: deque[_Job] = deque()
        self._draining: asyncio.Task[None] | None = None
        self.unread = Unread()
        self.newest: RecordVersion | None = None
        """The newest head that was ever heard or made; the store must never fall behind it."""
        self.guess: Position | None = None
        """The head as last heard; the script checks it."""

    async def put(self, writes: Sequence[Write], request_id: str, fence: Fence | None) -> tuple[RecordVersion, ...]:
        """See ``RecordStore.put``."""
        job = _Job(writes, request_id, fence, asyncio.get_running_loop().create_future())
        self._queue.append(job)
        if self._draining is None or self._draining.done():
            self._draining = asyncio.create_task(self._drain(), name="puts")
        return await job.answer

    def note(self, version: RecordVersion) -> None:
        """The history reaches up to here at least."""
        if self.newest is None or version > self.newest:
            self.newest = version

    async def close(self) -> None:
        """Give up what is queued."""
        if self._draining is not None:
            self._draining.cancel()
            await asyncio.gather(self._draining, return_exceptions=True)
        for job in self._queue:
            job.answer.cancel()

    async def _drain(self) -> None:
        while self._queue:
            jobs: list[_Job] = []
            size = 0
            while self._queue and len(jobs) < _BATCH_JOBS and (not jobs or size < _BATCH_WRITES):
                job = self._queue.popleft()
                if not job.answer.done():
                    jobs.append(job)
                    size += len(job.writes)
            if not jobs:
                continue
            try:
                again = await self._send(jobs)
            except OutcomeUnknownError as error:
                self.guess = None
                again = self._unknown(jobs, error)
                await asyncio.sleep(_PAUSE_SECONDS)
            except Exception as error:
                # Whatever it was, the callers must hear of it; the next put begins afresh.
                self.guess = None
                for job in jobs:
                    # "Nothing was done" is about this try; an earlier one may have been carried out.
                    _fail([job], OutcomeUnknownError(str(error)) if job.unknown else error)
                continue
            self._queue.extendleft(reversed(again))

    def _unknown(self, jobs: Sequence[_Job], error: OutcomeUnknownError) -> list[_Job]:
        """Those worth asking again: a repeat of a request returns its first outcome and writes nothing."""
        again = []
        for job in jobs:
            job.unknown += 1
            if job.unknown < _UNKNOWN_TRIES:
                again.append(job)
            else:
                _fail([job], error)
        return again

    async def _send(self, jobs: Sequence[_Job]) -> list[_Job]:
        """Send them in order and return those that must be sent again."""
        head = self.guess or await self._ask_head()
        await self._read_leaving([job for job in jobs if job.must_read])
        calls = []
        for job in jobs:
            call, head = self._call(job, head)
            calls.append(call)
        known = self.newest
        answers = await self._link.write_all(calls)
        again = []
        for job, answer in zip(jobs, answers, strict=True):
            if await self._settle(job, answer, known):
                job.tries += 1
                if job.tries < _TRIES:
                    again.append(job)
                else:
                    _fail([job], UnavailableError("too many writers at once"))
        return again

    async def _read_leaving(self, jobs: Sequence[_Job]) -> None:
        """Learn which index entries the stored records are under."""
        if not jobs:
            return
        commands = [
            ("HGET", self._keys.record(write.record.type, write.record.id), "i") for job in jobs for write in job.writes
        ]
        rows = iter(await self._link.run(*commands))
        for job in jobs:
            job.leaving = [[key.decode() for key in (next(rows) or b"").split(b"\n") if key] for _ in job.writes]

    def _call(self, job: _Job, head: Position) -> tuple[Call, Position]:
        """The script's call that puts ``job`` after ``head``, and the head that this makes."""
        now = self._clock.now()
        number = head.version.number
        fence = self._keys.meta if job.fence is None else self._keys.fence(job.fence.lease)
        keys = [self._keys.meta, self._keys.feed, self._keys.request(job.request_id), fence, self._keys.chain]
        body: list[Any] = []
        job.versions, job.changed = [], []
        room = INDEX_ENTRIES_LIMIT
        for place, write in enumerate(job.writes):
            in_feed = type_of(write.record.type).in_feed
            number += in_feed
            version = RecordVersion(head.version.epoch, number) if in_feed else NO_VERSION
            # What is outside the feed has no number, and says in which history it was written all the same.
            job.versions.append(version if in_feed else RecordVersion(head.version.epoch, 0))
            record = _written(write.record, version, now)
            if in_feed:
                job.changed.append(record)
            entering = self._indexing.entries(record, room)
            room -= len(entering)
            stored_under = job.leaving[place] if job.leaving is not None else []
            entered = set(entering)
            leaving = [key for key in stored_under if key not in entered]
            keys += [
                self._keys.record(record.type, record.id), self._keys.listing(record.type),
                self._keys.ends(record.type), *leaving, *entering,
            ]  # fmt: skip
            precondition = "absent" if write.absent else str(write.expected) if write.expected is not None else ""
            ends = "" if record.expires_at is None else str(int(record.expires_at * 1000))
            body += [record.type, record.id, int(in_feed), int(record.deleted), precondition, ends]
            body += [str(version), self._codec.encode(record), len(leaving), len(entering)]
        job.tag = secrets.token_hex(8).encode()
        arguments = [
            head.version.epoch, head.version.number, head.tag, job.tag, int(now * 1000), RESULT_MS, FEED_LENGTH,
            CHAIN_LENGTH, TOMBSTONE_MS, ENDLESS_TOMBSTONE_MS,
            "" if job.fence is None else f"{job.fence.number} {job.fence.holder}",
            self._codec.attest(names_in(head.version, [(record.type, record.id) for record in job.changed])),
            ",".join(map(str, job.versions)), len(job.writes), *body,
        ]  # fmt: skip
        after = head
        if number != head.version.number:
            after = Position(RecordVersion(head.version.epoch, number), job.tag)
        return Call(self._script, keys, arguments), after

    async def _settle(self, job: _Job, answer: Any, known: RecordVersion | None) -> bool:
        """Tell the caller what became of it; whether it must be sent again instead. ``known`` is the head when it was sent."""
        if isinstance(answer, NoScriptError):
            return True
        if isinstance(answer, Exception):
            _fail([job], refusal(answer))
            return False
        match answer[0]:
            case b"ok":
                if job.changed:
                    self.guess = Position(job.changed[-1].version, job.tag)
                    self.note(self.guess.version)
                    self.unread.add(FeedEntry(self.guess.version, tuple(job.changed), job.tag))
                _tell(job, tuple(job.versions))
            case b"done":
                await self._settle_repeat(job, answer[1])
            case b"moved":
                self.guess = await self._heard(answer[1:4], known)
                return True
            case b"stale":
                await self._read_leaving([job])
                return True
            case b"fenced":
                _fail([job], ConflictError("the lease has been taken by somebody else since"))
            case b"conflict":
                kind = job.writes[int(answer[1]) - 1].record.type
                _fail([job], ConflictError(f"the stored `{kind}` is not as expected"))
            case b"endless":
                kind = job.writes[int(answer[1]) - 1].record.type
                _fail([job], InvalidArgumentError(f"the `{kind}` ends at no time that the store can count"))
            case _:
                _fail([job], OutcomeUnknownError("the store gave an answer that is not understood"))
        return False

    async def _settle_repeat(self, job: _Job, outcome: bytes) -> None:
        """Tell the caller what became of the first one, and remember that: who put it may not have heard that it was confirmed.

        Where the feed does not have it any more, or has another put there, nobody can say that it happened.
        """
        try:
            versions = tuple(version_from(part) for part in outcome.split(b","))
            numbered = [version for version in versions if version.number]
            if [bool(version.number) for version in versions] != [bool(version.number) for version in job.versions]:
                raise DataCorruptedError("it is another put's")
            if numbered:
                first = await self._first(numbered[0], numbered[-1])
                if not is_same(first.records, job.changed):
                    raise DataCorruptedError("the history has another put there")
                self.note(first.version)
                self.unread.add(first)
        except DoorwardError as error:
            _fail([job], OutcomeUnknownError(f"the first outcome of a repeated put cannot be confirmed: {error}"))
        else:
            _tell(job, versions)

    async def _first(self, begin: RecordVersion, end: RecordVersion) -> FeedEntry:
        """The entry of the feed that has these versions."""
        place = f"{end.epoch}-{end.number}"
        (found,) = await self._link.run(("XRANGE", self._keys.feed, place, place))
        if not found:
            raise WatchExpiredError("it is not in the history")
        before = RecordVersion(begin.epoch, begin.number - 1)
        return entry_of((found[0][0], fields_of(found[0][1])), before, self._codec)


def _written(record: Record, version: RecordVersion, now: float) -> Record:
    """``record`` as it is stored; of a deleted one nothing is kept. Said field by field: ``replace`` costs three times as much."""
    if record.deleted:
        return Record(type=record.type, id=record.id, version=version, modified_at=now, deleted=True)
    return Record(
        type=record.type,
        id=record.id,
        version=version,
        data=record.data,
        modified_at=now,
        expires_at=record.expires_at,
        indexes=record.indexes,
    )


def _tell(job: _Job, versions: tuple[RecordVersion, ...]) -> None:
    if not job.answer.done():
        job.answer.set_result(versions)


def _fail(jobs: Sequence[_Job], error: Exception) -> None:
    for job in jobs:
        if not job.answer.done():
            # Each caller its own: an exception that is raised twice would grow its traceback.
            fresh = type(error)(str(error)) if isinstance(error, DoorwardError) else error
            job.answer.set_exception(fresh)
