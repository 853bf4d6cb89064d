"""The service account record as a value."""

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from doorward.api.service_account.v1 import service_account_pb2
from doorward.errors import DataCorruptedError

RECORD_TYPE = "ServiceAccount"
ID_PREFIX = "sa-"
"""Begins the id of every service account, and of nothing else that speaks for somebody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAccount:
    """A program with an identity of its own. Times are seconds since the Unix epoch."""

    id: str
    name: str
    groups: frozenset[str]
    token_hash: bytes
    created_at: float
    expires_at: float
    owner_id: str = ""
    """The user who answers for it, or empty."""

    def is_expired(self, now: float) -> bool:
        """Whether it has ended by ``now``; judged at every decision."""
        return now >= self.expires_at

    def to_bytes(self) -> bytes:
        """The serialized record payload."""
        message = service_account_pb2.ServiceAccount(
            id=self.id,
            name=self.name,
            groups=sorted(self.groups),
            token_hash=self.token_hash,
            owner_id=self.owner_id,
        )
        message.created_at.FromNanoseconds(int(self.created_at * 1e9))
        message.expires_at.FromNanoseconds(int(self.expires_at * 1e9))
        return message.SerializeToString()

    @classmethod
    def from_bytes(cls, data: bytes) -> "ServiceAccount":
        """Read a record payload.

        Raises:
            DataCorruptedError: the bytes are no service account, or one without an id, a hash or an end.
        """
        try:
            message = service_account_pb2.ServiceAccount.FromString(data)
        except DecodeError as error:
            raise DataCorruptedError("a service account record does not parse") from error
        if not message.id.startswith(ID_PREFIX) or not message.token_hash or not message.HasField("expires_at"):
            raise DataCorruptedError("a service account record lacks its id, its token or its end")
        return cls(
            id=message.id,
            name=message.name,
            groups=frozenset(message.groups),
            token_hash=message.token_hash,
            created_at=message.created_at.seconds + message.created_at.nanos * 1e-9,
            expires_at=message.expires_at.seconds + message.expires_at.nanos * 1e-9,
            owner_id=message.owner_id,
        )
