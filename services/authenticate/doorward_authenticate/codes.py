"""One-time codes: made at the end of a sign-in, redeemed once, by the browser that began it."""

import hmac

from doorward.clock import Clock
from doorward.errors import InvalidTokenError
from doorward.keys.code import LIFETIME_SECONDS, CodeSealer, OneTimeCode, spent_id
from doorward.keys.flow import SignInRequest, flow_fingerprint
from doorward.keys.handle import HandleSealer, SessionHandle
from doorward.records.record import RecordVersion
from doorward_authenticate.sessions import LiveSession, SessionWriter

_UNTOLD = 0
"""The epoch, as a databroker of an older version tells it."""


class Codes:
    """Makes and redeems codes."""

    def __init__(self, codes: CodeSealer, handles: HandleSealer, sessions: SessionWriter, clock: Clock) -> None:
        self._codes = codes
        self._handles = handles
        self._sessions = sessions
        self._clock = clock

    async def mint(self, live: LiveSession, request: SignInRequest) -> str:
        """A code that lets the browser of ``request`` use ``live`` on the host that asked.

        Its version is one at which the session is there, in the history that is the current one.

        Raises:
            DoorwardError: that history cannot be known now.
        """
        moment = await self._sessions.moment()
        version = max(live.version, RecordVersion(moment.epoch, 0))
        return self._codes.mint(
            OneTimeCode(
                session_id=live.session.id,
                session_expires_at=int(live.session.expires_at),
                epoch=version.epoch,
                number=version.number,
                host=host_of(request.authority),
                fingerprint=request.fingerprint,
                expires_at=int(self._clock.now()) + LIFETIME_SECONDS,
            )
        )

    async def redeem(self, text: str, host: str, flow_secret: bytes) -> tuple[str, int]:
        """The session handle for ``host``, and when it ends. An authentic code is spent by the attempt.

        Raises:
            InvalidTokenError: not ours, spent, late, for another host or browser, from before the records lost history, or its
                session has ended.
            DoorwardError: it cannot be known now.
        """
        code = self._codes.open(text)
        epoch = await self._sessions.spend(spent_id(text))
        if epoch is None:
            raise InvalidTokenError("the code was used before")
        if epoch not in {code.epoch, _UNTOLD}:
            # That it was used before may be among what was lost.
            raise InvalidTokenError("the code is from before the records lost history")
        now = self._clock.now()
        if now >= code.expires_at:
            raise InvalidTokenError("the code has expired")
        if code.host != host:
            raise InvalidTokenError("the code is for another host")
        if not hmac.compare_digest(code.fingerprint, flow_fingerprint(flow_secret)):
            raise InvalidTokenError("the code belongs to another browser")
        if await self._sessions.live(code.session_id) is None:
            raise InvalidTokenError("the session of the code has ended")
        handle = SessionHandle(
            session_id=code.session_id,
            audience=host,
            expires_at=code.session_expires_at,
            epoch=code.epoch,
            number=code.number,
        )
        return self._handles.mint(handle), code.session_expires_at


def host_of(authority: str) -> str:
    """The host of ``host[:port]``."""
    return authority.rpartition(":")[0] if ":" in authority else authority
