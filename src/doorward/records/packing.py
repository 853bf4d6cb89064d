"""Records as a replica keeps them: one ``bytes`` value each, without what is the same in thousands of others.

    packed    flags, end (when there is one), version, then the payload
    payload   as it came, or with its names replaced by numbers of a table that all records share

One value without references costs half of what a tuple of three objects does, and the collector never looks at it. A person's groups shrink
from their names to a byte or two each.
"""

import operator
import struct
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from google.protobuf.message import DecodeError, Message

from doorward.records.record import RecordVersion

_DELETED, _EXPIRES, _SMALLER = 1, 2, 4
_HEAD = struct.Struct(">BIQ")
"""Flags and version; epochs are counted one by one."""
_HEAD_WITH_END = struct.Struct(">BIQd")


class Packer(Protocol):
    """Makes payloads of one record type smaller."""

    def pack(self, record_id: str, payload: bytes) -> bytes | None:
        """The smaller form, or ``None`` when this payload has none."""
        ...

    def unpack(self, record_id: str, packed: bytes) -> bytes:
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

    def numbers(self, names: Iterable[str]) -> list[int]:
        """The numbers of ``names``, each once, in order."""
        known = list(names)
        try:
            return sorted(set(map(self._numbers.__getitem__, known)))
        except KeyError:
            return sorted({self.number(name) for name in known})

    def name(self, number: int) -> str:
        """The name with this number."""
        return self._names[number]

    def __len__(self) -> int:
        return len(self._names)


class MessagePacker:
    """Leaves out of protobuf payloads what others hold: the record's id, and names that recur.

    ``sets`` (repeated strings whose order means nothing) and ``names`` (strings) become numbers of the table; ``ids`` hold 32 hexadecimal
    digits and become the 16 bytes that they are; ``id`` must be the record's own. A message in which anything is otherwise stays as it is.
    """

    def __init__(
        self,
        message: type[Message],
        table: Names,
        *,
        sets: Sequence[str] = (),
        names: Sequence[str] = (),
        ids: Sequence[str] = (),
    ) -> None:
        self._message = message
        self._table = table
        self._sets = tuple(sets)
        self._names = tuple(names)
        self._ids = tuple(ids)

    def pack(self, record_id: str, payload: bytes) -> bytes | None:
        """See ``Packer.pack``."""
        try:
            message: Any = self._message.FromString(payload)
        except DecodeError:
            return None
        raw = [_as_id(getattr(message, field)) for field in self._ids]
        if message.id != record_id or None in raw:
            return None
        number = self._table.number
        packed = bytearray().join(part for part in raw if part is not None)
        for field in self._names:
            _append(packed, number(getattr(message, field)))
        for field in self._sets:
            numbers = self._table.numbers(getattr(message, field))
            _append(packed, len(numbers))
            steps = list(map(operator.sub, numbers, [0, *numbers]))
            try:
                packed += b"".join(map(_SHORT.__getitem__, steps))
            except IndexError:
                for step in steps:
                    _append(packed, step)
        for field in ("id", *self._ids, *self._names, *self._sets):
            message.ClearField(field)
        packed += message.SerializeToString()
        return bytes(packed)

    def unpack(self, record_id: str, packed: bytes) -> bytes:
        """See ``Packer.unpack``."""
        name = self._table.name
        position = 16 * len(self._ids)
        found: dict[str, Any] = {"id": record_id}
        for index, field in enumerate(self._ids):
            found[field] = packed[16 * index : 16 * index + 16].hex()
        for field in self._names:
            number, position = _next(packed, position)
            found[field] = name(number)
        for field in self._sets:
            count, position = _next(packed, position)
            names, number = [], 0
            for _ in range(count):
                step, position = _next(packed, position)
                number += step
                names.append(name(number))
            found[field] = sorted(names)
        return self._message(**found).SerializeToString() + packed[position:]


def _append(packed: bytearray, number: int) -> None:
    """Seven bits a byte, the lowest first, as in protobuf."""
    while number > 127:
        packed.append(number & 127 | 128)
        number >>= 7
    packed.append(number)


def _next(packed: bytes, position: int) -> tuple[int, int]:
    """A number and where the next one begins."""
    byte = packed[position]
    if byte < 128:
        return byte, position + 1
    number, shift = 0, 0
    while byte > 127:
        number |= (byte & 127) << shift
        shift += 7
        position += 1
        byte = packed[position]
    return number | byte << shift, position + 1


def _varint(number: int) -> bytes:
    packed = bytearray()
    _append(packed, number)
    return bytes(packed)


_SHORT = tuple(map(_varint, range(2048)))
"""The small numbers; a snapshot has millions of memberships, nearly all of them this far apart."""


def _as_id(text: str) -> bytes | None:
    """The 16 bytes of 32 lower-case hexadecimal digits, or ``None``."""
    if len(text) != 32:
        return None
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        return None
    return raw if raw.hex() == text else None


def key_of(record_id: str) -> int | str:
    """``record_id`` as a key of the copy: a number, which is smaller, when it is 32 hexadecimal digits."""
    raw = _as_id(record_id)
    return record_id if raw is None else int.from_bytes(raw, "big")


def id_of(key: int | str) -> str:
    """The record id of a key."""
    return key if isinstance(key, str) else f"{key:032x}"


def pack(version: RecordVersion, payload: bytes | None, expires_at: float | None) -> bytes:
    """One record with its payload as it came; ``None`` as payload is a tombstone."""
    if payload is None:
        return _HEAD.pack(_DELETED, version.epoch, version.number)
    if expires_at is None:
        return _HEAD.pack(0, version.epoch, version.number) + payload
    return _HEAD_WITH_END.pack(_EXPIRES, version.epoch, version.number, expires_at) + payload


def smaller(record_id: str, packed: bytes, packer: Packer | None) -> bytes:
    """A packed record whose payload has the smaller form; the same when there is none, or it has it already."""
    flags = packed[0]
    if packer is None or flags & (_DELETED | _SMALLER):
        return packed
    head = _HEAD_WITH_END.size if flags & _EXPIRES else _HEAD.size
    payload = packer.pack(record_id, packed[head:])
    return packed if payload is None else bytes((flags | _SMALLER,)) + packed[1:head] + payload


def version_in(packed: bytes) -> RecordVersion:
    """The version of a packed record."""
    _, epoch, number = _HEAD.unpack_from(packed)
    return RecordVersion(epoch, number)


def is_tombstone(packed: bytes) -> bool:
    """Whether the record is deleted."""
    return bool(packed[0] & _DELETED)


def end_of(packed: bytes) -> float | None:
    """When the record expires, if it does."""
    return _HEAD_WITH_END.unpack_from(packed)[3] if packed[0] & _EXPIRES else None


def payload_in(record_id: str, packed: bytes, packer: Packer | None) -> bytes:
    """The payload of a packed record."""
    flags = packed[0]
    body = packed[_HEAD_WITH_END.size if flags & _EXPIRES else _HEAD.size :]
    return packer.unpack(record_id, body) if flags & _SMALLER and packer is not None else body
