"""What is done to a whole store in Redis: counted, copied, sealed anew. Goes over every key, so it is never part of a call's path."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from doorward.errors import DataCorruptedError, InvalidArgumentError, UnavailableError
from doorward.records.record import Damaged, RecordVersion, record_of
from doorward_databroker.store.codec import Codec
from doorward_databroker.store.connection import Call, Link, Script, refusal
from doorward_databroker.store.feed import readable_version
from doorward_databroker.store.indexing import Indexing
from doorward_databroker.store.keyspace import Keyspace
from doorward_databroker.store.types import PAGE_BYTES, RECORD_TYPES

_COUNTS = (500, 50, 5, 1)
"""Keys that are looked at for a page; fewer where they hold much."""
_STEP = 100


@dataclass(frozen=True, slots=True)
class Stored:
    """One stored value as it lies there."""

    type: str
    id: str
    version: RecordVersion
    sealed: bytes
    """Empty when it has lost its bytes."""
    index_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Resealed:
    """What became of a page."""

    seen: int
    resealed: int
    next_cursor: str
    damaged: tuple[Damaged, ...] = ()
    """What does not open."""


class Maintenance:
    """Over one store's keys."""

    def __init__(self, link: Link, keys: Keyspace, codec: Codec) -> None:
        self._link = link
        self._keys = keys
        self._codec = codec
        self._indexing = Indexing(link, keys, codec)
        self._script = Script.load("reseal")

    @property
    def address(self) -> str:
        """The server that takes writes, as last found."""
        return self._link.address

    async def counts(self) -> dict[str, int]:
        """Live records of each type in the feed."""
        names = [kind.name for kind in RECORD_TYPES.values() if kind.in_feed]
        found = await self._link.run(*(("ZCARD", self._keys.listing(name)) for name in names))
        return dict(zip(names, map(int, found), strict=True))

    async def has_complete_indexes(self) -> bool:
        """Whether all records are under all their indexes; not those that an older version has written."""
        return await self._indexing.is_complete()

    async def history_entries(self) -> int:
        """Entries of the retained feed."""
        (found,) = await self._link.run(("XLEN", self._keys.feed))
        return int(found)

    async def warnings(self) -> list[str]:
        """What about the server puts records at risk."""
        sections = await self._link.run(("INFO", "memory"), ("INFO", "persistence"), ("INFO", "replication"))
        facts = {name: value for section in sections for name, value in _facts(section).items()}
        found = []
        if facts.get("maxmemory_policy", "noeviction") != "noeviction" and facts.get("maxmemory", "0") != "0":
            found.append(f"maxmemory-policy is `{facts['maxmemory_policy']}`: records would vanish (use noeviction)")
        if facts.get("aof_enabled") == "0":
            found.append("appendonly is off: a restart loses what was acknowledged")
        if facts.get("aof_last_write_status", "ok") != "ok":
            found.append("the append-only file cannot be written")
        following = int(facts.get("connected_slaves", "0"))
        if following > self._link.replicas:
            found.append(
                f"{following} replicas follow and redis_replicas is {self._link.replicas}: a failover may choose one that"
                " has not confirmed the newest writes"
            )
        if following and facts.get("role") == "master" and "min_slaves_good_slaves" not in facts:
            found.append(
                "min-replicas-to-write is 0: a primary that is cut off goes on taking writes that will be lost"
            )
        # Not every ACL user may ask.
        with contextlib.suppress(UnavailableError):
            (answer,) = await self._link.run(("CONFIG", "GET", "appendfsync"))
            policy = answer[b"appendfsync"].decode()
            if facts.get("aof_enabled") == "1" and policy != "always" and not self._link.replicas:
                found.append(f"appendfsync is `{policy}`: the newest writes can be lost with the machine (use always)")
        return found

    async def page(self, cursor: str) -> tuple[list[Stored], str]:
        """Some of everything that is stored, tombstones included, and the next cursor; a value may come twice."""
        if cursor and not (cursor.isascii() and cursor.isdigit()):
            raise InvalidArgumentError("not a page of ours")
        for count in _COUNTS:
            command = ("SCAN", cursor or "0", "MATCH", f"{self._keys.record('', '')[:-2]}:*", "COUNT", count)
            ((following, raw_keys),) = await self._link.run(command)
            places = [place for key in raw_keys if (place := self._place(key.decode())) is not None]
            # Too much at once is asked for again in smaller parts: a cursor begins anywhere as often as one likes.
            rows, are_all = await self._rows(places, PAGE_BYTES if count > 1 else None)
            if are_all:
                break
        found = [
            Stored(
                kind,
                name,
                readable_version(row[0]),
                row[1] or b"",
                tuple(filter(None, (row[2] or b"").decode().split("\n"))),
            )
            for (kind, name), row in zip(places, rows, strict=True)
            if row[0] is not None
        ]
        # The library makes a number of the cursor, and we do not rely on that.
        return found, str(int(following)) if int(following) else ""

    async def _rows(self, places: Sequence[tuple[str, str]], bound: int | None) -> tuple[list[Any], bool]:
        """Version, bytes and index entries of the first ones, and whether it is of all; it is not when they hold more than ``bound``."""
        rows: list[Any] = []
        size = 0
        for start in range(0, len(places), _STEP):
            some = places[start : start + _STEP]
            rows += await self._link.run(*(("HMGET", self._keys.record(*place), "v", "b", "i") for place in some))
            size += sum(len(row[1] or b"") for row in rows[start:])
            if bound is not None and size > bound:
                return rows, False
        return rows, True

    async def reseal(self, cursor: str) -> Resealed:
        """Seal a page under the newest key, index values included; what others change meanwhile is sealed so anyhow.

        Raises:
            KeyMissingError: the key that the store is in use under is not held: it must not be marked as ours.
        """
        (mark,) = await self._link.run(("HGET", self._keys.meta, "seal"))
        if mark is not None:
            self._codec.check_mark(mark.decode())
        found, following = await self.page(cursor)
        calls = []
        damaged = []
        for stored in found:
            try:
                call = self._reseal_call(stored)
            except DataCorruptedError as error:
                damaged.append(Damaged(stored.type, stored.id, stored.version, str(error)))
                continue
            if call is not None:
                calls.append(call)
        resealed = 0
        if calls:
            resealed = await self._carried_out(calls)
        if not following:
            await self._link.run(("HSET", self._keys.meta, "seal", self._codec.mark()))
        return Resealed(len(found), resealed, following, tuple(damaged))

    async def _carried_out(self, calls: Sequence[Call]) -> int:
        # The first one alone brings the script to a server that does not know it.
        done = int(await self._link.write(calls[0]))
        answers: list[Any] = await self._link.write_all(calls[1:]) if len(calls) > 1 else []
        for answer in answers:
            if isinstance(answer, Exception):
                raise refusal(answer) from answer
        return done + sum(map(int, answers))

    def _reseal_call(self, stored: Stored) -> Call | None:
        record = record_of(self._codec.message(stored.type, stored.id, stored.version, stored.sealed))
        entering = self._indexing.entries(record)
        if self._codec.is_current(stored.sealed) and set(entering) == set(stored.index_keys):
            return None
        entered = set(entering)
        leaving = [key for key in stored.index_keys if key not in entered]
        keys = [self._keys.record(stored.type, stored.id), *leaving, *entering]
        sealed = self._codec.encode(record)
        arguments = [str(stored.version), stored.sealed, sealed, stored.id, len(leaving), len(entering)]
        return Call(self._script, keys, arguments)

    def _place(self, key: str) -> tuple[str, str] | None:
        """Type and id in a record's key; ``None`` for a type that this version does not know."""
        kind, _, name = key.removeprefix(self._keys.record("", "")[:-1]).partition(":")
        return (kind, name) if kind in RECORD_TYPES and name else None


def _facts(info: Any) -> dict[str, str]:
    """What INFO says; the library takes it apart when it knows the command."""
    if isinstance(info, dict):
        return {str(name): str(value) for name, value in info.items()}
    text = info.decode() if isinstance(info, bytes) else str(info)
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
