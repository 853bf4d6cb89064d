"""A snapshot while it is being read: a copy that nobody reads yet.

Records and the changes since the snapshot began may come in either order, so tombstones stay until it is complete.

Records are kept small (``packing``), which takes half of what it costs to take one. With ``room_bytes`` those that fit into it stay as they
came, and become small once the snapshot is complete: until the first one is, nobody is let in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from doorward.api.databroker.v1 import databroker_pb2 as pb
from doorward.records import packing
from doorward.records.packing import Packer
from doorward.records.record import version_of

SLICE = 50
"""Records taken before other callbacks get their turn; well under a millisecond."""
_SMALL_SLICE = 10
"""Records made small in one go, once there are checks to be answered."""
_SMALL_PAUSE_SECONDS = 0.001

Copy: TypeAlias = dict[str, dict[int | str, bytes]]
"""By type and key (``packing.key_of``): packed records."""


class Building:
    """Takes records. Never goes through all at once: a million are half a second in which nobody else has a turn."""

    def __init__(self, types: Sequence[str], packers: Mapping[str, Packer], room_bytes: int = 0) -> None:
        self.copy: Copy = {kind: {} for kind in types}
        self._packers = packers
        self._room = room_bytes
        self._deleted: dict[str, set[int | str]] = {kind: set() for kind in types}
        self._as_they_came: dict[str, list[int | str]] = {kind: [] for kind in types}

    def take(self, record: pb.Record) -> None:
        """Take one, unless a newer state of it is here."""
        entries = self.copy.get(record.type)
        if entries is None:
            return
        key = packing.key_of(record.id)
        known = entries.get(key)
        if known is not None and packing.version_in(known) >= version_of(record.version):
            return
        packed = packed_as_it_came(record)
        packer = self._packers.get(record.type)
        if record.deleted:
            self._deleted[record.type].add(key)
        elif packer is not None and len(packed) <= self._room:
            self._room -= len(packed)
            self._as_they_came[record.type].append(key)
        else:
            packed = packing.smaller(record.id, packed, packer)
        entries[key] = packed

    async def complete(self) -> None:
        """Nothing more comes: leave out what is deleted."""
        for kind, keys in self._deleted.items():
            entries = self.copy[kind]
            for position, key in enumerate(keys):
                if position % SLICE == 0:
                    await asyncio.sleep(0)
                if packing.is_tombstone(entries[key]):
                    del entries[key]
            keys.clear()

    async def make_small(self) -> None:
        """Make small what came so, and has not changed since. ``copy`` may be in use meanwhile, or given up."""
        for kind, keys in self._as_they_came.items():
            entries, packer = self.copy[kind], self._packers[kind] if keys else None
            while keys:
                for key in keys[-_SMALL_SLICE:]:
                    packed = entries.get(key)
                    if packed is not None:
                        entries[key] = packing.smaller(packing.id_of(key), packed, packer)
                del keys[-_SMALL_SLICE:]
                await asyncio.sleep(_SMALL_PAUSE_SECONDS)


def packed_as_it_came(record: pb.Record) -> bytes:
    """A record of the databroker's, packed, with its payload as it came."""
    expires_at = record.expires_at.seconds + record.expires_at.nanos * 1e-9 if record.HasField("expires_at") else None
    return packing.pack(version_of(record.version), None if record.deleted else record.data, expires_at)
