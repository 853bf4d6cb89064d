"""What other systems say of people, as values, and how a record and a person find each other.

Both sides compute one id: whoever puts the records from their lines, authorize from the user. A kind of record that was never
put is unknown, and so is one that was put too long ago; a person without a record of a known kind has none.
"""

import hashlib
import re
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from doorward.api.external.v1 import external_pb2
from doorward.errors import DataCorruptedError
from doorward.identity.address import canonical_email
from doorward.identity.directory import VERIFIED_EMAIL

RECORD_TYPE = "ExternalRecord"
SOURCE_TYPE = "ExternalSource"
SUBJECT = "subject"
JOINS = (SUBJECT, VERIFIED_EMAIL)
_KIND = re.compile(r"[A-Za-z0-9][A-Za-z0-9./_-]{0,119}\Z", re.ASCII)


def is_kind(text: str) -> bool:
    """Whether ``text`` can name a kind of record."""
    return _KIND.match(text) is not None


def external_record_id(kind: str, join: str, issuer: str, value: str) -> str:
    """The record id for the person that ``value`` joins: 32 hexadecimal digits."""
    digest = hashlib.sha256(b"doorward external record\0")
    for part in (kind, join, issuer, value):
        digest.update(len(part.encode()).to_bytes(4, "big") + part.encode())
    return digest.hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalRecord:
    """One system's word on one person."""

    id: str
    kind: str
    json: bytes
    """A JSON object."""

    def to_bytes(self) -> bytes:
        """The serialized record payload."""
        message = external_pb2.ExternalRecord(id=self.id, kind=self.kind, json=self.json)
        return message.SerializeToString(deterministic=True)

    @classmethod
    def from_bytes(cls, data: bytes) -> "ExternalRecord":
        """Read a record payload.

        Raises:
            DataCorruptedError: the bytes are no external record.
        """
        try:
            message = external_pb2.ExternalRecord.FromString(data)
        except DecodeError as error:
            raise DataCorruptedError("an external record does not parse") from error
        if not message.id or not message.kind:
            raise DataCorruptedError("an external record lacks its id or its kind")
        return cls(id=message.id, kind=message.kind, json=message.json)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalSource:
    """A kind of record, and how far its word reaches."""

    kind: str
    join: str
    issuer: str
    """With ``subject`` alone; else empty."""
    synchronised_at: float
    """Seconds since the Unix epoch."""
    stale_seconds: float | None
    """How long that counts; ``None`` for ever."""
    count: int = 0

    @property
    def good_until(self) -> float:
        """When it becomes too old."""
        return float("inf") if self.stale_seconds is None else self.synchronised_at + self.stale_seconds

    def record_id(self, issuer: str, subject: str, trusted_email: str | None) -> str | None:
        """The id of a person's record; ``None`` for somebody of whom this source cannot speak."""
        if self.join == SUBJECT:
            return external_record_id(self.kind, SUBJECT, issuer, subject) if issuer == self.issuer else None
        if self.join == VERIFIED_EMAIL and trusted_email is not None:
            return external_record_id(self.kind, VERIFIED_EMAIL, "", trusted_email)
        return None

    def id_of_line(self, value: str) -> str | None:
        """The id for what a line of a file names; ``None`` when that cannot be anybody."""
        if self.join == SUBJECT:
            return external_record_id(self.kind, SUBJECT, self.issuer, value) if 0 < len(value) <= 1024 else None
        address = canonical_email(value)
        return None if address is None else external_record_id(self.kind, VERIFIED_EMAIL, "", address)

    def to_bytes(self) -> bytes:
        """The serialized record payload."""
        message = external_pb2.ExternalSource(join=self.join, issuer=self.issuer, count=self.count)
        message.synchronised_at.FromNanoseconds(int(self.synchronised_at * 1e9))
        if self.stale_seconds is not None:
            message.stale_after.FromNanoseconds(int(self.stale_seconds * 1e9))
        return message.SerializeToString()

    @classmethod
    def from_bytes(cls, kind: str, data: bytes) -> "ExternalSource":
        """Read the payload of the record with the id ``kind``.

        Raises:
            DataCorruptedError: the bytes are no such record, or one that says less than is needed.
        """
        try:
            message = external_pb2.ExternalSource.FromString(data)
        except DecodeError as error:
            raise DataCorruptedError("a source of external records does not parse") from error
        if message.join not in JOINS or not message.HasField("synchronised_at"):
            raise DataCorruptedError("a source of external records lacks its join or its time")
        return cls(
            kind=kind,
            join=message.join,
            issuer=message.issuer,
            synchronised_at=message.synchronised_at.seconds + message.synchronised_at.nanos * 1e-9,
            stale_seconds=message.stale_after.seconds + message.stale_after.nanos * 1e-9
            if message.HasField("stale_after")
            else None,
            count=message.count,
        )
