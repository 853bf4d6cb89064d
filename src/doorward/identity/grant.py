"""The grant record as a value."""

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from doorward.api.grant.v1 import grant_pb2
from doorward.errors import DataCorruptedError

RECORD_TYPE = "Grant"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Access of a configured kind, given to one person for a while. Times are seconds since the Unix epoch."""

    user_id: str
    name: str
    reason: str
    given_by: str
    created_at: float
    starts_at: float
    ends_at: float
    """Exclusive."""

    def to_bytes(self) -> bytes:
        """The serialized record payload."""
        message = grant_pb2.Grant(user_id=self.user_id, name=self.name, reason=self.reason, given_by=self.given_by)
        message.created_at.FromNanoseconds(int(self.created_at * 1e9))
        message.starts_at.FromNanoseconds(int(self.starts_at * 1e9))
        message.ends_at.FromNanoseconds(int(self.ends_at * 1e9))
        return message.SerializeToString()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Grant":
        """Read a record payload.

        Raises:
            DataCorruptedError: the bytes are no grant, or one without a person, a name, a start or an end.
        """
        try:
            message = grant_pb2.Grant.FromString(data)
        except DecodeError as error:
            raise DataCorruptedError("a grant record does not parse") from error
        bounded = message.HasField("starts_at") and message.HasField("ends_at")
        if not message.user_id or not message.name or not bounded:
            raise DataCorruptedError("a grant record lacks its person, its name, its start or its end")
        return cls(
            user_id=message.user_id,
            name=message.name,
            reason=message.reason,
            given_by=message.given_by,
            created_at=message.created_at.seconds + message.created_at.nanos * 1e-9,
            starts_at=message.starts_at.seconds + message.starts_at.nanos * 1e-9,
            ends_at=message.ends_at.seconds + message.ends_at.nanos * 1e-9,
        )


def grant_id(user_id: str, number: str) -> str:
    """The record id of a grant; it begins with whose it is, so that a change says whom it concerns."""
    return f"{user_id}/{number}"


def holder_of(record_id: str) -> str:
    """Whose grant a record id names."""
    return record_id.partition("/")[0]
