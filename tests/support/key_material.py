"""Keyrings for tests: fixed keys, so that a failure repeats itself."""

import hashlib

from doorward.keys.keyring import Key, Keyring
from doorward.keys.store import Purpose


def key(name: str) -> Key:
    return Key.from_bytes(hashlib.sha256(name.encode()).digest())


def keyring(purpose: Purpose, *names: str) -> Keyring:
    """A keyring of ``purpose`` with one key for each name, or one of its own when no name is given."""
    return Keyring(purpose, [key(name) for name in names or (purpose.value,)])
