"""Directory records as values, and how an entry and a user find each other.

Both sides compute one id: the directory from its entry, the sign-in from its verified claims. What they compute it from is
immutable (`sub`, `oid` with `tid`, `entryUUID`), never a name or an address that changes hands.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp

from doorward.api.directory.v1 import directory_pb2
from doorward.errors import DataCorruptedError

USER_TYPE = "DirectoryUser"
GROUP_TYPE = "DirectoryGroup"
STATE_TYPE = "DirectoryState"
VERIFIED_EMAIL = "verified_email"
"""The one join that is not by an immutable claim; the operator has to write it, and the checker warns."""
_VALUE_LIMIT = 1024

M = TypeVar("M", bound=Message)


def directory_user_id(directory_id: str, join: str, value: str) -> str:
    """The record id of the entry that ``value`` of the claim ``join`` names."""
    digest = hashlib.sha256(b"doorward directory user\0")
    for part in (join.encode(), value.encode()):
        digest.update(len(part).to_bytes(4, "big") + part)
    return f"{directory_id}/{digest.hexdigest()[:32]}"


def directory_group_id(directory_id: str, number: int) -> str:
    """The record id of a group."""
    return f"{directory_id}/{number}"


def join_value(join: str, claims: Mapping[str, object]) -> str | None:
    """What claims say for a join: one claim, or several joined by ``+`` (`tid+oid`); ``None`` unless all are there."""
    parts = []
    for name in join.split("+"):
        value = claims.get(name)
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "" or len(str(value)) > _VALUE_LIMIT:
            return None
        parts.append(str(value))
    return "\0".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryUser:
    """A person as a directory describes them."""

    directory_id: str
    entry_id: str
    join_value: str
    group_numbers: tuple[int, ...]
    groups_known: bool = True
    active: bool = True
    removed: bool = False
    display_name: str = ""
    email: str = ""

    def to_bytes(self) -> bytes:
        """The serialized record payload."""
        return directory_pb2.DirectoryUser(
            directory_id=self.directory_id,
            entry_id=self.entry_id,
            join_value=self.join_value,
            group_numbers=self.group_numbers,
            groups_known=self.groups_known,
            active=self.active,
            removed=self.removed,
            display_name=self.display_name,
            email=self.email,
        ).SerializeToString(deterministic=True)

    @classmethod
    def from_bytes(cls, data: bytes) -> "DirectoryUser":
        """Read a record payload.

        Raises:
            DataCorruptedError: the bytes are no directory user.
        """
        message = _parsed(directory_pb2.DirectoryUser(), data)
        if not message.directory_id or not message.entry_id:
            raise DataCorruptedError("a directory user lacks its directory or its entry")
        return cls(
            directory_id=message.directory_id,
            entry_id=message.entry_id,
            join_value=message.join_value,
            group_numbers=tuple(message.group_numbers),
            groups_known=message.groups_known,
            active=message.active,
            removed=message.removed,
            display_name=message.display_name,
            email=message.email,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryGroup:
    """A group as a directory describes it."""

    directory_id: str
    group_id: str
    number: int
    name: str = ""
    email: str = ""

    @property
    def callings(self) -> frozenset[str]:
        """Everything that policy may call it."""
        return frozenset(text for text in (self.group_id, self.name, self.email) if text)

    def to_bytes(self) -> bytes:
        """The serialized record payload."""
        return directory_pb2.DirectoryGroup(
            directory_id=self.directory_id,
            group_id=self.group_id,
            number=self.number,
            name=self.name,
            email=self.email,
        ).SerializeToString(deterministic=True)

    @classmethod
    def from_bytes(cls, data: bytes) -> "DirectoryGroup":
        """Read a record payload.

        Raises:
            DataCorruptedError: the bytes are no directory group.
        """
        message = _parsed(directory_pb2.DirectoryGroup(), data)
        if not message.directory_id or not message.group_id:
            raise DataCorruptedError("a directory group lacks its directory or its id")
        return cls(
            directory_id=message.directory_id,
            group_id=message.group_id,
            number=message.number,
            name=message.name,
            email=message.email,
        )


def groups_of(entry: DirectoryUser, find: Callable[[str], DirectoryGroup | None]) -> list[DirectoryGroup] | None:
    """The groups of an entry, found by record id; ``None`` when they are not known, or one has gone missing."""
    if not entry.groups_known:
        return None
    found = []
    for number in entry.group_numbers:
        group = find(directory_group_id(entry.directory_id, number))
        if group is None:
            return None
        found.append(group)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryState:
    """How far a directory has been read. Times are seconds since the Unix epoch."""

    synchronised_at: float | None = None
    """``None`` until it has been read completely once."""
    next_group_number: int = 1
    users: int = 0
    groups: int = 0
    ambiguous: tuple[str, ...] = ()

    def good_until(self, stale_seconds: float | None) -> float:
        """When its word becomes too old; at once when it has never been read completely, never without a limit."""
        if self.synchronised_at is None:
            return 0.0
        return float("inf") if stale_seconds is None else self.synchronised_at + stale_seconds

    def to_bytes(self) -> bytes:
        """The serialized record payload."""
        message = directory_pb2.DirectoryState(
            next_group_number=self.next_group_number, users=self.users, groups=self.groups, ambiguous=self.ambiguous
        )
        if self.synchronised_at is not None:
            message.synchronised_at.FromNanoseconds(int(self.synchronised_at * 1e9))
        return message.SerializeToString(deterministic=True)

    @classmethod
    def from_bytes(cls, data: bytes) -> "DirectoryState":
        """Read a record payload.

        Raises:
            DataCorruptedError: the bytes are no directory state.
        """
        message = _parsed(directory_pb2.DirectoryState(), data)
        return cls(
            synchronised_at=_seconds(message.synchronised_at) if message.HasField("synchronised_at") else None,
            next_group_number=max(1, message.next_group_number),
            users=message.users,
            groups=message.groups,
            ambiguous=tuple(message.ambiguous),
        )


def _parsed(message: M, data: bytes) -> M:
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise DataCorruptedError(f"a `{message.DESCRIPTOR.name}` record does not parse") from error
    return message


def _seconds(stamp: Timestamp) -> float:
    return float(stamp.seconds + stamp.nanos * 1e-9)
