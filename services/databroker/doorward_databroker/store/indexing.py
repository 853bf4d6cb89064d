"""Which index entries a record is under, and whether an index has all records of its type.

An index over payloads (``RecordType.read_indexes``) came later than the records: those that an older version has written, or writes
beside us, are not under it. So each record that is carries one entry more, under no value at all. An older version that writes the
record anew leaves that entry with the others, for it leaves whatever it does not name. When as many records are marked as there are,
the index is complete; until then everything is looked through, and the resealer enters what is missing.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from doorward.errors import DataCorruptedError
from doorward.records.record import Damaged, Record
from doorward_databroker.store.codec import Codec
from doorward_databroker.store.connection import Call, Link, Script
from doorward_databroker.store.keyspace import Keyspace
from doorward_databroker.store.port import Page
from doorward_databroker.store.types import INDEX_ENTRIES_LIMIT, RECORD_TYPES, read_values, type_of

_MARK = ""
_SHORT = 16
"""Digits of the hash of a value that was read: there are many such entries, and what counts is sealed."""


class Indexing:
    """Over one store's keys."""

    def __init__(self, link: Link, keys: Keyspace, codec: Codec) -> None:
        self._link = link
        self._keys = keys
        self._codec = codec
        self._counts = Script.load("counts")

    def entries(self, record: Record, room: int = INDEX_ENTRIES_LIMIT) -> list[str]:
        """The entries of a record that is not deleted; those read from its payload only where there is ``room`` for all of them."""
        kind = type_of(record.type)
        entries = [
            self._keys.index(record.type, index, self._codec.index_values(record.type, index, value)[0])
            for index, values in record.indexes.items()
            for value in values
        ]
        if kind.read_indexes and not record.deleted:
            read = read_values(record)
            if read is not None and sum(map(len, read.values())) + len(read) <= room - len(entries):
                entries += [
                    self.places(record.type, index, value)[0]
                    for index, values in read.items()
                    for value in (_MARK, *values)
                ]
        return list(dict.fromkeys(entries))

    def places(self, record_type: str, index: str, value: str) -> list[str]:
        """Where entries for a value lie: one place for each key that is held."""
        hashes: Iterable[str] = self._codec.index_values(record_type, index, value)
        if index in type_of(record_type).read_indexes:
            hashes = (hashed[:_SHORT] for hashed in hashes)
        return [self._keys.index(record_type, index, hashed) for hashed in hashes]

    async def has_all(self, record_type: str, index: str) -> bool:
        """Whether every record of the type is under the index with all its values.

        Raises:
            UnavailableError: no answer.
        """
        if index not in type_of(record_type).read_indexes:
            return True
        marks = self.places(record_type, index, _MARK)
        # Both counts at one moment: a deletion between them could make up for a record that is missing.
        counts = await self._link.read(Call(self._counts, [self._keys.listing(record_type), *marks], []))
        return int(counts[0]) == sum(map(int, counts[1:]))

    async def is_complete(self) -> bool:
        """Whether that is so for every index.

        Raises:
            UnavailableError: no answer.
        """
        for kind in RECORD_TYPES.values():
            for index in kind.read_indexes:
                if not await self.has_all(kind.name, index):
                    return False
        return True


def under(page: Page, index: str, values: Collection[str]) -> Page:
    """Those of a page that are found under one of ``values``. An index only narrows it down; what counts is sealed.

    What does not open stays, and so does what cannot be read: nobody knows what it would be found under.
    """
    wanted = frozenset(values)
    records = []
    damaged = list(page.damaged)
    for record in page.records:
        read = type_of(record.type).read_indexes.get(index)
        try:
            found_under = record.indexes.get(index, ()) if read is None else read(record.data)
        except DataCorruptedError as error:
            damaged.append(Damaged(record.type, record.id, record.version, str(error)))
            continue
        if not wanted.isdisjoint(found_under):
            records.append(record)
    return Page(tuple(records), page.next_id, tuple(damaged))


def ids_after(key: str, after_id: str, limit: int) -> tuple[Any, ...]:
    """The command for up to ``limit`` ids of a list or an index entry, in order."""
    return ("ZRANGE", key, f"({after_id}" if after_id else "-", "+", "BYLEX", "LIMIT", 0, limit)


def merged(found: Iterable[Sequence[bytes]]) -> list[str]:
    """The ids in answers to ``ids_after``, each once."""
    lists = list(found)
    if len(lists) == 1:
        return [entry.decode() for entry in lists[0]]
    return sorted({entry.decode() for entries in lists for entry in entries})
