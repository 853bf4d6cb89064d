"""How a record becomes bytes in a store: sealed, and bound to type, id and version.

The version is part of what the seal authenticates, so that an older state put back under a newer number does not open. A
tombstone is sealed too: a deletion cannot be forged by somebody who can write to the store but holds no key. A record that is put
back whole, under the version that it had, opens: nothing here says what the newest version is.
Index values are keyed hashes.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from google.protobuf.message import DecodeError

from doorward.api.databroker.v1 import databroker_pb2
from doorward.errors import DataCorruptedError, InvalidTokenError, KeyMissingError
from doorward.keys.keyring import KEY_ID_BYTES, Key, Keyring
from doorward.keys.sealed import Sealer, key_id_of
from doorward.records.record import Record, RecordVersion, record_message, record_of

_MARK = b"doorward records"
_MARK_CONTEXT = b"mark of the keys in use"
_HASHED = 20_000
_PROOF_BYTES = 16


class Codec(Protocol):
    """Turns records into stored bytes and back."""

    def encode(self, record: Record) -> bytes:
        """The stored form of ``record``, whose version is assigned."""
        ...

    def message(self, record_type: str, record_id: str, version: RecordVersion, stored: bytes) -> databroker_pb2.Record:
        """The record as a message; it is the one stored under exactly this type, id and version.

        Raises:
            KeyMissingError: it is sealed under a key that is not held.
            DataCorruptedError: the bytes do not open or are another record's.
        """
        ...

    def index_values(self, record_type: str, index: str, value: str) -> tuple[str, ...]:
        """What stands in the store for an index value; hexadecimal. New entries use the first one."""
        ...

    def attest(self, statement: bytes) -> bytes:
        """A proof of ``statement`` for whoever holds any of the keys that are held here, also where the newest one is not among them."""
        ...

    def is_attested(self, statement: bytes, proof: bytes) -> bool:
        """Whether ``proof`` was made for exactly ``statement`` with a key that is held."""
        ...

    def mark(self) -> str:
        """A text that only holders of the keys can read, to be kept with the records."""
        ...

    def check_mark(self, mark: str) -> None:
        """Return when ``mark`` was made with keys that are held.

        Raises:
            KeyMissingError: it was not.
        """
        ...

    def is_current(self, stored: bytes) -> bool:
        """Whether stored bytes are sealed under the key that seals now."""
        ...


def decode(codec: Codec, record_type: str, record_id: str, version: RecordVersion, stored: bytes) -> Record:
    """The record as a value; raises as ``Codec.message`` does."""
    return record_of(codec.message(record_type, record_id, version, stored))


class SealedCodec:
    """Seals with the keys of the purpose ``records``."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._sealer = Sealer(keyring)
        self._derived = _Derived()
        self._hashed: dict[str, tuple[str, ...]] = {}
        """Index values hashed lately: a directory has a million memberships of ten thousand groups."""

    def encode(self, record: Record) -> bytes:
        """See ``Codec.encode``."""
        return self._sealer.seal(
            record_message(record).SerializeToString(), _context(record.type, record.id, record.version)
        )

    def message(self, record_type: str, record_id: str, version: RecordVersion, stored: bytes) -> databroker_pb2.Record:
        """See ``Codec.message``."""
        try:
            plain = self._sealer.open(stored, _context(record_type, record_id, version))
            record = databroker_pb2.Record.FromString(plain)
        except (InvalidTokenError, DecodeError) as error:
            key_id = key_id_of(stored)
            if key_id is not None and not self._keyring.holds(key_id):
                raise KeyMissingError(
                    f"a stored `{record_type}` is sealed under the key `{key_id.hex()}`, which is not held"
                ) from error
            raise DataCorruptedError(f"a stored `{record_type}` does not open: {error}") from error
        told = record.version
        is_same = record.type == record_type and record.id == record_id
        if not is_same or told.epoch != version.epoch or told.number != version.number:
            raise DataCorruptedError(f"a stored `{record_type}` is another record's")
        return record

    def index_values(self, record_type: str, index: str, value: str) -> tuple[str, ...]:
        """See ``Codec.index_values``. Until everything is sealed anew, entries made with older keys are found too."""
        message = f"{record_type}\0{index}\0{value}"
        derived = self._of_keys
        found = self._hashed.get(message)
        if found is None:
            if len(self._hashed) >= _HASHED:
                self._hashed.clear()
            found = self._hashed[message] = tuple(
                _keyed_hash(halves, message.encode()).hex() for halves in derived.index
            )
        return found

    def attest(self, statement: bytes) -> bytes:
        """See ``Codec.attest``."""
        return b"".join(
            key_id + _keyed_hash(halves, statement)[:_PROOF_BYTES] for key_id, halves in self._of_keys.proof.items()
        )

    def is_attested(self, statement: bytes, proof: bytes) -> bool:
        """See ``Codec.is_attested``."""
        step = KEY_ID_BYTES + _PROOF_BYTES
        parts = [proof[start : start + step] for start in range(0, len(proof), step)]
        said = {part[:KEY_ID_BYTES]: part[KEY_ID_BYTES:] for part in parts}
        return any(
            hmac.compare_digest(said[key_id], _keyed_hash(halves, statement)[:_PROOF_BYTES])
            for key_id, halves in self._of_keys.proof.items()
            if key_id in said
        )

    @property
    def _of_keys(self) -> _Derived:
        """What follows from the keys that are held now; a rotation changes them while we run."""
        if self._derived.keys is not self._keyring.keys:
            self._derived = _Derived.of(self._keyring.keys)
            self._hashed.clear()
        return self._derived

    def mark(self) -> str:
        """See ``Codec.mark``."""
        return self._sealer.seal(_MARK, _MARK_CONTEXT).hex()

    def check_mark(self, mark: str) -> None:
        """See ``Codec.check_mark``."""
        try:
            sealed = bytes.fromhex(mark)
            key_id = key_id_of(sealed)
            if key_id is not None and self._keyring.holds(key_id):
                self._sealer.open(sealed, _MARK_CONTEXT)
                return
        except (ValueError, InvalidTokenError) as error:
            raise KeyMissingError("the mark of the keys in the store does not open") from error
        raise KeyMissingError(
            f"the store is sealed under the key `{key_id.hex() if key_id else 'unknown'}`, which is not held"
        )

    def is_current(self, stored: bytes) -> bool:
        """See ``Codec.is_current``."""
        return key_id_of(stored) == self._keyring.primary.id


_Halves: TypeAlias = "tuple[hashlib._Hash, hashlib._Hash]"  # noqa: SLF001  # the type has no other name


@dataclass(frozen=True, slots=True)
class _Derived:
    """What is hashed with, for each key."""

    keys: tuple[Key, ...] = ()
    index: tuple[_Halves, ...] = ()
    proof: Mapping[bytes, _Halves] = field(default_factory=dict)
    """By key id."""

    @classmethod
    def of(cls, keys: tuple[Key, ...]) -> _Derived:
        def derived(key: Key, purpose: bytes) -> _Halves:
            return _halves(hmac.digest(key.secret.reveal(), purpose, "sha256"))

        index = tuple(derived(key, b"doorward record index") for key in keys)
        return cls(keys, index, {key.id: derived(key, b"doorward record proof") for key in keys})


def _halves(key: bytes) -> _Halves:
    """HMAC-SHA-256 (RFC 2104) as far as the key goes: a directory has a million index values to hash."""
    padded = key.ljust(hashlib.sha256().block_size, b"\0")
    return tuple(hashlib.sha256(bytes(byte ^ pad for byte in padded)) for pad in (0x36, 0x5C))  # type: ignore[return-value]  # two


def _keyed_hash(halves: _Halves, message: bytes) -> bytes:
    inner, outer = (half.copy() for half in halves)
    inner.update(message)
    outer.update(inner.digest())
    return outer.digest()


def _context(record_type: str, record_id: str, version: RecordVersion) -> bytes:
    return f"{record_type}\0{record_id}\0{version.epoch}\0{version.number}".encode()
