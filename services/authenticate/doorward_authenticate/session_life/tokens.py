"""The identity provider's tokens as a record: sealed under a key that only this plane holds."""

import json
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from doorward.api.session.v1 import session_pb2
from doorward.errors import DataCorruptedError, InvalidTokenError
from doorward.identity.unknown_fields import unknown_fields
from doorward.keys.sealed import Sealer
from doorward.records.record import Record

RECORD_TYPE = "SessionTokens"
DUE_INDEX = "due"
BUCKET_SECONDS = 10
"""Sessions that are due within the same ten seconds are found by one query."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderTokens:
    """What an identity provider handed out for a session. Times are seconds since the Unix epoch."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    id_token: str = field(repr=False)
    access_expires_at: float | None
    claims: dict[str, object] = field(repr=False)
    """Claims of the newest ID token; kept apart from userinfo, whose claims may come and go."""
    claims_at: float
    """When we got that ID token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptTokens:
    """Tokens, with when and by whom they are looked after."""

    session_id: str
    tokens: ProviderTokens
    due_at: float
    session_ends_at: float
    attempt: int = 0
    attempt_until: float | None = None
    failures: int = 0
    unknown: bytes = field(default=b"", repr=False, compare=False)
    """See ``unknown_fields``."""

    def to_record(self, sealer: Sealer) -> Record:
        """The record; it ends with the session."""
        tokens = self.tokens
        plain = {
            "access_token": tokens.access_token,
            "refresh_token": tokens.refresh_token,
            "id_token": tokens.id_token,
            "access_expires_at": tokens.access_expires_at,
            "claims": tokens.claims,
            "claims_at": tokens.claims_at,
        }
        message = session_pb2.SessionTokens(
            session_id=self.session_id,
            sealed=sealer.seal(json.dumps(plain).encode(), _context(self.session_id)),
            due_at=_stamp(self.due_at),
            attempt=self.attempt,
            attempt_until=None if self.attempt_until is None else _stamp(self.attempt_until),
            failures=self.failures,
        )
        return Record(
            type=RECORD_TYPE,
            id=self.session_id,
            data=message.SerializeToString() + self.unknown,
            expires_at=self.session_ends_at,
            indexes={DUE_INDEX: (bucket(self.due_at),)},
        )

    @classmethod
    def from_record(cls, record: Record, sealer: Sealer) -> "KeptTokens":
        """Read a record.

        Raises:
            DataCorruptedError: it does not parse, or was sealed for another session or under a lost key.
        """
        try:
            message = session_pb2.SessionTokens.FromString(record.data)
            plain = json.loads(sealer.open(message.sealed, _context(record.id)))
            tokens = ProviderTokens(
                access_token=str(plain["access_token"]),
                refresh_token=plain["refresh_token"],
                id_token=str(plain["id_token"]),
                access_expires_at=plain["access_expires_at"],
                claims=dict(plain["claims"]),
                claims_at=float(plain.get("claims_at", 0.0)),  # an older version did not keep it
            )
        except (DecodeError, InvalidTokenError, ValueError, KeyError, TypeError) as error:
            raise DataCorruptedError(f"the tokens of a session do not open ({type(error).__name__})") from None
        return cls(
            session_id=record.id,
            tokens=tokens,
            due_at=_seconds(message.due_at),
            session_ends_at=record.expires_at if record.expires_at is not None else _seconds(message.due_at),
            attempt=message.attempt,
            attempt_until=_seconds(message.attempt_until) if message.HasField("attempt_until") else None,
            failures=message.failures,
            unknown=unknown_fields(message),
        )


def due_at_of(record: Record) -> float:
    """When a record is due, without opening it.

    Raises:
        DataCorruptedError: it does not parse.
    """
    try:
        return _seconds(session_pb2.SessionTokens.FromString(record.data).due_at)
    except DecodeError:
        raise DataCorruptedError("the tokens of a session do not parse") from None


def bucket(due_at: float) -> str:
    """The index value of a time."""
    return str(int(due_at // BUCKET_SECONDS))


def _context(session_id: str) -> bytes:
    return b"tokens\0" + session_id.encode()


def _stamp(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(int(seconds * 1e9))
    return stamp


def _seconds(stamp: Timestamp) -> float:
    return float(stamp.seconds + stamp.nanos * 1e-9)
