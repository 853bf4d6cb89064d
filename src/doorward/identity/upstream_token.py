"""Tokens of an identity provider that routes put into headers, as a value; authenticate writes them, authorize reads them."""

from dataclasses import dataclass, field

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from doorward.api.session.v1 import session_pb2
from doorward.errors import DataCorruptedError

RECORD_TYPE = "SessionUpstreamToken"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamToken:
    """Times are seconds since the Unix epoch; ``None``: not known. What no route asks for is empty."""

    session_id: str
    access_token: str = field(default="", repr=False)
    access_expires_at: float | None = None
    id_token: str = field(default="", repr=False)
    id_expires_at: float | None = None

    def access_token_at(self, now: float) -> str | None:
        """The access token while it lasts."""
        return self.access_token if self.access_token and _lasts(self.access_expires_at, now) else None

    def id_token_at(self, now: float) -> str | None:
        """The ID token while it lasts."""
        return self.id_token if self.id_token and _lasts(self.id_expires_at, now) else None

    def to_bytes(self) -> bytes:
        """The serialized record payload."""
        return session_pb2.SessionUpstreamToken(
            id=self.session_id,
            access_token=self.access_token,
            access_expires_at=_stamp(self.access_expires_at),
            id_token=self.id_token,
            id_expires_at=_stamp(self.id_expires_at),
        ).SerializeToString()

    @classmethod
    def from_bytes(cls, data: bytes) -> "UpstreamToken":
        """Read a record payload.

        Raises:
            DataCorruptedError: the bytes are no such record, or one without its session.
        """
        try:
            message = session_pb2.SessionUpstreamToken.FromString(data)
        except DecodeError as error:
            raise DataCorruptedError("an upstream token does not parse") from error
        if not message.id:
            raise DataCorruptedError("an upstream token names no session")
        return cls(
            session_id=message.id,
            access_token=message.access_token,
            access_expires_at=_seconds(message.access_expires_at) if message.HasField("access_expires_at") else None,
            id_token=message.id_token,
            id_expires_at=_seconds(message.id_expires_at) if message.HasField("id_expires_at") else None,
        )


def _lasts(expires_at: float | None, now: float) -> bool:
    return expires_at is None or now < expires_at


def _stamp(seconds: float | None) -> Timestamp | None:
    if seconds is None:
        return None
    stamp = Timestamp()
    stamp.FromNanoseconds(int(seconds * 1e9))
    return stamp


def _seconds(stamp: Timestamp) -> float:
    return float(stamp.seconds + stamp.nanos * 1e-9)
