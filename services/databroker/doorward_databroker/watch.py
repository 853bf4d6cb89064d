"""One reader of the feed, many watchers.

    feed ─► reader ─► batch, encoded once for each set of types ─► each watcher's stream, or its queue when something waits there
                                                        heartbeat ─► lease ─┘ behind the batches that it vouches for

A snapshot is fuzzy: it notes the head, reads the records in id order, then replays the feed from the noted head; a watcher
applies by version, so a record that the snapshot showed newer than a change wins. A watcher that does not keep up is cut and
resumes by version and chain tag.

A stored record that does not open is skipped, and nothing of its type is vouched for until it has been written anew: watchers
of that type get no lease, and refuse by themselves before long. The databroker is not ready until then, and a place that it tells
such a watcher cannot be resumed from elsewhere: others do not know what the watcher lacks. A change that cannot be
read may have been a sign-out: watchers of its type are cut and begin with a snapshot, and nothing of the type is vouched for until all
its records have been read again.

Concurrency: belongs to one event loop. Within a watcher's queue order is the feed's order.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace

import structlog

from doorward.api.databroker.v1 import databroker_pb2 as pb
from doorward.clock import Clock
from doorward.errors import DataCorruptedError, DoorwardError, UnavailableError, WatchExpiredError
from doorward.records.record import Damaged, RecordVersion, version_message
from doorward.telemetry.seldom import Seldom
from doorward_databroker.recovery import Window, mend, stand_by
from doorward_databroker.store.port import FeedEntry, Position, RecordStore
from doorward_databroker.store.types import RECORD_TYPES
from doorward_databroker.watch_messages import BATCH_RECORDS, Encoded, joined, responses_for
from doorward_databroker.watcher import Watcher

BATCH_SECONDS = 0.005
"""Changes that come faster than this are handed out together, at the latest; where that is quickly done, more often."""
_SHORTEST_SECONDS = 0.002
_BUSY_PARTS = 2
"""Of so many parts of the time one may go into handing out; puts are waited for."""
_READ_ENTRIES = 50
"""Of the feed at once. One may hold hundreds of records, and opening them holds the loop."""
_WAIT_SECONDS = 1.0
_PAUSE_SECONDS = 0.1
_ENTER_SECONDS = 2.0
_HOLD_SECONDS = 600.0
OTHERS_SECONDS = 1.5
"""How long a databroker that has mended waits for the others; one that is dead must not keep everybody waiting."""
_LOOK_SECONDS = 0.02
_BY = b"?"
"""Between a tag, which is hexadecimal, and who told it."""

_log = structlog.stdlib.get_logger(__name__)


class WatchHub:
    """Reads the feed once and hands it to every watcher."""

    def __init__(self, store: RecordStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._seldom = Seldom(_log, clock)
        self._watchers: set[Watcher] = set()
        self._showing = 0
        self._moved = asyncio.Condition()
        self._window = Window()
        self._position: Position | None = None
        self._again_at = 0.0
        """Not before this is the feed read again."""
        self._losing: asyncio.Task[bool] | None = None
        """Done once the store is seen to have lost history; waits through many reads."""
        self.problem: str | None = None
        """Why the feed cannot be read, though the store answers."""
        self.damaged: dict[tuple[str, str], Damaged] = {}
        """Stored records that do not open, until they are written anew."""
        self.unreadable: dict[str, RecordVersion] = {}
        """Types with a change that cannot be read, the newest one, until all their records have been read again."""
        self.unreadable_entries = 0
        """How many such changes there were."""
        self._mark = secrets.token_hex(4).encode()
        """Stands behind tags that only we can resume from; see ``_suffix``."""
        self.mended = asyncio.Event()
        """Clear from when the store is seen to have lost history until what can be put back has been."""
        self.mended.set()
        self.mended_epoch = 0
        """The newest epoch for which this databroker has put back what it knew."""
        self.others_behind: Callable[[int], Collection[str]] = lambda _: ()
        """Which other databrokers have not, as far as is known."""
        self.acknowledged = asyncio.Condition()
        """Notified when a watcher acknowledges or goes."""
        self.cuts = 0
        """How many watchers were cut for being slow."""

    @property
    def position(self) -> RecordVersion | None:
        """What the reader has handed out; ``None`` until the store has answered once."""
        return None if self._position is None else self._position.version

    @property
    def watchers(self) -> frozenset[Watcher]:
        """The live ones."""
        return frozenset(self._watchers)

    @property
    def is_showing(self) -> bool:
        """Whether a watcher waits for the rest of a snapshot, and with it perhaps everybody at an authorizer that has just started."""
        return self._showing > 0

    def vouches_for(self, types: frozenset[str]) -> bool:
        """Whether every stored record of these types could be read."""
        return types.isdisjoint(self.unreadable) and not any(record_type in types for record_type, _ in self.damaged)

    def _suffix(self, types: frozenset[str]) -> bytes:
        """What is added to a tag that is told to watchers of ``types``: they may lack something up to there, and others do not know."""
        return b"" if self.vouches_for(types) else _BY + self._mark

    def resumed(self, after: Position) -> Position:
        """The place that a watcher resumes from, in the store's terms.

        Raises:
            WatchExpiredError: who told it the place did not vouch for what was seen up to there, and that was not us.
        """
        tag, _, mark = after.tag.partition(_BY)
        if mark and mark != self._mark:
            raise WatchExpiredError(f"nobody has vouched for what was seen up to `{after.version}`")
        return Position(after.version, tag)

    async def run(self) -> None:
        """Follow the feed until cancelled."""
        try:
            await self._follow()
        finally:
            if self._losing is not None:
                self._losing.cancel()

    async def _follow(self) -> None:
        task = asyncio.current_task()
        while True:
            if task is not None and task.cancelling():
                # The client's library loses a cancellation that meets an answer: it sends with Python 3.11's `wait_for`.
                raise asyncio.CancelledError
            try:
                position = self._position
                if position is None:
                    position = await self._store.head()
                    self.mended_epoch = position.version.epoch
                    await self._move(position)
                entries = await self._read(position)
                await self._stand_by(position, entries)
            except WatchExpiredError as error:
                await self._start_over(str(error))
                continue
            except DoorwardError as error:
                if isinstance(error, DataCorruptedError):
                    self.problem = f"the feed cannot be read: {error}"
                self._seldom.warning("the feed cannot be read", reason=str(error))
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            self.problem = None
            if entries:
                await self._hand_out(entries)

    async def _read(self, position: Position) -> list[FeedEntry]:
        """The next entries; stops waiting when the store is seen to have gone back."""
        early = self._again_at - self._clock.monotonic()
        if 0 < early <= BATCH_SECONDS:
            await asyncio.sleep(early)
        if self._store.lost.is_set():
            raise WatchExpiredError("the store has gone back behind what it had said")
        if self._losing is None or self._losing.done():
            self._losing = asyncio.create_task(self._store.lost.wait())
        reading = asyncio.create_task(self._store.changes(position, _READ_ENTRIES, _WAIT_SECONDS))
        try:
            await asyncio.wait({reading, self._losing}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                raise WatchExpiredError("the store has gone back behind what it had said")
            return reading.result()
        finally:
            if not reading.done():
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

    async def _stand_by(self, position: Position, entries: Sequence[FeedEntry]) -> None:
        """Make sure of what was put here and does not open in ``entries``."""
        spoiled = {entry.version for entry in entries if entry.unreadable or entry.damaged}
        if spoiled:
            put = [entry for entry in self._store.unread(position.version) if entry.version in spoiled]
            await stand_by(self._store, put, position.version, self._clock)

    async def _start_over(self, reason: str) -> None:
        """The store does not continue what was handed out: begin again, in a new epoch if history is lost and nobody has yet.

        What was handed out is put back where it is missing: whoever was signed out stays so, whatever the store forgot.
        """
        try:
            if await self._skip(reason):
                return
        except DoorwardError as error:
            self._seldom.error("the store cannot be asked whether history is lost", reason=str(error))
            await asyncio.sleep(_PAUSE_SECONDS)
            return
        self._seldom.error("the store has lost history; watchers start over", reason=reason)
        self.mended.clear()
        for watcher in tuple(self._watchers):
            watcher.end("the history is gone")
        try:
            if self._position is not None:
                await mend(self._store, self._window, self._with_unread(self._position), self._clock)
            self._window = Window()
            self.damaged.clear()
            self.unreadable.clear()  # all watchers are cut
            self._store.lost.clear()
            head = await self._store.head()
            await self._move(head)
            self.mended_epoch = head.version.epoch
            await self._wait_for_others(head.version.epoch)
            self.mended.set()
        except DoorwardError as error:
            self._seldom.error("the store cannot be mended yet", reason=str(error))
            await asyncio.sleep(_PAUSE_SECONDS)

    def _with_unread(self, position: Position) -> Position:
        """Give the window what was put here and not handed out by anybody; the place after it."""
        last = self._window.entries[-1].position if self._window.entries else position
        last = max(last, position, key=lambda place: place.version)
        unread = self._store.unread(last.version)
        self._window.add(unread)
        return unread[-1].position if unread else last

    async def _skip(self, reason: str) -> bool:
        """Whether nothing is lost, so that it is enough if all begin with a snapshot of what is there.

        Our place is in the store's history, and what comes after it cannot be had one by one: it was trimmed while we stood still, or
        an entry has lost its shape.
        """
        known = self._position
        if known is None or self._store.lost.is_set() or not await self._store.contains(known):
            return False
        unread = self._store.unread(known.version)
        if unread and not await self._store.contains(unread[-1].position):
            return False  # what was put here after it is lost, though others have put as much since
        head = await self._store.head()
        if self._store.lost.is_set() or head.version.epoch != known.version.epoch:
            return False
        await stand_by(self._store, unread, known.version, self._clock)
        try:
            await self._store.changes(head, 1, 0.001)
        except WatchExpiredError:
            return False  # it cannot be followed from there either
        oldest = await self._store.oldest()
        if oldest is not None and oldest <= known.version:
            # It was not trimmed, so it is damage: of which types, it does not say.
            self.unreadable_entries += 1
            self.unreadable = {kind.name: head.version for kind in RECORD_TYPES.values() if kind.in_feed}
        self._seldom.error(
            "changes cannot be followed; watchers take snapshots", reason=reason, since=str(known.version)
        )
        for watcher in tuple(self._watchers):
            watcher.end("changes were skipped")
        self._window = Window()
        await self._move(head)
        return True

    async def _wait_for_others(self, epoch: int) -> None:
        """Serve nobody before the other databrokers have put back what they knew: it may be a sign-out."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + OTHERS_SECONDS
        while True:
            behind = self.others_behind(epoch)
            if not behind:
                return
            if loop.time() >= deadline:
                self._seldom.warning("other databrokers have not mended the store yet", databrokers=sorted(behind))
                return
            await asyncio.sleep(_LOOK_SECONDS)

    async def report_loss(self, claimed: Position) -> None:
        """Begin anew because a watcher knows a newer history than the store has, unless that is settled already.

        A databroker that was started after the loss has nothing to compare with; what its watchers hold is the only witness. One that
        was away for so long that its place has been trimmed knows nothing newer, and begins with a snapshot like any other.
        """
        claimed = self.resumed(claimed)
        if await self._store.contains(claimed):
            return  # what comes after it cannot be read, and it begins with a snapshot
        head = await self._store.head()
        oldest = await self._store.oldest()
        is_trimmed = claimed.version <= head.version and oldest is not None and claimed.version < oldest
        if claimed.version.epoch == head.version.epoch and not is_trimmed:
            self._seldom.error("a watcher knows history that the store has lost", version=str(claimed.version))
            self._window.witness(claimed)
            self._store.lost.set()

    async def _hand_out(self, entries: Sequence[FeedEntry]) -> None:
        encoded: dict[frozenset[str], list[Encoded]] = {}
        began = self._clock.monotonic()
        self._note_damage(entries)
        self._note_unreadable(entries)
        for watcher in tuple(self._watchers):
            responses = encoded.get(watcher.types)
            if responses is None:
                responses = encoded[watcher.types] = responses_for(entries, watcher.types, self._suffix(watcher.types))
            for response in responses:
                if response.version > watcher.position:
                    watcher.offer(response.data)
            watcher.position = max(watcher.position, entries[-1].version)
            self.cuts += watcher.cut == "fell behind"
        taken = self._clock.monotonic() - began
        pause = max(_SHORTEST_SECONDS, _BUSY_PARTS * taken) if self._watchers else BATCH_SECONDS
        self._again_at = began + min(BATCH_SECONDS, pause)
        self._window.add(entries)
        await self._move(entries[-1].position)

    async def _move(self, position: Position) -> None:
        """What has been handed out reaches up to ``position``."""
        self._position = position
        async with self._moved:
            self._moved.notify_all()

    def _note_damage(self, entries: Iterable[FeedEntry]) -> None:
        for entry in entries:
            for record in entry.records:
                known = self.damaged.get((record.type, record.id))
                # An older change says nothing about it, nor does the same one: what is stored is not what the feed has.
                if known is not None and known.version < record.version:
                    del self.damaged[record.type, record.id]
            for one in entry.damaged:
                self._note(one)

    def _note_unreadable(self, entries: Iterable[FeedEntry]) -> None:
        """Cut whoever may lack a change that cannot be read. It must be before any later change moves them on."""
        for entry in entries:
            if not entry.unreadable:
                continue
            _log.error("a change cannot be read", types=sorted(entry.unreadable), version=str(entry.version))
            self.unreadable_entries += 1
            self.unreadable.update(dict.fromkeys(entry.unreadable, entry.version))
            for watcher in tuple(self._watchers):
                if not watcher.types.isdisjoint(entry.unreadable):
                    watcher.end("a change of what it watches cannot be read")

    def has_read_again(self, record_type: str, version: RecordVersion) -> None:
        """All stored records of a type have been read since a change of it at ``version`` could not be."""
        if self.unreadable.get(record_type) == version:
            del self.unreadable[record_type]

    def report(self, damaged: Iterable[Damaged]) -> None:
        """Note stored records that do not open, whoever has come upon them."""
        for one in damaged:
            # What stands beside bytes that do not open is not to be trusted: by too low a version any older change would clear it.
            newest = one.version if self._position is None else max(one.version, self._position.version)
            self._note(replace(one, version=newest))

    def _note(self, one: Damaged) -> None:
        known = self.damaged.get((one.type, one.id))
        if known is not None and known.version > one.version:
            return
        kind = RECORD_TYPES.get(one.type)
        if kind is not None and not kind.in_feed:
            return  # nobody would hear that it was written anew
        if known is None:
            _log.error("a stored record does not open", type=one.type, id=one.id, reason=one.reason)
        self.damaged[one.type, one.id] = one

    def look_later(self, one: Damaged) -> None:
        """Put it behind the others that do not open, if it still is among them."""
        newest = self.damaged.pop((one.type, one.id), None)
        if newest is not None:
            self.damaged[one.type, one.id] = newest

    def is_written_anew(self, one: Damaged, version: RecordVersion) -> None:
        """It opens, and watchers get it as the change at ``version``, whichever version it seemed to have before."""
        known = self.damaged.get((one.type, one.id))
        if known is None:
            return
        if self._position is not None and self._position.version >= version:
            del self.damaged[one.type, one.id]
        else:
            self.damaged[one.type, one.id] = replace(known, version=RecordVersion(version.epoch, version.number - 1))

    async def wait_for(self, version: RecordVersion, seconds: float) -> bool:
        """Whether everything up to ``version`` has been handed out within ``seconds``."""

        def reached() -> bool:
            return self._position is not None and self._position.version >= version

        async with self._moved:
            try:
                async with asyncio.timeout(seconds):
                    await self._moved.wait_for(reached)
            except TimeoutError:
                return False
        return True

    async def watch(self, watcher: Watcher, after: Position | None) -> AsyncIterator[bytes]:
        """Everything for ``watcher``, encoded: a snapshot unless it resumes, then changes and leases.

        Raises:
            WatchExpiredError: ``after`` cannot be resumed from.
            UnavailableError: the watcher was cut; it resumes by version.
        """
        hold = f"{watcher.id}-{secrets.token_hex(4)}"
        if after is None:
            await self._store.hold(hold, _HOLD_SECONDS)
        try:
            start = await self._store.head() if after is None else self.resumed(after)
            # From here on the reader queues for this watcher; what the replay below covers is skipped by position.
            entered = await self._enter(watcher, start.version)
            if after is None:
                self._showing += 1
                try:
                    async for page in self._snapshot(watcher.types):
                        yield page
                finally:
                    self._showing -= 1
            async for response in self._replay(watcher.types, start, entered.version):
                yield response.data
            if after is None:
                await self._store.release(hold)
            consistent = pb.WatchResponse.Consistent(
                version=version_message(entered.version),
                tag=entered.tag + self._suffix(watcher.types),
                types=watcher.if_known,
            )
            yield pb.WatchResponse(consistent=consistent).SerializeToString()
            watcher.is_consistent = True
            if watcher.owed is not None and self.vouches_for(watcher.types):
                watcher.grant(watcher.owed)
            while True:
                # INVARIANT: while this is set, and the queue is empty, nothing is on its way that must go first.
                watcher.is_waiting = True
                queued = await watcher.queue.get()
                watcher.is_waiting = False
                if queued is None:
                    raise UnavailableError(f"the watch is cut: {watcher.cut}")
                watcher.queued_bytes -= len(queued)
                yield queued
        finally:
            watcher.is_waiting = False
            self._watchers.discard(watcher)
            async with self.acknowledged:
                self.acknowledged.notify_all()

    async def _enter(self, watcher: Watcher, start: RecordVersion) -> Position:
        """Admit ``watcher`` to the live feed and return the position from which it is served there."""
        if self._position is not None and self._position.version < start:
            head = await self._store.head()
            if head.version < start and head.version.epoch == start.epoch:
                # Waiting would be for somebody's next puts, which get these numbers anew.
                raise WatchExpiredError(f"`{start}` is newer than anything that the store has")
        is_older = self._position is not None and start.epoch < self._position.version.epoch
        if is_older or not await self.wait_for(start, _ENTER_SECONDS) or self._position is None:
            if self._position is not None and start.epoch != self._position.version.epoch:
                raise WatchExpiredError(f"`{start}` belongs to another epoch")
            raise UnavailableError("the feed is not being read")
        if start.epoch != self._position.version.epoch:
            raise WatchExpiredError(f"`{start}` belongs to another epoch")
        watcher.position = self._position.version
        self._watchers.add(watcher)
        return self._position

    async def _snapshot(self, types: frozenset[str]) -> AsyncIterator[bytes]:
        for record_type in sorted(types):
            async with aclosing(self._store.snapshot(record_type, BATCH_RECORDS)) as pages:
                async for page in pages:
                    self.report(page.damaged)
                    if page.records:
                        yield joined(page.records)

    async def _replay(self, types: frozenset[str], start: Position, until: RecordVersion) -> AsyncIterator[Encoded]:
        """The changes after ``start``, up to where the live feed takes over; checks that ``start`` is in the history.

        Raises:
            WatchExpiredError: it is not, or one of the changes cannot be read.
        """
        position = start
        while True:
            entries = await self._store.changes(position, _READ_ENTRIES, 0.001)
            wanted = [entry for entry in entries if entry.version <= until]
            for entry in wanted:
                if not types.isdisjoint(entry.unreadable):
                    raise WatchExpiredError(f"the change at `{entry.version}` cannot be read")
            self._note_damage(wanted)
            for response in responses_for(wanted, types, self._suffix(types)):
                yield response
            if not wanted or len(wanted) < len(entries):
                return
            position = wanted[-1].position
