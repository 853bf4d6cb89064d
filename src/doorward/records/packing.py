"""Records as a replica keeps them: one ``bytes`` value each, without what is the same in thousands of others.

    packed    flags, end (when there is one), version, then the payload
    payload   as it came, or with its names replaced by numbers of a table that all records share

One value without references costs half of what a tuple of three objects does, and the collector never looks at it. A person's groups shrink
from their names to two bytes each.
"""

import struct
from array import array
from collections.abc import Sequence
from typing import Protocol

from google.protobuf.message import DecodeError, Message

from doorward.records.record import RecordVersion

_DELETED, _EXPIRES, _NAMED = 1, 2, 4
_HEAD = struct.Struct(">BQQ")
_HEAD_WITH_END = struct.Struct(">BQQd")
_NUMBERS = "I"


class Packer(Protocol):
    """Makes payloads of one record type smaller."""

    def pack(self, payload: bytes) -> bytes | None:
        """The smaller form, or ``None`` when this payload has none."""
        ...

    def unpack(self, packed: bytes) -> bytes:
        """A payload that says the same as the original."""
        ...


class Names:
    """Numbers for names, shared by all records of a replica. Grows with the names that were ever seen, not with the records."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._names: list[str] = []

    def number(self, name: str) -> int:
        """The number of ``name``, from now on."""
        known = self._numbers.get(name)
        if known is None:
            known = self._numbers[name] = len(self._names)
            self._names.append(name)
        return known

    def name(self, number: int) -> str:
        """The name with this number."""
        return self._names[number]

    def __len__(self) -> int:
        return len(self._names)


class MessagePacker:
    """Replaces names in protobuf payloads by their numbers.

    The fields named in ``lists`` (repeated strings) and ``names`` (strings) recur among records: groups, issuers, identity providers.
    The ``ids`` hold 32 hexadecimal digits and are kept as the 16 bytes that they are. A message in which anything is otherwise stays as it is.
    """

    def __init__(
        self,
        message: type[Message],
        table: Names,
        *,
        lists: Sequence[str] = (),
        names: Sequence[str] = (),
        ids: Sequence[str] = (),
    ) -> None:
        self._message = message
        self._table = table
        self._lists = tuple(lists)
        self._names = tuple(names)
        self._ids = tuple(ids)

    def pack(self, payload: bytes) -> bytes | None:
        """See ``Packer.pack``."""
        try:
            message = self._message.FromString(payload)
        except DecodeError:
            return None
        number = self._table.number
        parts = []
        for field in self._ids:
            text = getattr(message, field)
            raw = _as_id(text)
            if raw is None:
                return None
            parts.append(raw)
            message.ClearField(field)
        numbers = array(_NUMBERS, [number(getattr(message, field)) for field in self._names])
        for field in self._names:
            message.ClearField(field)
        for field in self._lists:
            values = [number(name) for name in getattr(message, field)]
            numbers.append(len(values))
            numbers.extend(values)
            message.ClearField(field)
        small = all(value < 65_536 for value in numbers)
        packed = array("H", numbers) if small else numbers
        count = len(numbers)
        if count > 65_535:
            return None
        head = bytes([small]) + count.to_bytes(2, "big")
        return head + packed.tobytes() + b"".join(parts) + message.SerializeToString()

    def unpack(self, packed: bytes) -> bytes:
        """See ``Packer.unpack``."""
        small, count = packed[0], int.from_bytes(packed[1:3], "big")
        numbers = array("H" if small else _NUMBERS)
        end = 3 + count * numbers.itemsize
        numbers.frombytes(packed[3:end])
        start = end + 16 * len(self._ids)
        message = self._message.FromString(packed[start:])
        for position, field in enumerate(self._ids):
            setattr(message, field, packed[end + 16 * position : end + 16 * position + 16].hex())
        name = self._table.name
        for position, field in enumerate(self._names):
            setattr(message, field, name(numbers[position]))
        position = len(self._names)
        for field in self._lists:
            stop = position + 1 + numbers[position]
            getattr(message, field).extend(name(value) for value in numbers[position + 1 : stop])
            position = stop
        return message.SerializeToString()


def _as_id(text: str) -> bytes | None:
    """The 16 bytes of 32 lower-case hexadecimal digits, or ``None``."""
    if len(text) != 32:
        return None
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        return None
    return raw if raw.hex() == text else None


def key_of(record_id: str) -> bytes | str:
    """``record_id`` as a key of the copy: half the size when it is 32 hexadecimal digits."""
    return _as_id(record_id) or record_id


def id_of(key: bytes | str) -> str:
    """The record id of a key."""
    return key.hex() if isinstance(key, bytes) else key


def pack(version: RecordVersion, payload: bytes | None, expires_at: float | None, packer: Packer | None) -> bytes:
    """One record; ``None`` as payload is a tombstone."""
    if payload is None:
        return _HEAD.pack(_DELETED, version.epoch, version.number)
    named = packer.pack(payload) if packer is not None else None
    flags = 0 if named is None else _NAMED
    body = payload if named is None else named
    if expires_at is None:
        return _HEAD.pack(flags, version.epoch, version.number) + body
    return _HEAD_WITH_END.pack(flags | _EXPIRES, version.epoch, version.number, expires_at) + body


def version_in(packed: bytes) -> RecordVersion:
    """The version of a packed record."""
    _, epoch, number = _HEAD.unpack_from(packed)
    return RecordVersion(epoch, number)


def is_tombstone(packed: bytes) -> bool:
    """Whether the record is deleted."""
    return bool(packed[0] & _DELETED)


def is_live(packed: bytes, now: float) -> bool:
    """Whether the record counts at ``now``: neither deleted nor expired."""
    flags = packed[0]
    if flags & _DELETED:
        return False
    return not flags & _EXPIRES or now < _HEAD_WITH_END.unpack_from(packed)[3]


def payload_in(packed: bytes, packer: Packer | None) -> bytes:
    """The payload of a packed record."""
    flags = packed[0]
    body = packed[_HEAD_WITH_END.size if flags & _EXPIRES else _HEAD.size :]
    return packer.unpack(body) if flags & _NAMED and packer is not None else body
