"""How a record becomes bytes in a store: sealed, and bound to type, id and version.

The version is part of what the seal authenticates, so that an older state put back under a newer number does not open. A
tombstone is sealed too: a deletion cannot be forged or undone by somebody who can write to the store but holds no key.
Index values are keyed hashes.
"""

import hashlib
import hmac
from typing import Protocol

from google.protobuf.message import DecodeError

from doorward.api.databroker.v1 import databroker_pb2
from doorward.errors import DataCorruptedError, InvalidTokenError
from doorward.keys.keyring import Keyring
from doorward.keys.sealed import Sealer
from doorward.records.record import Record, RecordVersion, record_message, record_of


class Codec(Protocol):
    """Turns records into stored bytes and back."""

    def encode(self, record: Record) -> bytes:
        """The stored form of ``record``, whose version is assigned."""
        ...

    def decode(self, record_type: str, record_id: str, version: RecordVersion, stored: bytes) -> Record:
        """The record; it is the one stored under exactly this type, id and version.

        Raises:
            DataCorruptedError: the bytes do not open or are another record's.
        """
        ...

    def index_value(self, record_type: str, index: str, value: str) -> str:
        """What stands in the store for an index value; hexadecimal."""
        ...


class SealedCodec:
    """Seals with the keys of the purpose ``records``."""

    def __init__(self, keyring: Keyring) -> None:
        self._sealer = Sealer(keyring)
        # Index hashes must not change with a rotation, or queries would miss what was stored before: the oldest key
        # stays in use for them until the records are sealed anew.
        self._index_key = hmac.digest(keyring.oldest.secret.reveal(), b"doorward record index", "sha256")

    def encode(self, record: Record) -> bytes:
        """See ``Codec.encode``."""
        return self._sealer.seal(
            record_message(record).SerializeToString(), _context(record.type, record.id, record.version)
        )

    def decode(self, record_type: str, record_id: str, version: RecordVersion, stored: bytes) -> Record:
        """See ``Codec.decode``."""
        try:
            plain = self._sealer.open(stored, _context(record_type, record_id, version))
            record = record_of(databroker_pb2.Record.FromString(plain))
        except (InvalidTokenError, DecodeError) as error:
            raise DataCorruptedError(f"a stored `{record_type}` does not open: {error}") from error
        if (record.type, record.id, record.version) != (record_type, record_id, version):
            raise DataCorruptedError(f"a stored `{record_type}` is another record's")
        return record

    def index_value(self, record_type: str, index: str, value: str) -> str:
        """See ``Codec.index_value``."""
        message = f"{record_type}\0{index}\0{value}".encode()
        return hmac.new(self._index_key, message, hashlib.sha256).hexdigest()


def _context(record_type: str, record_id: str, version: RecordVersion) -> bytes:
    return f"{record_type}\0{record_id}\0{version.epoch}\0{version.number}".encode()
