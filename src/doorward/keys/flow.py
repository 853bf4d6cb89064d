"""What ties a sign-in to the browser that began it: the flow cookie and the signed redirect.

A protected host sets the flow cookie (a secret and the return path, sealed) and sends the browser to the sign-in host
with only the host's name, an expiry and a hash of the secret, signed. When the browser comes back with a one-time
code, only the one that holds the secret can redeem it. Both use the key of the purpose ``flow``.
"""

import hashlib
import hmac
import re
import struct
import urllib.parse
from dataclasses import dataclass

from doorward.errors import InvalidTokenError
from doorward.keys.keyring import KEY_ID_BYTES, Keyring
from doorward.keys.sealed import Sealer, from_text, to_text

COOKIE_PREFIX = "__Host-doorward-flow-"
COOKIE_LIMIT = 12
"""Flow cookies a host; the oldest are deleted when there are more."""
LIFETIME_SECONDS = 600
SECRET_BYTES = 16
FINGERPRINT_BYTES = 32
RETURN_PATH_LIMIT = 2048
"""A longer address is not remembered; the browser returns to ``/``."""

SIGN_IN = "sign-in"
STEP_UP = "step-up"

_COOKIE_NAME = re.compile(r"__Host-doorward-flow-([0-9]{10,12})-([0-9a-f]{8})\Z")
_NAMES = frozenset({"authority", "purpose", "expires", "flow", "cookie", "signature"})
_STEP_UP_NAMES = frozenset({"session", "max_age", "methods", "context_classes"})
_HEADER = struct.Struct(">Q16s")
_TEXT_LIMIT = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """One attempt to sign in, as the protected host remembers it."""

    name: str
    """The cookie's name."""
    secret: bytes
    """16 random bytes that never leave the cookie but as a hash."""
    return_path: str
    """Where the browser was going: path and query, beginning with a single slash."""
    expires_at: int
    """Seconds since the Unix epoch."""

    @property
    def fingerprint(self) -> bytes:
        """The hash of the secret that travels in the redirect and in the one-time code."""
        return flow_fingerprint(self.secret)


def flow_fingerprint(secret: bytes) -> bytes:
    """SHA-256 of a flow secret, with a prefix of its own."""
    return hashlib.sha256(b"doorward flow\0" + secret).digest()


def is_flow_cookie(name: str) -> bool:
    """Whether a cookie of this name could be a flow cookie."""
    return _COOKIE_NAME.match(name) is not None


def oldest_beyond_limit(names: list[str]) -> list[str]:
    """Of the flow cookies in ``names``, those to delete so that one more fits under the limit."""
    flows = sorted((name for name in names if is_flow_cookie(name)), key=_cookie_time)
    return flows[: max(0, len(flows) - (COOKIE_LIMIT - 1))]


def _cookie_time(name: str) -> int:
    match = _COOKIE_NAME.match(name)
    return int(match.group(1)) if match else 0


def safe_return_path(target: str) -> str:
    r"""``target`` when a browser stays on the same host with it, else ``/``.

    Only a path that begins with exactly one slash and holds no backslash, control or non-ASCII byte counts; what
    could be read as another authority (``//host``, ``/\\host``) does not.
    """
    if len(target) > RETURN_PATH_LIMIT or not target.startswith("/") or target[1:2] in {"/", "\\"}:
        return "/"
    if any(not "!" <= character <= "~" or character == "\\" for character in target):
        return "/"
    return target.split("#", 1)[0]


class FlowSealer:
    """Seals and opens flow cookies for one host at a time."""

    __slots__ = ("_sealer",)

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def seal(self, flow: Flow, host: str) -> str:
        """The cookie value for ``flow`` on ``host``.

        Raises:
            ValueError: the secret has another length than 16 bytes.
        """
        if len(flow.secret) != SECRET_BYTES:
            raise ValueError(f"a flow secret has {SECRET_BYTES} bytes")  # struct would cut it without a word
        body = _HEADER.pack(flow.expires_at, flow.secret) + flow.return_path.encode("ascii")
        return to_text(self._sealer.seal(body, _cookie_context(flow.name, host)))

    def open(self, name: str, value: str, host: str, now: float) -> Flow:
        """The flow in a cookie that ``host`` received.

        Raises:
            InvalidTokenError: malformed, expired, changed, of another name or host.
        """
        body = self._sealer.open(from_text(value, _TEXT_LIMIT), _cookie_context(name, host))
        if len(body) <= _HEADER.size:
            raise InvalidTokenError("not a flow cookie")
        expires_at, secret = _HEADER.unpack_from(body)
        if now >= expires_at:
            raise InvalidTokenError("the flow has expired")
        path = safe_return_path(body[_HEADER.size :].decode("ascii", "replace"))
        return Flow(name=name, secret=secret, return_path=path, expires_at=expires_at)


def new_flow(target: str, now: float, random: bytes) -> Flow:
    """A fresh flow for a browser on its way to ``target``; ``random`` holds 20 random bytes."""
    seconds = int(now)
    return Flow(
        name=f"{COOKIE_PREFIX}{seconds:010d}-{random[SECRET_BYTES : SECRET_BYTES + 4].hex()}",
        secret=random[:SECRET_BYTES],
        return_path=safe_return_path(target),
        expires_at=seconds + LIFETIME_SECONDS,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedStepUp:
    """What a stronger sign-in must bring. Words are printable ASCII without blanks."""

    session_id: str
    """The session that is too old or too weak; it names the person and the identity provider, and ends if all goes well."""
    max_age_seconds: int | None = None
    methods: tuple[str, ...] = ()
    """One of these (`amr`); none: any."""
    context_classes: tuple[str, ...] = ()
    """One of these (`acr`); none: any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignInRequest:
    """What a protected host asks of the sign-in host."""

    authority: str
    """Host of the route, with its port unless that is 443."""
    fingerprint: bytes
    """Hash of the flow secret."""
    flow_name: str
    """Name of the flow cookie, so that the callback finds it among several tabs."""
    expires_at: int
    """Seconds since the Unix epoch."""
    purpose: str = SIGN_IN
    """``sign-in`` or, with ``step_up`` and only then, ``step-up``."""
    step_up: WantedStepUp | None = None


class SignInSigner:
    """Signs (authorize) and verifies (authenticate) the redirect to the sign-in host."""

    __slots__ = ("_keyring",)

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def sign(self, request: SignInRequest) -> str:
        """The query string that carries ``request``."""
        key = self._keyring.primary
        tag = key.id + _tag(key.secret.reveal(), request)
        return urllib.parse.urlencode(
            {
                "authority": request.authority,
                "purpose": request.purpose,
                "expires": str(request.expires_at),
                "flow": to_text(request.fingerprint),
                "cookie": request.flow_name,
                **_step_up_fields(request.step_up),
                "signature": to_text(tag),
            }
        )

    def verify(self, query: str, now: float) -> SignInRequest:
        """The request in a query string.

        Raises:
            InvalidTokenError: a parameter is missing, repeated or malformed, the signature does not verify, or it
                has expired.
        """
        if len(query) > _TEXT_LIMIT or not query.isascii():
            raise InvalidTokenError("the sign-in request is too long or holds foreign characters")
        try:
            pairs = urllib.parse.parse_qsl(query, strict_parsing=True, keep_blank_values=True, max_num_fields=12)
        except ValueError:
            raise InvalidTokenError("the sign-in request is malformed") from None
        fields = dict(pairs)
        names = _NAMES | _STEP_UP_NAMES if fields.get("purpose") == STEP_UP else _NAMES
        if len(fields) != len(pairs) or set(fields) != names:
            raise InvalidTokenError("the sign-in request has missing, repeated or foreign parameters")
        if not re.fullmatch(r"[0-9]{1,12}", fields["expires"]) or not is_flow_cookie(fields["cookie"]):
            raise InvalidTokenError("the sign-in request is malformed")
        request = SignInRequest(
            authority=fields["authority"],
            fingerprint=from_text(fields["flow"], 64),
            flow_name=fields["cookie"],
            expires_at=int(fields["expires"]),
            purpose=fields["purpose"],
            step_up=_step_up_from(fields) if fields["purpose"] == STEP_UP else None,
        )
        signature = from_text(fields["signature"], 128)
        key = self._keyring.find(signature[:KEY_ID_BYTES])
        if not hmac.compare_digest(signature[KEY_ID_BYTES:], _tag(key.secret.reveal(), request)):
            raise InvalidTokenError("the signature of the sign-in request does not verify")
        if len(request.fingerprint) != FINGERPRINT_BYTES:
            raise InvalidTokenError("the sign-in request names no flow secret")
        if now >= request.expires_at:
            raise InvalidTokenError("the sign-in request has expired")
        if request.purpose not in {SIGN_IN, STEP_UP}:
            raise InvalidTokenError("the sign-in request has another purpose")
        return request


def _tag(key: bytes, request: SignInRequest) -> bytes:
    parts = (
        b"doorward sign-in request",
        request.authority.encode(),
        request.purpose.encode(),
        str(request.expires_at).encode(),
        request.fingerprint,
        request.flow_name.encode(),
        *(f"{name}={value}".encode() for name, value in _step_up_fields(request.step_up).items()),
    )
    message = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return hmac.digest(key, message, "sha256")


def _step_up_fields(step_up: WantedStepUp | None) -> dict[str, str]:
    if step_up is None:
        return {}
    return {
        "session": step_up.session_id,
        "max_age": "" if step_up.max_age_seconds is None else str(step_up.max_age_seconds),
        "methods": " ".join(step_up.methods),
        "context_classes": " ".join(step_up.context_classes),
    }


def _step_up_from(fields: dict[str, str]) -> WantedStepUp:
    """What stands in a query; every way to write it that ``sign`` does not use fails at the signature."""
    if not re.fullmatch(r"[0-9a-f]{32}", fields["session"]) or not re.fullmatch(r"[0-9]{0,9}", fields["max_age"]):
        raise InvalidTokenError("the step-up request is malformed")
    return WantedStepUp(
        session_id=fields["session"],
        max_age_seconds=int(fields["max_age"]) if fields["max_age"] else None,
        methods=tuple(fields["methods"].split()),
        context_classes=tuple(fields["context_classes"].split()),
    )


def _cookie_context(name: str, host: str) -> bytes:
    return b"cookie\0" + name.encode() + b"\0" + host.encode()
