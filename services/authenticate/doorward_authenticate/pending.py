"""What survives the trip to an identity provider: sealed, in a cookie of its own for each tab.

`state` names the cookie and holds a random part that the cookie repeats, so an answer counts only in the browser that asked.
"""

import hmac
import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from doorward.errors import InvalidTokenError
from doorward.keys.flow import SIGN_IN, STEP_UP, SignInRequest, WantedStepUp
from doorward.keys.sealed import Sealer, from_text, to_text

COOKIE_PREFIX = "__Host-doorward-pending-"
COOKIE_LIMIT = 12
LIFETIME_SECONDS = 600
_TEXT_LIMIT = 4096
_NAME = re.compile(rf"{COOKIE_PREFIX}[0-9]{{10,12}}-[0-9a-f]{{16}}\Z", re.ASCII)
_STATE = re.compile(r"([0-9]{10,12}-[0-9a-f]{16})\.([A-Za-z0-9_-]{20,64})\Z", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingSignIn:
    """One sign-in on its way."""

    slot: str
    """Second and random part; the end of the cookie's name."""
    secret: str
    nonce: str
    code_verifier: str
    provider_id: str
    expires_at: int
    request: SignInRequest | None
    """Which protected host asked; ``None`` for a sign-in on the sign-in host itself."""

    @property
    def cookie_name(self) -> str:
        """Name of its cookie."""
        return COOKIE_PREFIX + self.slot

    @property
    def state(self) -> str:
        """The `state` parameter."""
        return f"{self.slot}.{self.secret}"


def new_pending(
    provider_id: str,
    request: SignInRequest | None,
    now: float,
    random: Callable[[int], str] = secrets.token_urlsafe,
) -> PendingSignIn:
    """A fresh sign-in with an identity provider."""
    return PendingSignIn(
        slot=f"{int(now):010d}-{secrets.token_hex(8)}",
        secret=random(24),
        nonce=random(24),
        code_verifier=random(48),
        provider_id=provider_id,
        expires_at=int(now) + LIFETIME_SECONDS,
        request=request,
    )


def cookie_name_for(state: str) -> str | None:
    """The cookie that a `state` belongs to, or ``None`` when it is none of ours."""
    match = _STATE.match(state) if len(state) <= 128 else None
    return COOKIE_PREFIX + match.group(1) if match else None


def oldest_beyond_limit(names: list[str]) -> list[str]:
    """Of the cookies in ``names``, those to delete so that one more fits under the limit."""
    ours = sorted(name for name in names if _NAME.match(name))
    return ours[: max(0, len(ours) - (COOKIE_LIMIT - 1))]


class PendingSealer:
    """Seals and opens what is pending."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def seal(self, pending: PendingSignIn) -> str:
        """The cookie value."""
        request = pending.request
        document = {
            "secret": pending.secret,
            "nonce": pending.nonce,
            "verifier": pending.code_verifier,
            "provider": pending.provider_id,
            "expires": pending.expires_at,
            "request": None
            if request is None
            else [request.authority, request.fingerprint.hex(), request.flow_name, request.expires_at],
            "step_up": None
            if request is None or request.step_up is None
            else [
                request.step_up.session_id,
                request.step_up.max_age_seconds,
                request.step_up.methods,
                request.step_up.context_classes,
            ],
        }
        return to_text(self._sealer.seal(json.dumps(document).encode(), pending.cookie_name.encode()))

    def open(self, name: str, value: str, state: str, now: float) -> PendingSignIn:
        """The sign-in in a cookie, provided that ``state`` is its own.

        Raises:
            InvalidTokenError: malformed, expired, changed, or another one's.
        """
        document = json.loads(self._sealer.open(from_text(value, _TEXT_LIMIT), name.encode()))
        request, step_up = document["request"], document.get("step_up")
        pending = PendingSignIn(
            slot=name.removeprefix(COOKIE_PREFIX),
            secret=document["secret"],
            nonce=document["nonce"],
            code_verifier=document["verifier"],
            provider_id=document["provider"],
            expires_at=document["expires"],
            request=None
            if request is None
            else SignInRequest(
                authority=request[0],
                fingerprint=bytes.fromhex(request[1]),
                flow_name=request[2],
                expires_at=request[3],
                purpose=SIGN_IN if step_up is None else STEP_UP,
                step_up=None
                if step_up is None
                else WantedStepUp(
                    session_id=step_up[0],
                    max_age_seconds=step_up[1],
                    methods=tuple(step_up[2]),
                    context_classes=tuple(step_up[3]),
                ),
            ),
        )
        if not hmac.compare_digest(pending.state.encode(), state.encode()):
            raise InvalidTokenError("`state` belongs to another sign-in")
        if now >= pending.expires_at:
            raise InvalidTokenError("the sign-in took too long")
        return pending
