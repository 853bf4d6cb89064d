"""Records on Redis or Valkey (the Redis 7.0 command set), one hash tag a deployment.

    {dw}:meta                         hash     epoch, number, chain tag of the newest change
    {dw}:feed                         stream   one entry a put; its id is <epoch>-<number>
    {dw}:r:<type>:<id>                hash     version, tombstone, end, sealed bytes, index entries
    {dw}:t:<type>                     zset     ids of live records, in order
    {dw}:x:<type>:<index>:<hash>      zset     ids under an index value
    {dw}:q:<request id>               string   outcome of a request, for its repeats
    {dw}:l:<name>, {dw}:f:<name>      string   a lease and its fencing number

Every feed entry carries a random tag and its predecessor's, so that a history that was cut and grown again (failover, a
truncated file, a restore) is noticed even where the numbers fit: then the epoch is raised and watchers start over.
"""

import secrets
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from typing import Any

import structlog

from doorward.clock import Clock
from doorward.errors import (
    ConflictError,
    DataCorruptedError,
    NotFoundError,
    OutcomeUnknownError,
    UnavailableError,
    WatchExpiredError,
)
from doorward.records.record import NO_VERSION, Record, RecordVersion, Write
from doorward_databroker.store.codec import Codec
from doorward_databroker.store.connection import connect, translated
from doorward_databroker.store.feed import entry_of, position_of
from doorward_databroker.store.port import FeedEntry
from doorward_databroker.store.types import check_record, type_of

FEED_LENGTH = 100_000
_RESULT_MS = 600_000
_ATTEMPTS = 50
_BLOCK_SECONDS = 5.0
_TAGS = 1_000

_log = structlog.stdlib.get_logger(__name__)


class RedisStore:
    """The store on one Redis or Valkey."""

    def __init__(self, url: str, codec: Codec, clock: Clock, *, prefix: str = "{dw}") -> None:
        # The library types every answer as a union of all protocols' shapes; ours is pinned in `connect`.
        self._redis: Any = connect(url)
        self._blocking: Any = connect(url, block_seconds=_BLOCK_SECONDS)
        self._codec = codec
        self._clock = clock
        self._prefix = prefix
        self._put = self._redis.register_script(_script("put"))
        self._open = self._redis.register_script(_script("open"))
        self._raise_epoch = self._redis.register_script(_script("epoch"))
        self._lease = self._redis.register_script(_script("lease"))
        self._meta: tuple[int, int, bytes] | None = None
        """Epoch, head and chain tag as last heard; only a guess, which the script checks."""
        self._highest_epoch = 0
        self._tags: dict[RecordVersion, bytes] = {}
        """Chain tags of the entries last read, to notice another history under the same numbers."""

    async def close(self) -> None:
        """Close every connection."""
        await self._redis.aclose()
        await self._blocking.aclose()

    async def get(self, record_type: str, record_id: str) -> Record:
        """See ``RecordStore.get``."""
        type_of(record_type)
        async with translated():
            fields = await self._redis.hmget(self._record_key(record_type, record_id), ["v", "d", "b"])
        record = self._decode(record_type, record_id, fields)
        if record is None or not record.is_live(self._clock.now()):
            raise NotFoundError(f"no `{record_type}` of this id")
        return record

    async def page(self, record_type: str, after_id: str, limit: int) -> tuple[list[Record], str]:
        """See ``RecordStore.page``."""
        type_of(record_type)
        return await self._page(f"{self._prefix}:t:{record_type}", record_type, after_id, limit)

    async def query(
        self, record_type: str, index: str, value: str, after_id: str, limit: int
    ) -> tuple[list[Record], str]:
        """See ``RecordStore.query``."""
        records, next_id = await self._page(self._index_key(record_type, index, value), record_type, after_id, limit)
        return [record for record in records if record.indexes.get(index) == value], next_id

    async def expired(self, record_type: str, before: float, limit: int) -> list[str]:
        """See ``RecordStore.expired``."""
        type_of(record_type)
        found: list[str] = []
        after_id = ""
        while len(found) < limit:
            ids, rows, after_id = await self._rows(f"{self._prefix}:t:{record_type}", record_type, after_id, 1000)
            for record_id, row in zip(ids, rows, strict=True):
                record = self._decode(record_type, record_id, row)
                if record is not None and not record.deleted and not record.is_live(before):
                    found.append(record_id)
            if not after_id:
                break
        return found[:limit]

    async def put(self, writes: Sequence[Write], request_id: str) -> tuple[RecordVersion, ...]:
        """See ``RecordStore.put``."""
        for write in writes:
            check_record(write.record)
        attempt = 0
        while True:
            try:
                return await self._put_once(writes, request_id)
            except _StaleError:
                attempt += 1
                if attempt >= _ATTEMPTS:
                    raise UnavailableError("too many writers at once") from None

    async def _put_once(self, writes: Sequence[Write], request_id: str) -> tuple[RecordVersion, ...]:
        """Seal for the versions that come next, and let the script check that they do."""
        epoch, number, tag = self._meta or await self._read_meta()
        stored = await self._stored_indexes(writes)
        now = self._clock.now()
        keys = [f"{self._prefix}:meta", f"{self._prefix}:feed", f"{self._prefix}:q:{request_id}"]
        arguments: list[Any] = []
        versions: list[RecordVersion] = []
        for write, (seen, leaving) in zip(writes, stored, strict=True):
            in_feed = type_of(write.record.type).in_feed
            number += in_feed
            version = RecordVersion(epoch, number) if in_feed else NO_VERSION
            versions.append(version)
            record = replace(write.record, version=version, modified_at=now)
            if record.deleted:
                record = replace(record, data=b"", indexes={}, expires_at=None)
            entering = [self._index_key(record.type, name, value) for name, value in record.indexes.items()]
            keys += [self._record_key(record.type, record.id), f"{self._prefix}:t:{record.type}", *leaving, *entering]
            precondition = "absent" if write.absent else str(write.expected) if write.expected is not None else ""
            ends = "" if record.expires_at is None else str(int(record.expires_at * 1000))
            arguments += [record.type, record.id, int(in_feed), int(record.deleted), precondition, seen, ends]
            arguments += [str(version), self._codec.encode(record), len(leaving), len(entering)]
        result = ",".join(map(str, versions))
        new_tag = secrets.token_bytes(8).hex().encode()
        head: list[Any] = [
            epoch,
            versions_before(versions, number),
            tag,
            new_tag,
            int(now * 1000),
            _RESULT_MS,
            FEED_LENGTH,
        ]
        async with translated(writing=True):
            answer = await self._put(keys=keys, args=[*head, len(writes), result, *arguments])
        return self._outcome(answer, writes, versions, new_tag)

    def _outcome(
        self, answer: Any, writes: Sequence[Write], versions: list[RecordVersion], new_tag: bytes
    ) -> tuple[RecordVersion, ...]:
        match answer[0]:
            case b"ok":
                written = [version for version in versions if version != NO_VERSION]
                if written:
                    self._meta = (written[-1].epoch, written[-1].number, new_tag)
                return tuple(versions)
            case b"done":
                return tuple(_version(part) for part in answer[1].split(b","))
            case b"moved":
                self._remember(answer[1:])
                raise _StaleError
            case b"stale":
                raise _StaleError
            case b"conflict":
                kind = writes[int(answer[1]) - 1].record.type
                raise ConflictError(f"the stored `{kind}` is not as expected")
            case _:
                raise OutcomeUnknownError("the store gave an answer that is not understood")

    async def head(self) -> RecordVersion:
        """See ``RecordStore.head``."""
        epoch, number, _ = await self._read_meta()
        return RecordVersion(epoch, number)

    async def changes(self, after: RecordVersion, limit: int, wait_seconds: float) -> list[FeedEntry]:
        """See ``RecordStore.changes``."""
        key = f"{self._prefix}:feed"
        position = f"{after.epoch}-{after.number}"
        async with translated():
            found = await self._redis.xrange(key, position, "+", count=limit + 1)
        if after.number and not self._is_known(found, after):
            raise WatchExpiredError(f"`{after}` is not in the retained history")
        entries = found[1:] if after.number else found
        if not after.number:
            await self._check_beginning(after, entries)
        if not entries:
            async with translated():
                answer = await self._blocking.xread(
                    {key: position}, count=limit, block=max(1, int(min(wait_seconds, _BLOCK_SECONDS) * 1000))
                )
            entries = _stream(answer)
        previous = found[0] if after.number else None
        return self._checked(previous, entries, after)

    def _is_known(self, found: Sequence[Any], after: RecordVersion) -> bool:
        """Whether the history holds ``after``, and the same change under it as when we read it."""
        if not found or position_of(found[0][0]) != after:
            return False
        tag = found[0][1][b"t"]
        return bool(self._tags.get(after, tag) == tag)

    def _checked(self, previous: Any, entries: Sequence[Any], after: RecordVersion) -> list[FeedEntry]:
        """The entries, provided that each continues the chain from the one before it."""
        tag = previous[1][b"t"] if previous is not None else None
        checked = []
        for entry in entries:
            fields = entry[1]
            if tag is not None and fields.get(b"p") != tag:
                raise WatchExpiredError(f"the history after `{after}` is another one")
            tag = fields[b"t"]
            checked.append(entry_of(entry, self._codec))
            self._tags[checked[-1].version] = tag
        while len(self._tags) > _TAGS:
            del self._tags[next(iter(self._tags))]
        return checked

    async def _check_beginning(self, after: RecordVersion, entries: Sequence[Any]) -> None:
        """From an epoch's beginning, the first retained entry must be its first one."""
        if entries:
            first = entry_of(entries[0], self._codec)
            start = first.version.number - len(first.records)
            if first.version.epoch != after.epoch or start != 0:
                raise WatchExpiredError(f"the history after `{after}` has been trimmed")
            return
        head = await self.head()
        if head != after:
            raise WatchExpiredError(f"`{after}` is not in the retained history")

    async def recover(self, lost: RecordVersion) -> RecordVersion:
        """See ``RecordStore.recover``."""
        async with translated(writing=True):
            answer = await self._raise_epoch(keys=[f"{self._prefix}:meta"], args=[lost.epoch, secrets.token_hex(8)])
        epoch, number, _ = self._remember(answer)
        self._tags.clear()
        return RecordVersion(epoch, number)

    async def acquire_lease(self, name: str, holder: str, seconds: float) -> int | None:
        """See ``RecordStore.acquire_lease``."""
        return await self._run_lease("acquire", name, holder, seconds) or None

    async def renew_lease(self, name: str, holder: str, seconds: float) -> bool:
        """See ``RecordStore.renew_lease``."""
        return bool(await self._run_lease("renew", name, holder, seconds))

    async def release_lease(self, name: str, holder: str) -> None:
        """See ``RecordStore.release_lease``."""
        await self._run_lease("release", name, holder, 1)

    async def _run_lease(self, verb: str, name: str, holder: str, seconds: float) -> int:
        keys = [f"{self._prefix}:l:{name}", f"{self._prefix}:f:{name}"]
        async with translated(writing=True):
            return int(await self._lease(keys=keys, args=[verb, holder, max(1, int(seconds * 1000))]))

    async def _page(self, key: str, record_type: str, after_id: str, limit: int) -> tuple[list[Record], str]:
        ids, rows, next_id = await self._rows(key, record_type, after_id, limit)
        now = self._clock.now()
        found = [self._decode(record_type, record_id, row) for record_id, row in zip(ids, rows, strict=True)]
        return [record for record in found if record is not None and record.is_live(now)], next_id

    async def _rows(
        self, key: str, record_type: str, after_id: str, limit: int
    ) -> tuple[list[str], list[Sequence[bytes | None]], str]:
        """Ids, stored fields, and where the next page begins."""
        start = f"({after_id}" if after_id else "-"
        async with translated():
            found = await self._redis.zrange(key, start, "+", bylex=True, offset=0, num=limit + 1)
            ids = [entry.decode() for entry in found]
            rows: list[Sequence[bytes | None]] = []
            if ids:
                async with self._redis.pipeline(transaction=False) as pipeline:
                    for record_id in ids[:limit]:
                        pipeline.hmget(self._record_key(record_type, record_id), ["v", "d", "b"])
                    rows = await pipeline.execute()
        return ids[:limit], rows, ids[limit - 1] if len(ids) > limit else ""

    async def _stored_indexes(self, writes: Sequence[Write]) -> list[tuple[str, list[str]]]:
        """For each write the version now stored and the index entries that it would have to leave."""
        async with translated(), self._redis.pipeline(transaction=False) as pipeline:
            for write in writes:
                pipeline.hmget(self._record_key(write.record.type, write.record.id), ["v", "i"])
            rows = await pipeline.execute()
        return [
            ((version or b"").decode(), (indexes or b"").decode().split("\n") if indexes else [])
            for version, indexes in rows
        ]

    async def _read_meta(self) -> tuple[int, int, bytes]:
        async with translated(writing=True):
            answer = await self._open(
                keys=[f"{self._prefix}:meta"], args=[secrets.token_hex(8), self._highest_epoch + 1]
            )
        return self._remember(answer)

    def _remember(self, answer: Sequence[bytes | None]) -> tuple[int, int, bytes]:
        epoch, number, tag = answer
        if epoch is None or number is None or tag is None:
            self._meta = None
            raise _StaleError
        self._meta = (int(epoch), int(number), tag)
        self._highest_epoch = max(self._highest_epoch, self._meta[0])
        return self._meta

    def _decode(self, record_type: str, record_id: str, fields: Sequence[bytes | None]) -> Record | None:
        version, deleted, stored = fields
        if version is None:
            return None
        if stored is None:
            raise DataCorruptedError(f"a stored `{record_type}` has lost its bytes")
        record = self._codec.decode(record_type, record_id, _version(version), stored)
        if record.deleted != (deleted == b"1"):
            raise DataCorruptedError(f"the tombstone of a stored `{record_type}` does not agree with it")
        return record

    def _record_key(self, record_type: str, record_id: str) -> str:
        return f"{self._prefix}:r:{record_type}:{record_id}"

    def _index_key(self, record_type: str, index: str, value: str) -> str:
        return f"{self._prefix}:x:{record_type}:{index}:{self._codec.index_value(record_type, index, value)}"


class _StaleError(Exception):
    """What was read before the write has changed since; read again."""


def versions_before(versions: Sequence[RecordVersion], number: int) -> int:
    """The head before ``versions`` were counted up to ``number``."""
    return number - sum(version != NO_VERSION for version in versions)


def _script(name: str) -> str:
    return resources.files(__package__).joinpath("scripts", f"{name}.lua").read_text()


def _version(text: bytes) -> RecordVersion:
    epoch, _, number = text.partition(b".")
    return RecordVersion(int(epoch), int(number))


def _stream(answer: Any) -> list[Any]:
    """The entries of the one stream in an answer to XREAD."""
    return next(iter(answer.values())) if answer else []
