"""The user record as a value."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from doorward.api.user.v1 import user_pb2
from doorward.errors import DataCorruptedError
from doorward.identity.address import canonical_email
from doorward.identity.unknown_fields import unknown_fields

RECORD_TYPE = "User"


def user_id(issuer: str, subject: str) -> str:
    """The id of the person that ``issuer`` calls ``subject``: 32 hexadecimal digits.

    The key is the pair, never an e-mail address: addresses change hands and can be claimed.
    """
    digest = hashlib.sha256(b"doorward user\0")
    for part in (issuer.encode(), subject.encode()):
        digest.update(len(part).to_bytes(4, "big") + part)
    return digest.hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A person as an identity provider describes them."""

    id: str
    issuer: str
    subject: str
    email: str = ""
    email_verified: bool = False
    name: str = ""
    groups: frozenset[str] | None = None
    """``None`` when the identity provider did not name them completely."""
    active: bool = True
    refreshed_at: float = 0.0
    directory_user_id: str = ""
    """Record id of the directory entry that the claims name; whether there is one is for the directory to say."""
    unknown: bytes = field(default=b"", repr=False, compare=False)
    """See ``unknown_fields``."""

    def trusted_email(self, email_domains: Collection[str] | None) -> str | None:
        """The address that policy may rely on, in canonical form, or ``None``.

        It counts only when the identity provider verified it and is an authority for its domain:
        ``email_domains`` lists those domains in lower case; ``None`` means that it is the only identity provider
        and was given no list.
        """
        address = canonical_email(self.email)
        if address is None or not self.email_verified:
            return None
        if email_domains is not None and address.rpartition("@")[2] not in email_domains:
            return None
        return address

    def to_bytes(self) -> bytes:
        """The serialized record payload."""
        message = user_pb2.User(
            id=self.id,
            issuer=self.issuer,
            subject=self.subject,
            email=self.email,
            email_verified=self.email_verified,
            name=self.name,
            groups=sorted(self.groups or ()),
            groups_known=self.groups is not None,
            active=self.active,
            directory_user_id=self.directory_user_id,
        )
        message.refreshed_at.FromNanoseconds(int(self.refreshed_at * 1e9))
        return message.SerializeToString() + self.unknown

    @classmethod
    def from_bytes(cls, data: bytes) -> "User":
        """Read a record payload.

        Raises:
            DataCorruptedError: the bytes are no user, or one without an id, issuer or subject.
        """
        try:
            message = user_pb2.User.FromString(data)
        except DecodeError as error:
            raise DataCorruptedError("a user record does not parse") from error
        if not message.id or not message.issuer or not message.subject:
            raise DataCorruptedError("a user record lacks its id, issuer or subject")
        return cls(
            id=message.id,
            issuer=message.issuer,
            subject=message.subject,
            email=message.email,
            email_verified=message.email_verified,
            name=message.name,
            groups=frozenset(message.groups) if message.groups_known else None,
            active=message.active,
            refreshed_at=message.refreshed_at.seconds + message.refreshed_at.nanos * 1e-9,
            directory_user_id=message.directory_user_id,
            unknown=unknown_fields(message),
        )
