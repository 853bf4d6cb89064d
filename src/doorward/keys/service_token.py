"""Tokens of service accounts: ``dwsa_`` and what names the account, then a secret of 256 bits.

Only a keyed hash of the secret is stored. Whoever reads the store learns no token, and whoever writes to it cannot make
one without the key.
"""

import hmac
import re

from doorward.keys.keyring import Key, Keyring

PREFIX = "dwsa_"
"""Begins every token of ours, so that an application's own bearer tokens are left alone, and leaked ones are found."""
SECRET_BYTES = 32
_TOKEN = re.compile(r"dwsa_([0-9a-f]{32})_([0-9a-f]{64})\Z", re.ASCII)
_CONTEXT = b"doorward service account token\0"


def new_token(number: bytes, secret: bytes) -> str:
    """The token of the account with this number (16 bytes)."""
    return f"{PREFIX}{number.hex()}_{secret.hex()}"


def parse_token(text: str) -> tuple[str, bytes] | None:
    """Number (in hexadecimal) and secret of a token, or ``None`` when it is none."""
    match = _TOKEN.match(text)
    return (match[1], bytes.fromhex(match[2])) if match else None


class TokenHasher:
    """Makes and compares keyed hashes. The first key makes, all compare."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    @property
    def keys(self) -> tuple[Key, ...]:
        """What compares now; another object once the keys have changed."""
        return self._keyring.keys

    def hash(self, number: str, secret: bytes) -> bytes:
        """What is stored."""
        return _digest(self._keyring.primary.secret.reveal(), number, secret)

    def holds(self, key_id: bytes) -> bool:
        """Whether what was hashed with this key compares now."""
        return self._keyring.holds(key_id)

    def match(self, number: str, secret: bytes, stored: bytes) -> bytes | None:
        """Id of the key by which ``stored`` is the hash of exactly this secret for exactly this account; ``None`` when it is not."""
        found = None
        for key in self._keyring.keys:
            if hmac.compare_digest(_digest(key.secret.reveal(), number, secret), stored):
                found = key.id
        return found


def _digest(key: bytes, number: str, secret: bytes) -> bytes:
    return hmac.digest(key, _CONTEXT + number.encode("ascii") + b"\0" + secret, "sha256")
