"""Authenticated encryption for cookies, codes and records: XAES-256-GCM (C2SP).

Its 24-byte random nonce makes it safe to seal as often as anonymous callers ask for it; plain AES-GCM with random
96-bit nonces would not be. A sealed value is ``0x01 | key id (4) | nonce (24) | ciphertext and tag``.
"""

import base64
import binascii
import os
from collections.abc import Callable
from typing import TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from doorward.errors import InvalidTokenError
from doorward.keys.keyring import KEY_ID_BYTES, Key, Keyring

NONCE_BYTES = 24
TAG_BYTES = 16
_FORMAT = b"\x01"
_HEADER_BYTES = 1 + KEY_ID_BYTES + NONCE_BYTES
OVERHEAD_BYTES = _HEADER_BYTES + TAG_BYTES


def sealing_key(token: bytes) -> bytes:
    """Id of the key that ``token`` names; it says so itself, and only opening it shows whether that is true."""
    return token[1 : 1 + KEY_ID_BYTES]


Derivation: TypeAlias = Callable[[bytes], AESGCM]


class Sealer:
    """Seals and opens byte strings for one purpose.

    ``context`` is authenticated and not stored: opening succeeds only with the bytes given when sealing, so it
    holds what the value must stay bound to (a host, a record's type and id).

    Concurrency: safe to share; what it keeps follows from the keys alone.
    """

    __slots__ = ("_ciphers", "_keyring", "_purpose", "_random")

    def __init__(self, keyring: Keyring, random: Callable[[int], bytes] = os.urandom) -> None:
        self._keyring = keyring
        self._purpose = keyring.purpose.encode() + b"\0"
        self._random = random
        self._ciphers: tuple[tuple[Key, ...], dict[bytes, Derivation]] = ((), {})

    @property
    def keys(self) -> tuple[Key, ...]:
        """What opens now; another object once the keys have changed, and whoever remembers what was opened forgets it then."""
        return self._keyring.keys

    def seal(self, plaintext: bytes, context: bytes) -> bytes:
        """``plaintext`` sealed under the first key."""
        key = self._keyring.primary
        nonce = self._random(NONCE_BYTES)
        body = self._cipher(key, nonce).encrypt(nonce[12:], plaintext, self._purpose + context)
        return _FORMAT + key.id + nonce + body

    def open(self, token: bytes, context: bytes) -> bytes:
        """The plaintext of ``token``.

        Raises:
            InvalidTokenError: malformed, sealed under a key that is not held, for another purpose or context, or
                changed on the way.
        """
        if len(token) < OVERHEAD_BYTES or token[:1] != _FORMAT:
            raise InvalidTokenError("not a sealed value")
        key = self._keyring.find(token[1 : 1 + KEY_ID_BYTES])
        nonce = token[1 + KEY_ID_BYTES : _HEADER_BYTES]
        try:
            return self._cipher(key, nonce).decrypt(nonce[12:], token[_HEADER_BYTES:], self._purpose + context)
        except InvalidTag:
            raise InvalidTokenError("the seal does not verify") from None

    def holds(self, key_id: bytes) -> bool:
        """Whether what was sealed under this key opens now."""
        return self._keyring.holds(key_id)

    def _cipher(self, key: Key, nonce: bytes) -> AESGCM:
        keys, ciphers = self._ciphers
        if keys is not self._keyring.keys:
            # INVARIANT: nothing is kept of a key that is not held any more.
            ciphers = {}
            self._ciphers = (self._keyring.keys, ciphers)
        derive = ciphers.get(key.id)
        if derive is None:
            derive = ciphers[key.id] = derivation(key.secret.reveal())
        return derive(nonce)


def key_id_of(token: bytes) -> bytes | None:
    """The id of the key that sealed ``token``; ``None`` when it is no sealed value."""
    if len(token) < OVERHEAD_BYTES or token[:1] != _FORMAT:
        return None
    return token[1 : 1 + KEY_ID_BYTES]


def derivation(key: bytes) -> Derivation:
    """The per-message cipher of XAES-256-GCM for a nonce: its key is the AES-CMAC of the nonce's first half, under ``key``.

    What depends on ``key`` alone is worked out once; that was two thirds of opening a record.
    """
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305  # one block of a key derivation
    left = int.from_bytes(block.update(bytes(16)), "big")
    subkey = (left << 1) & ((1 << 128) - 1)
    if left >> 127:
        subkey ^= 0x87
    # Two blocks, counted 1 and 2; each is mixed with the subkey.
    constant = b"".join(
        (int.from_bytes(b"\0" + bytes([counter]) + b"X" + bytes(13), "big") ^ subkey).to_bytes(16, "big")
        for counter in (1, 2)
    )
    mixed = int.from_bytes(constant, "big")
    encrypt = block.update

    def derive(nonce: bytes) -> AESGCM:
        # Whole blocks of ECB: nothing stays behind in the encryptor from one call to the next.
        half = int.from_bytes(nonce[:12], "big")
        return AESGCM(encrypt((mixed ^ (half << 128 | half)).to_bytes(32, "big")))

    return derive


def to_text(token: bytes) -> str:
    """``token`` in unpadded base64url."""
    return base64.urlsafe_b64encode(token).rstrip(b"=").decode("ascii")


def from_text(text: str, limit_bytes: int) -> bytes:
    """The bytes of an unpadded base64url text of at most ``limit_bytes`` characters.

    Raises:
        InvalidTokenError: too long, or not the one canonical encoding of its bytes.
    """
    if len(text) > limit_bytes or not text.isascii():
        raise InvalidTokenError("not a token of ours")
    try:
        token = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise InvalidTokenError("not base64url") from None
    if to_text(token) != text:
        raise InvalidTokenError("not canonical base64url")
    return token
