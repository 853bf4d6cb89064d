"""The session record as a value."""

from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from doorward.api.session.v1 import session_pb2
from doorward.errors import DataCorruptedError
from doorward.identity.unknown_fields import unknown_fields

RECORD_TYPE = "Session"
CLAIMS_NOT_KNOWN = b""
"""Instead of claims: there may be any. No claims at all are ``{}``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A signed-in browser. Times are seconds since the Unix epoch."""

    id: str
    user_id: str
    identity_provider_id: str
    issued_at: float
    expires_at: float
    authenticated_at: float | None
    """When the identity provider itself last saw the person; ``None`` when it does not say."""
    methods: tuple[str, ...] = ()
    context_class: str = ""
    provider_session_id: str = ""
    claims_json: bytes = b"{}"
    """A JSON object, or ``CLAIMS_NOT_KNOWN``."""
    unknown: bytes = field(default=b"", repr=False, compare=False)
    """See ``unknown_fields``."""

    def is_expired(self, now: float) -> bool:
        """Whether the session has ended by ``now``; judged at every decision, not by a sweeper."""
        return now >= self.expires_at

    def to_bytes(self) -> bytes:
        """The serialized record payload."""
        message = session_pb2.Session(
            id=self.id,
            user_id=self.user_id,
            identity_provider_id=self.identity_provider_id,
            methods=self.methods,
            context_class=self.context_class,
            provider_session_id=self.provider_session_id,
            claims_json=self.claims_json,
        )
        message.issued_at.FromNanoseconds(int(self.issued_at * 1e9))
        message.expires_at.FromNanoseconds(int(self.expires_at * 1e9))
        if self.authenticated_at is not None:
            message.authenticated_at.FromNanoseconds(int(self.authenticated_at * 1e9))
        return message.SerializeToString() + self.unknown

    @classmethod
    def from_bytes(cls, data: bytes) -> "Session":
        """Read a record payload.

        Raises:
            DataCorruptedError: the bytes are no session, or one without an id, a user or an end.
        """
        try:
            message = session_pb2.Session.FromString(data)
        except DecodeError as error:
            raise DataCorruptedError("a session record does not parse") from error
        if not message.id or not message.user_id or not message.HasField("expires_at"):
            raise DataCorruptedError("a session record lacks its id, its user or its end")
        return cls(
            id=message.id,
            user_id=message.user_id,
            identity_provider_id=message.identity_provider_id,
            issued_at=message.issued_at.seconds + message.issued_at.nanos * 1e-9,
            expires_at=message.expires_at.seconds + message.expires_at.nanos * 1e-9,
            authenticated_at=message.authenticated_at.seconds + message.authenticated_at.nanos * 1e-9
            if message.HasField("authenticated_at")
            else None,
            methods=tuple(message.methods),
            context_class=message.context_class,
            provider_session_id=message.provider_session_id,
            claims_json=message.claims_json,
            unknown=unknown_fields(message),
        )
