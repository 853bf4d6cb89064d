"""Bearer tokens of others, kept as keyed hashes: ``hmac-sha256:KEY:DIGEST`` in hexadecimal digits.

Each has a key of its own beside it, so equal tokens do not show, and a list of hashes of likely tokens helps nobody. The tokens that
we make have 256 random bits; what is in the file opens nothing.
"""

import hmac
import re
import secrets

PREFIX = "hmac-sha256:"
_LINE = re.compile(r"hmac-sha256:([0-9a-f]{64}):([0-9a-f]{64})\Z", re.ASCII)
_CONTEXT = b"doorward bearer token\0"


def new_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(32)


def hash_token(token: str, key: bytes) -> str:
    """What may be kept of ``token``; ``key`` is 32 random bytes."""
    return f"{PREFIX}{key.hex()}:{_digest(token, key).hex()}"


def matches(kept: str, token: str) -> bool:
    """Whether ``kept`` is the hash of ``token``; what is no hash of ours matches nothing."""
    parsed = _LINE.match(kept)
    key, digest = (bytes.fromhex(parsed[1]), bytes.fromhex(parsed[2])) if parsed else (bytes(32), bytes(32))
    return hmac.compare_digest(_digest(token, key), digest) and parsed is not None


def _digest(token: str, key: bytes) -> bytes:
    return hmac.digest(key, _CONTEXT + token.encode(), "sha256")
