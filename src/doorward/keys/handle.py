"""The session handle: what a browser's cookie holds, sealed so that nobody outside can read or make one.

It names a session, the one host that it is for, when it ends, and the version at which the session was written, so
that an authorizer can wait for a sign-in that it has not yet heard of. Everything else is in the record.
"""

import struct
from dataclasses import dataclass

from doorward.errors import InvalidTokenError
from doorward.keys.keyring import Key
from doorward.keys.sealed import Sealer, from_text, sealing_key, to_text

_LAYOUT = struct.Struct(">16sQQQ")
TEXT_LIMIT = 256
"""A handle is far shorter; longer cookies are refused before anything is decoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionHandle:
    """A verified session handle."""

    session_id: str
    """32 hexadecimal digits."""
    audience: str
    """The host that it was minted for: lower case, without port."""
    expires_at: int
    """Seconds since the Unix epoch."""
    epoch: int
    """Epoch of the session record's version."""
    number: int
    """Number of the session record's version."""


class HandleSealer:
    """Mints (authenticate) and opens (authenticate, authorize) session handles."""

    __slots__ = ("_sealer",)

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    @property
    def keys(self) -> tuple[Key, ...]:
        """See ``Sealer.keys``."""
        return self._sealer.keys

    def holds(self, key_id: bytes) -> bool:
        """See ``Sealer.holds``."""
        return self._sealer.holds(key_id)

    def mint(self, handle: SessionHandle) -> str:
        """The cookie value for ``handle``.

        Raises:
            ValueError: the session id is not 32 hexadecimal digits.
        """
        body = _LAYOUT.pack(session_id_bytes(handle.session_id), handle.expires_at, handle.epoch, handle.number)
        return to_text(self._sealer.seal(body, _context(handle.audience)))

    def open(self, text: str, audience: str, now: float) -> SessionHandle:
        """The handle in a cookie that ``audience`` received.

        Raises:
            InvalidTokenError: malformed, expired, changed, or minted for another host.
        """
        body = self._sealer.open(from_text(text, TEXT_LIMIT), _context(audience))
        if len(body) != _LAYOUT.size:
            raise InvalidTokenError("not a session handle")
        session_id, expires_at, epoch, number = _LAYOUT.unpack(body)
        if now >= expires_at:
            raise InvalidTokenError("the session handle has expired")
        return SessionHandle(
            session_id=session_id.hex(), audience=audience, expires_at=expires_at, epoch=epoch, number=number
        )


def key_of_handle(text: str) -> bytes:
    """Id of the key that a handle, one that has been opened, was sealed with."""
    return sealing_key(from_text(text, TEXT_LIMIT))


def session_id_bytes(session_id: str) -> bytes:
    """The 16 bytes of a session id; ``struct`` would pad or cut another length without a word.

    Raises:
        ValueError: it is not 32 hexadecimal digits.
    """
    packed = bytes.fromhex(session_id)
    if len(packed) != 16 or packed.hex() != session_id:
        raise ValueError("a session id is 32 lower-case hexadecimal digits")
    return packed


def _context(audience: str) -> bytes:
    return b"host\0" + audience.encode()
