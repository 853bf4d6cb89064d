"""The keys of one purpose."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from doorward.errors import DataCorruptedError, InvalidTokenError
from doorward.keys.secret import Secret

KEY_BYTES = 32
KEY_ID_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One symmetric key. ``id`` is derived from the key, so two files cannot disagree about it."""

    id: bytes
    """The first four bytes of a hash of the key."""
    secret: Secret[bytes]
    """Exactly 32 random bytes."""

    @classmethod
    def from_bytes(cls, secret: bytes) -> "Key":
        """The key made of ``secret``.

        Raises:
            ValueError: ``secret`` is not 32 bytes long.
        """
        if len(secret) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(secret)}")
        digest = hashlib.sha256(b"doorward key id\0" + secret).digest()
        return cls(id=digest[:KEY_ID_BYTES], secret=Secret(secret))


class Keyring:
    """The keys of one purpose, newest first: the first signs and seals, all verify and open.

    Concurrency: safe to share. A rotation takes over the keys of a new keyring at once; nothing else ever changes one.
    """

    __slots__ = ("_by_id", "_keys", "purpose")

    def __init__(self, purpose: str, keys: Sequence[Key]) -> None:
        if not keys:
            raise ValueError(f"the keyring `{purpose}` holds no key")
        self.purpose = purpose
        self._keys = tuple(keys)
        self._by_id = {key.id: key for key in keys}
        if len(self._by_id) != len(self._keys):
            raise ValueError(f"the keyring `{purpose}` holds a key twice")

    @property
    def ids(self) -> list[str]:
        """Their ids in hexadecimal digits, the signing one first."""
        return [key.id.hex() for key in self._keys]

    def take_over(self, other: "Keyring") -> None:
        """Hold the keys of ``other`` from now on.

        Raises:
            ValueError: they are for another purpose.
        """
        if other.purpose != self.purpose:
            raise ValueError(f"keys for `{other.purpose}` where `{self.purpose}` belongs")
        self._keys = other.keys
        self._by_id = {key.id: key for key in other.keys}

    @property
    def primary(self) -> Key:
        """The key that signs and seals."""
        return self._keys[0]

    @property
    def keys(self) -> tuple[Key, ...]:
        """All of them, newest first."""
        return self._keys

    def holds(self, key_id: bytes) -> bool:
        """Whether there is a key with this id."""
        return key_id in self._by_id

    def find(self, key_id: bytes) -> Key:
        """The key with this id.

        Raises:
            InvalidTokenError: the keyring holds no such key (retired, revoked or never ours).
        """
        key = self._by_id.get(key_id)
        if key is None:
            raise InvalidTokenError(f"no key `{key_id.hex()}` for the purpose `{self.purpose}`")
        return key

    def to_json(self) -> str:
        """The file form: ``{"purpose": …, "keys": [hex, …]}``."""
        keys = [key.secret.reveal().hex() for key in self._keys]
        return json.dumps({"purpose": self.purpose, "keys": keys}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, purpose: str) -> "Keyring":
        """Read the file form.

        Raises:
            DataCorruptedError: the text is no keyring, or one of another purpose.
        """
        try:
            document = json.loads(text)
            keys = [Key.from_bytes(bytes.fromhex(entry)) for entry in document["keys"]]
            if document["purpose"] != purpose:
                raise DataCorruptedError(f"a keyring for `{document['purpose']}` where `{purpose}` belongs")
            return cls(purpose, keys)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            # The cause may quote key material, so only its kind is named.
            raise DataCorruptedError(f"the keyring file for `{purpose}` is damaged ({type(error).__name__})") from None
