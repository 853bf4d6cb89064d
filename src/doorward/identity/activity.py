"""When a session was last used, as a record: outside the feed, because every request is a use."""

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from doorward.api.session.v1 import session_pb2
from doorward.errors import DataCorruptedError

RECORD_TYPE = "SessionActivity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """The newest use that was written; at most a tenth of the idle timeout behind the newest one."""

    seen_at: float
    """Seconds since the Unix epoch."""

    def to_bytes(self) -> bytes:
        """The serialized record payload."""
        message = session_pb2.SessionActivity()
        message.seen_at.FromNanoseconds(int(self.seen_at * 1e9))
        return message.SerializeToString()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Activity":
        """Read a record payload.

        Raises:
            DataCorruptedError: the bytes are no activity.
        """
        try:
            message = session_pb2.SessionActivity.FromString(data)
        except DecodeError as error:
            raise DataCorruptedError("a session activity does not parse") from error
        return cls(seen_at=message.seen_at.seconds + message.seen_at.nanos * 1e-9)
