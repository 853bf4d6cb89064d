"""The one-time code that carries a finished sign-in from the sign-in host to a protected host.

Only authenticate makes and opens codes. A code is good for thirty seconds, for one host and for the browser that
holds the flow secret; every attempt to redeem it spends it, also a failed one.
"""

import hashlib
import struct
from dataclasses import dataclass

from doorward.errors import InvalidTokenError
from doorward.keys.flow import FINGERPRINT_BYTES
from doorward.keys.handle import session_id_bytes
from doorward.keys.sealed import Sealer, from_text, to_text

LIFETIME_SECONDS = 30
_LAYOUT = struct.Struct(">Q16sQQQ32s")
_TEXT_LIMIT = 1024
_CONTEXT = b"one-time code"


@dataclass(frozen=True, slots=True, kw_only=True)
class OneTimeCode:
    """An authentic code; whether it is unspent, in time and in the right hands is for the caller to check."""

    session_id: str
    """32 hexadecimal digits."""
    session_expires_at: int
    """Seconds since the Unix epoch."""
    epoch: int
    """Epoch of the records in which the code was made; it is of no use in another."""
    number: int
    """A number in that epoch at which the session is there."""
    host: str
    """The protected host: lower case, without port."""
    fingerprint: bytes
    """Hash of the flow secret."""
    expires_at: int
    """Seconds since the Unix epoch."""


class CodeSealer:
    """Makes and opens one-time codes."""

    __slots__ = ("_sealer",)

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def mint(self, code: OneTimeCode) -> str:
        """The text of ``code``.

        Raises:
            ValueError: the session id is not 32 hexadecimal digits, or the fingerprint not 32 bytes.
        """
        if len(code.fingerprint) != FINGERPRINT_BYTES:
            raise ValueError(f"a fingerprint has {FINGERPRINT_BYTES} bytes")
        body = _LAYOUT.pack(
            code.expires_at,
            session_id_bytes(code.session_id),
            code.session_expires_at,
            code.epoch,
            code.number,
            code.fingerprint,
        )
        return to_text(self._sealer.seal(body + code.host.encode(), _CONTEXT))

    def open(self, text: str) -> OneTimeCode:
        """The authentic code in ``text``.

        Raises:
            InvalidTokenError: malformed, changed, or not a code of ours.
        """
        body = self._sealer.open(from_text(text, _TEXT_LIMIT), _CONTEXT)
        if len(body) <= _LAYOUT.size:
            raise InvalidTokenError("not a one-time code")
        expires_at, session_id, session_expires_at, epoch, number, fingerprint = _LAYOUT.unpack_from(body)
        return OneTimeCode(
            session_id=session_id.hex(),
            session_expires_at=session_expires_at,
            epoch=epoch,
            number=number,
            host=body[_LAYOUT.size :].decode(),
            fingerprint=fingerprint,
            expires_at=expires_at,
        )


def spent_id(text: str) -> str:
    """The id under which an authentic code is marked as spent: 64 hexadecimal digits."""
    return hashlib.sha256(b"doorward spent code\0" + text.encode()).hexdigest()
