"""What the pages read from a request: host, cookies, who is signed in."""

import base64
import binascii
import json
from dataclasses import dataclass

from starlette.requests import Request

from doorward.identity.cookies import SESSION_COOKIE, parse_cookies, single_cookie
from doorward.route.internal import ASSERTION_HEADER

_ASSERTION_LIMIT = 16 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedIn:
    """Who the assertion on a request speaks of."""

    subject: str
    email: str | None
    name: str | None
    groups: tuple[str, ...] | None
    """``None`` when they are not known, which is not the same as none."""


def request_host(request: Request) -> str:
    """The host that the browser asked for: lower case, without port; empty when there is none.

    Envoy has routed by it, so it is one of the configured hosts.
    """
    authority = request.headers.get("host", "").lower()
    host, separator, port = authority.rpartition(":")
    return host if separator and port.isdigit() else authority


def cookie(request: Request, name: str) -> str | None:
    """The value of the cookie ``name``; ``None`` when it is absent, present twice or not ASCII."""
    lines = [value for key, value in request.headers.raw if key == b"cookie"]
    return single_cookie(parse_cookies(lines), name)


def session_handle(request: Request) -> str | None:
    """The session handle of the browser on this host, unopened."""
    return cookie(request, SESSION_COOKIE)


def signed_in(request: Request) -> SignedIn | None:
    """Who authorize says is signed in; ``None`` for nobody.

    The signature is not verified here: the header was set by authorize's answer, after Envoy had deleted whatever the
    client sent, and the socket is ours alone. What the header says is only shown to the browser that it speaks of.
    """
    claims = _claims(request.headers.get(ASSERTION_HEADER, ""))
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject:
        return None
    groups = claims.get("groups")
    return SignedIn(
        subject=subject,
        email=_text(claims.get("email")),
        name=_text(claims.get("name")),
        groups=tuple(str(group) for group in groups) if isinstance(groups, list) else None,
    )


def wants_json(request: Request) -> bool:
    """Whether the client would rather have JSON than a page."""
    accept = request.headers.get("accept", "")
    return "text/html" not in accept


def _claims(token: str) -> dict[str, object]:
    parts = token.split(".")
    if len(parts) != 3 or len(token) > _ASSERTION_LIMIT or not token.isascii():
        return {}
    try:
        payload = base64.b64decode(parts[1] + "=" * (-len(parts[1]) % 4), altchars=b"-_", validate=True)
        claims = json.loads(payload)
    except (binascii.Error, ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
