"""The keys of an issuer whose tokens count without a sign-in, as a record; and which keys of a set are usable at all."""

import hashlib
import json
from dataclasses import dataclass

from google.protobuf.message import DecodeError
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey, import_key

from doorward.api.issuer.v1 import issuer_pb2
from doorward.errors import DataCorruptedError

RECORD_TYPE = "IssuerKeys"
KEY_LIMIT = 100
KEEP_SECONDS = 24 * 3600.0
"""How long keys count that their issuer has not confirmed: an outage must not stop everybody, and a lost issuer must."""
_ASYMMETRIC_TYPES = ("RSA", "EC", "OKP")
_ASYMMETRIC = (RSAKey, ECKey, OKPKey)


def issuer_keys_id(issuer: str) -> str:
    """The record's id: a hash of the issuer."""
    return hashlib.sha256(issuer.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerKeys:
    """What an issuer signs with."""

    issuer: str
    key_set: bytes
    """A JWK set in JSON."""
    confirmed_at: float
    """Seconds since the Unix epoch."""

    def to_bytes(self) -> bytes:
        """As a record's payload."""
        message = issuer_pb2.IssuerKeys(issuer=self.issuer, key_set=self.key_set, confirmed_at=self.confirmed_at)
        return message.SerializeToString()

    @staticmethod
    def from_bytes(data: bytes) -> "IssuerKeys":
        """The keys in a payload.

        Raises:
            DataCorruptedError: it is none.
        """
        try:
            message = issuer_pb2.IssuerKeys.FromString(data)
        except DecodeError as error:
            raise DataCorruptedError("the keys of an issuer do not parse") from error
        return IssuerKeys(issuer=message.issuer, key_set=message.key_set, confirmed_at=message.confirmed_at)

    def usable(self) -> tuple[Key, ...]:
        """The usable keys.

        Raises:
            DataCorruptedError: they are no JWK set.
        """
        try:
            document = json.loads(self.key_set)
            return usable_keys(document if isinstance(document, dict) else {})
        except (ValueError, RecursionError) as error:
            raise DataCorruptedError("the keys of an issuer are no JWK set") from error


def usable_keys(document: dict[str, object]) -> tuple[Key, ...]:
    """The public signing keys in a JWK set; keys of other kinds and uses are passed over.

    Raises:
        ValueError: it is no JWK set.
    """
    entries = document.get("keys")
    if not isinstance(entries, list) or len(entries) > KEY_LIMIT:
        raise ValueError("the key set is no JWK set")
    keys: list[Key] = []
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig" or "d" in entry:
            continue
        if entry.get("kty") not in _ASYMMETRIC_TYPES:
            continue
        try:
            key = import_key(entry)
        except (JoseError, ValueError, TypeError, KeyError):
            continue  # a kind of key that we do not know is no reason to refuse the others
        if isinstance(key, _ASYMMETRIC):
            keys.append(key)
    return tuple(keys)
