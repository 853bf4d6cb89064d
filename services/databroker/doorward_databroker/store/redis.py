"""Records on Redis or Valkey (the Redis 7.0 command set). ``keyspace`` has the keys, ``writer`` how a put works.

Every feed entry carries a random tag and its predecessor's, so that a history that was cut and grown again (failover, a
truncated file, a restore) is noticed even where the numbers fit: then the epoch is raised and watchers start over.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Collection, Sequence
from typing import Any

import structlog

from doorward.api.databroker.v1 import databroker_pb2
from doorward.clock import Clock
from doorward.errors import DataCorruptedError, NotFoundError, WatchExpiredError
from doorward.records.record import NO_VERSION, Damaged, Fence, Record, RecordVersion, Write, record_of
from doorward_databroker.store.codec import Codec, decode
from doorward_databroker.store.connection import BLOCK_SECONDS, Call, Link, Script
from doorward_databroker.store.feed import RawEntry, chained, fields_of, position_of, readable_version, version_from
from doorward_databroker.store.floor import GONE_BACK, Floor, Row
from doorward_databroker.store.indexing import Indexing, ids_after, merged, under
from doorward_databroker.store.keyspace import Keyspace
from doorward_databroker.store.migration import SCHEMA, Migration, check_schema, schema_of
from doorward_databroker.store.port import Beat, Expired, FeedEntry, OlderStateError, Page, Position, SnapshotPage
from doorward_databroker.store.types import PAGE_BYTES, check_batch, check_index, type_of
from doorward_databroker.store.writer import Writer

_FIELDS = ("v", "d", "b")
_HEARTBEAT = "Heartbeat"
_SLICE = 50
"""Records that are opened in one go; half a millisecond's worth."""
_LOOKUPS = 200
"""Index values that are looked up in one go."""
_SILENT_MS = 60_000
"""A databroker that has said nothing for this long is forgotten; its leases ended long before."""

_log = structlog.stdlib.get_logger(__name__)


class RedisStore:
    """The store on one Redis or Valkey, however that one is found."""

    def __init__(self, link: Link, codec: Codec, clock: Clock, keys: Keyspace | None = None) -> None:
        self._link = link
        self._codec = codec
        self._clock = clock
        self._keys = keys or Keyspace()
        self._open = Script.load("open")
        self._raise_epoch = Script.load("epoch")
        self._lease = Script.load("lease")
        self._trim = Script.load("trim")
        self._beat = Script.load("beat")
        self._rows_script = Script.load("rows")
        self._indexing = Indexing(link, self._keys, codec)
        self._writer = Writer(link, self._keys, codec, self._indexing, clock, self.head, self._heard)
        self._floor = Floor(self._between)
        self._migration = Migration(link, self._keys)
        self._migrating = asyncio.Lock()
        self._has_our_form = False
        self.lost = asyncio.Event()

    async def close(self) -> None:
        """Close every connection."""
        await self._writer.close()
        await self._link.close()

    async def get(self, record_type: str, record_id: str) -> Record:
        """See ``RecordStore.get``."""
        type_of(record_type)
        await self._in_our_form()
        record = self._decode(record_type, record_id, await self._row(record_type, record_id))
        if record is None and type_of(record_type).in_feed:
            record = await self._found_again(record_type, record_id)
        if record is None or not record.is_live(self._clock.now()):
            raise NotFoundError(f"no `{record_type}` of this id")
        return record

    async def _found_again(self, record_type: str, record_id: str) -> Record | None:
        """What is stored by now of a record that was not there; ``None`` when it is not listed either.

        Raises:
            DataCorruptedError: it is listed, and not there: it has vanished. A deletion leaves a tombstone, for as long as it counts.
        """
        if not await self._listed(record_type, [record_id]):
            return None
        row = await self._row(record_type, record_id)
        if row[0] is None:
            raise DataCorruptedError(f"a stored `{record_type}` has vanished")
        return self._decode(record_type, record_id, row)

    async def _row(self, record_type: str, record_id: str) -> Row:
        seen = self._floor.seen
        rows = await self._link.run(("HMGET", self._keys.record(record_type, record_id), *_FIELDS))
        return self._floor.checked(record_type, [record_id], rows, seen)[0]

    async def _listed(self, record_type: str, ids: Sequence[str]) -> list[str]:
        """Those of ``ids`` that should be there."""
        listing = self._keys.listing(record_type)
        found = await self._link.run(*(("ZRANGE", listing, f"[{name}", f"[{name}", "BYLEX") for name in ids))
        return [name for name, there in zip(ids, found, strict=True) if there]

    async def _vanished(
        self, record_type: str, ids: Sequence[str], rows: Sequence[Sequence[bytes | None]]
    ) -> list[Damaged]:
        """Those of ``ids`` that are listed and not there; see ``_found_again``. What only an index still names has ended long ago."""
        absent = [name for name, row in zip(ids, rows, strict=True) if row[0] is None]
        listed = await self._listed(record_type, absent) if absent else []
        return [Damaged(record_type, name, NO_VERSION, f"a stored `{record_type}` has vanished") for name in listed]

    async def stored_version(self, record_type: str, record_id: str) -> tuple[RecordVersion, bool] | None:
        """See ``RecordStore.stored_version``."""
        await self._in_our_form()
        (row,) = await self._link.run(("HMGET", self._keys.record(record_type, record_id), "v", "d"))
        return None if row[0] is None else (readable_version(row[0]), row[1] == b"1")

    async def page(self, record_type: str, after_id: str, limit: int) -> Page:
        """See ``RecordStore.page``."""
        type_of(record_type)
        return await self._page([self._keys.listing(record_type)], record_type, after_id, limit)

    async def snapshot(self, record_type: str, limit: int) -> AsyncGenerator[SnapshotPage, None]:
        """See ``RecordStore.snapshot``. What was sealed is a serialized record already, so it is passed on as it is."""
        type_of(record_type)
        ids = await self._ids_after(record_type, "", limit)
        reading = asyncio.create_task(self._read_ahead(record_type, ids, limit))
        try:
            while ids:
                rows, following = await reading
                # The server reads these while we open the ones that we have.
                reading = asyncio.create_task(self._read_ahead(record_type, following, limit))
                yield await self._opened(record_type, ids[: len(rows)], rows)
                ids = following
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read_ahead(self, record_type: str, ids: Sequence[str], limit: int) -> tuple[list[Row], list[str]]:
        """What is stored of ``ids``, and the ids that come after them."""
        if not ids:
            return [], []
        rows, following = await asyncio.gather(
            self._rows_of(record_type, ids), self._ids_after(record_type, ids[-1], limit)
        )
        return rows, list(ids[len(rows) :]) or following

    async def _ids_after(self, record_type: str, after_id: str, limit: int) -> list[str]:
        await self._in_our_form()  # for each page: a newer version may begin to migrate while we read
        (found,) = await self._link.run(ids_after(self._keys.listing(record_type), after_id, limit))
        return merged([found])

    async def _rows_of(self, record_type: str, ids: Sequence[str]) -> list[Row]:
        """What is stored of the first of ``ids``: of all, unless that would be too much at once."""
        keys = [self._keys.record(record_type, record_id) for record_id in ids]
        seen = self._floor.seen
        found = await self._link.read(Call(self._rows_script, keys, [PAGE_BYTES]))
        return self._floor.checked(record_type, ids, zip(found[::3], found[1::3], found[2::3], strict=True), seen)

    async def _opened(
        self, record_type: str, ids: Sequence[str], rows: Sequence[Sequence[bytes | None]]
    ) -> SnapshotPage:
        """The live ones among ``rows``, a few at a time, so that others have their turn in between."""
        now = self._clock.now()
        records: list[bytes] = []
        damaged = await self._vanished(record_type, ids, rows)
        for position, (record_id, row) in enumerate(zip(ids, rows, strict=True)):
            if position % _SLICE == 0:
                await asyncio.sleep(0)
            try:
                message = self._message(record_type, record_id, row)
            except DataCorruptedError as error:
                damaged.append(_damaged(record_type, record_id, row, error))
                continue
            if message is None or message.deleted:
                continue
            if message.HasField("expires_at") and message.expires_at.seconds + message.expires_at.nanos * 1e-9 <= now:
                continue
            records.append(message.SerializeToString())
        return SnapshotPage(tuple(records), tuple(damaged))

    async def query(self, record_type: str, index: str, value: str, after_id: str, limit: int) -> Page:
        """See ``RecordStore.query``."""
        check_index(record_type, index)
        await self._in_our_form()
        places = [self._keys.listing(record_type)]
        if await self._indexing.has_all(record_type, index):
            places = self._indexing.places(record_type, index, value)
        return under(await self._page(places, record_type, after_id, limit), index, {value})

    async def found(
        self, record_type: str, index: str, values: Collection[str], limit: int
    ) -> AsyncGenerator[Page, None]:
        """See ``RecordStore.found``: many values are looked up at once."""
        check_index(record_type, index)
        await self._in_our_form()
        begins = [(self._keys.listing(record_type), "")]
        if await self._indexing.has_all(record_type, index):
            begins = [(place, "") for value in values for place in self._indexing.places(record_type, index, value)]
        waiting = deque(begins)
        while waiting:
            await self._in_our_form()
            asked = [waiting.popleft() for _ in range(min(len(waiting), _LOOKUPS))]
            found = await self._link.run(*(ids_after(place, after_id, limit) for place, after_id in asked))
            # Only a short answer ends a list.
            waiting.extend(
                (place, ids[-1].decode()) for (place, _), ids in zip(asked, found, strict=True) if len(ids) == limit
            )
            ids = merged(found)
            while ids:
                rows = await self._rows_of(record_type, ids[:limit])
                shown, ids = ids[: len(rows)], ids[len(rows) :]
                yield under(await self._page_of(record_type, shown, rows), index, values)

    async def expired(self, record_type: str, before: float, limit: int) -> list[Expired]:
        """See ``RecordStore.expired``."""
        type_of(record_type)
        await self._in_our_form()
        bound = int(before * 1000)
        ending = self._keys.ends(record_type)
        (ids,) = await self._link.run(("ZRANGEBYSCORE", ending, "-inf", f"({bound + 1}", "LIMIT", 0, limit))
        names = [record_id.decode() for record_id in ids]
        # Version and end are read together: a record that was written meanwhile has another end, and is not told.
        rows = await self._link.run(*(("HMGET", self._keys.record(record_type, name), "v", "x") for name in names))
        return [
            Expired(name, None if version is None else readable_version(version))
            for name, (version, ends) in zip(names, rows, strict=True)
            if version is None or (ends and int(ends) <= bound)
        ]

    async def put(
        self, writes: Sequence[Write], request_id: str, fence: Fence | None = None
    ) -> tuple[RecordVersion, ...]:
        """See ``RecordStore.put``."""
        check_batch(writes)
        await self._in_our_form()
        return await self._writer.put(writes, request_id, fence)

    async def beat(self, databroker_id: str, report: bytes) -> Beat:
        """See ``RecordStore.beat``. Reports are sealed: a forged one could make a revoke look applied."""
        sealed = b""
        if report:
            sealed = self._codec.encode(Record(type=_HEARTBEAT, id=databroker_id, data=report))
        call = Call(self._beat, [self._keys.peers, self._keys.meta], [databroker_id, sealed, _SILENT_MS])
        if self._writer.newest is None:
            await self.head()  # by which a store of other keys is known, whatever its heartbeats say
        known = self._writer.newest
        answer = await self._link.write(call)
        if answer[1] is not None and schema_of(answer[4]) != SCHEMA:
            # Migrated or restored beneath us: nothing more is read or written before it has our form.
            self._has_our_form = False
            check_schema(schema_of(answer[4]))
        peers = {}
        for index in range(5, len(answer), 2):
            name = answer[index].decode()
            peers[name] = decode(self._codec, _HEARTBEAT, name, NO_VERSION, answer[index + 1]).data
        return Beat(await self._heard(answer[1:4], known), int(answer[0]) / 1000, peers)

    async def head(self) -> Position:
        """See ``RecordStore.head``."""
        await self._in_our_form()
        known = self._writer.newest
        (answer,) = await self._link.run(("HMGET", self._keys.meta, "epoch", "number", "tag", "schema", "seal"))
        if answer[0] is None:
            epoch = known.epoch if known is not None else 0
            arguments = [secrets.token_hex(8), epoch + 1, SCHEMA, self._codec.mark()]
            answer = await self._link.write(Call(self._open, [self._keys.meta], arguments))
        self._check_ours(answer)
        return await self._heard(answer, known)

    async def _in_our_form(self) -> None:
        """Return once what is stored has the form that this version knows; an older one is migrated first.

        Raises:
            KeyMissingError: it is in use under a key that is not held.
            UnavailableError: it is newer, or another databroker is migrating it.
            DataCorruptedError: it is not ours.
        """
        if not self._has_our_form:
            async with self._migrating:
                await self._bring_to_our_form()

    async def _bring_to_our_form(self) -> None:
        (known,) = await self._link.run(("HMGET", self._keys.meta, "epoch", "schema", "seal"))
        if known[0] is not None:  # else it is new, or not ours, which whoever opens it will see
            if known[2] is not None:
                self._codec.check_mark(known[2].decode())
            schema = schema_of(known[1])
            check_schema(schema)
            if schema < SCHEMA:
                await self._migration.run(schema)
        self._has_our_form = True

    def _check_ours(self, answer: Sequence[bytes | None]) -> None:
        """Refuse a history that is not ours, or that we could not read."""
        epoch, number, tag, schema, mark = answer
        if epoch is None or number is None or tag is None:
            raise DataCorruptedError(f"the store holds something else under `{self._keys.meta}`; use another database")
        if mark is not None:
            self._codec.check_mark(mark.decode())
        check_schema(schema_of(schema))

    async def _heard(self, answer: Sequence[Any], known: RecordVersion | None) -> Position:
        """The head that the store told, which is never behind ``known``, what it had told when it was asked.

        What was learned while the answer was on its way does not count against it: the feed is read on another connection.

        A head that went back, as after a failover that lost the newest writes, begins a new epoch at once: a number must not be
        used for two changes.
        """
        if answer[0] is None or answer[1] is None or answer[2] is None:
            return await self.head()
        head = Position(RecordVersion(int(answer[0]), int(answer[1])), answer[2])
        if known is not None and head.version < known:
            _log.error("the store has gone back", known=str(known), found=str(head.version))
            self.lost.set()
            self._has_our_form = False  # it may be an older store, brought back
            return await self.recover(known)
        self._writer.note(head.version)
        return head

    async def changes(self, after: Position, limit: int, wait_seconds: float) -> list[FeedEntry]:
        """See ``RecordStore.changes``."""
        place = f"{after.version.epoch}-{after.version.number}"
        self._writer.unread.forget(after.version)
        await self._floor.follow_up(after.version)
        if not after.tag:
            after = await self._placed(after)
        wait = min(wait_seconds, BLOCK_SECONDS)
        answer = await self._link.block(
            "XREAD", "COUNT", limit, "BLOCK", max(1, int(wait * 1000)), "STREAMS", self._keys.feed, place
        )
        found: list[RawEntry] = next(iter(answer.values())) if answer else []
        if not found:
            await self._placed(after)
            return []
        entries = chained([(entry[0], fields_of(entry[1])) for entry in found], after, self._codec)
        if self._writer.unread.is_missing_in(after.version, entries):
            self.lost.set()
            raise WatchExpiredError("a put that was confirmed is not in the history")
        self._writer.note(entries[-1].version)
        self._floor.note(entries)
        return entries

    async def _between(self, after: RecordVersion, until: RecordVersion) -> list[FeedEntry]:
        """Some of the feed, from the entry after ``after`` on; raises as ``chained`` does."""
        place, end = f"({after.epoch}-{after.number}", f"{until.epoch}-{until.number}"
        (found,) = await self._link.run(("XRANGE", self._keys.feed, place, end, "COUNT", _SLICE))
        return chained([(entry[0], fields_of(entry[1])) for entry in found], Position(after), self._codec)

    async def _placed(self, after: Position) -> Position:
        """``after`` with its tag, provided that it is still a place in this history.

        Raises:
            WatchExpiredError: it is not.
        """
        if after.version.number == 0:
            head = await self.head()
            if head.version == after.version and after.tag in {b"", head.tag}:
                return head
            (found,) = await self._link.run(("XRANGE", self._keys.feed, f"{after.version.epoch}-1", "+", "COUNT", 1))
            if found:
                first, fields = position_of(found[0][0]), fields_of(found[0][1])
                begins = first.epoch == after.version.epoch and fields.get(b"n") == b"%d" % first.number
                before = fields.get(b"p")
                if begins and before and after.tag in {b"", before}:
                    return Position(after.version, before)
            raise WatchExpiredError(f"`{after.version}` is not in the retained history")
        place = f"{after.version.epoch}-{after.version.number}"
        (found,) = await self._link.run(("XRANGE", self._keys.feed, place, place))
        tag = fields_of(found[0][1]).get(b"t") if found else None
        if tag is None or after.tag not in {b"", tag}:
            raise WatchExpiredError(f"`{after.version}` is not in the retained history")
        return Position(after.version, tag)

    def unread(self, after: RecordVersion) -> list[FeedEntry]:
        """See ``RecordStore.unread``."""
        return self._writer.unread.after(after)

    async def oldest(self) -> RecordVersion | None:
        """See ``RecordStore.oldest``."""
        (found,) = await self._link.run(("XRANGE", self._keys.feed, "-", "+", "COUNT", 1))
        return position_of(found[0][0]) if found else None

    async def contains(self, position: Position) -> bool:
        """See ``RecordStore.contains``."""
        try:
            await self._placed(position)
            return True
        except WatchExpiredError:
            place = f"{position.version.epoch}-{position.version.number}"
            (found,) = await self._link.run(("XRANGE", self._keys.chain, place, place))
        return bool(found) and position.tag == fields_of(found[0][1]).get(b"t")

    async def recover(self, lost: RecordVersion) -> Position:
        """See ``RecordStore.recover``."""
        await self._in_our_form()
        arguments = [lost.epoch, secrets.token_hex(8), SCHEMA, self._codec.mark()]
        answer = await self._link.write(Call(self._raise_epoch, [self._keys.meta], arguments))
        self._check_ours(answer)
        head = Position(RecordVersion(int(answer[0]), int(answer[1])), answer[2])
        self._writer.newest = head.version
        self._writer.guess = head
        return head

    def begin(self, epoch: int, common: RecordVersion | None) -> None:
        """See ``RecordStore.begin``."""
        self._floor.begin(epoch, common)

    async def hold(self, name: str, seconds: float) -> None:
        """See ``RecordStore.hold``."""
        await self._link.run(("HSET", self._keys.holds, name, int((self._clock.now() + seconds) * 1000)))

    async def release(self, name: str) -> None:
        """See ``RecordStore.release``."""
        await self._link.run(("HDEL", self._keys.holds, name))

    async def trim(self, count: int, age_seconds: float) -> int:
        """See ``RecordStore.trim``."""
        now = self._clock.now()
        arguments = [int(now * 1000), count, int((now - age_seconds) * 1000)]
        return int(await self._link.write(Call(self._trim, [self._keys.feed, self._keys.holds], arguments)))

    async def acquire_lease(self, name: str, holder: str, seconds: float) -> int | None:
        """See ``RecordStore.acquire_lease``."""
        return int(await self._lease_call(name, "acquire", holder, int(seconds * 1000))) or None

    async def renew_lease(self, name: str, holder: str, seconds: float) -> bool:
        """See ``RecordStore.renew_lease``."""
        return bool(await self._lease_call(name, "renew", holder, int(seconds * 1000)))

    async def release_lease(self, name: str, holder: str) -> None:
        """See ``RecordStore.release_lease``."""
        await self._lease_call(name, "release", holder, 0)

    async def _lease_call(self, name: str, what: str, holder: str, milliseconds: int) -> Any:
        keys = [self._keys.lease(name), self._keys.fence(name), self._keys.meta]
        return await self._link.write(Call(self._lease, keys, [what, holder, milliseconds]))

    async def _page(self, sets: Sequence[str], record_type: str, after_id: str, limit: int) -> Page:
        ids, rows, next_id = await self._rows(sets, record_type, after_id, limit)
        return await self._page_of(record_type, ids, rows, next_id)

    async def _page_of(
        self, record_type: str, ids: Sequence[str], rows: Sequence[Sequence[bytes | None]], next_id: str = ""
    ) -> Page:
        """The live ones among ``rows``, a few at a time, so that others have their turn in between."""
        now = self._clock.now()
        records: list[Record] = []
        damaged = await self._vanished(record_type, ids, rows)
        for position, (record_id, row) in enumerate(zip(ids, rows, strict=True)):
            if position % _SLICE == 0:
                await asyncio.sleep(0)
            try:
                record = self._decode(record_type, record_id, row)
            except DataCorruptedError as error:
                damaged.append(_damaged(record_type, record_id, row, error))
                continue
            if record is not None and record.is_live(now):
                records.append(record)
        return Page(tuple(records), next_id, tuple(damaged))

    async def _rows(
        self, sets: Sequence[str], record_type: str, after_id: str, limit: int
    ) -> tuple[list[str], Sequence[Sequence[bytes | None]], str]:
        """Ids, stored fields, and where the next page begins."""
        await self._in_our_form()
        found = await self._link.run(*(ids_after(key, after_id, limit + 1) for key in sets))
        ids = merged(found)
        shown = ids[:limit]
        if not shown:
            return [], [], ""
        rows = await self._rows_of(record_type, shown)
        shown = shown[: len(rows)]
        return shown, rows, shown[-1] if len(ids) > len(shown) else ""

    def _decode(self, record_type: str, record_id: str, row: Sequence[bytes | None]) -> Record | None:
        message = self._message(record_type, record_id, row)
        return None if message is None else record_of(message)

    def _message(self, record_type: str, record_id: str, row: Sequence[bytes | None]) -> databroker_pb2.Record | None:
        version, deleted, stored = row
        if version is None:
            return None
        if stored is None:
            raise DataCorruptedError(f"a stored `{record_type}` has lost its bytes")
        if stored.startswith(GONE_BACK):
            raise OlderStateError(record_type, version_from(stored.removeprefix(GONE_BACK)))
        message = self._codec.message(record_type, record_id, version_from(version), stored)
        if message.deleted != (deleted == b"1"):
            raise DataCorruptedError(f"the tombstone of a stored `{record_type}` does not agree with it")
        return message


def _damaged(record_type: str, record_id: str, row: Sequence[bytes | None], error: DataCorruptedError) -> Damaged:
    return Damaged(record_type, record_id, readable_version(row[0] or b""), str(error))
