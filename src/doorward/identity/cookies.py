"""Cookies, byte for byte.

``http.cookies`` and friends strip Unicode space, accept quoted strings and drop what they dislike; each of those has let a
tossed cookie pass for a protected one. Here a cookie is what stands between two semicolons, trimmed of space and tab
only (RFC 6265, section 4.2.1), and a name that is present twice counts as absent.
"""

from collections.abc import Iterable

SESSION_COOKIE = "__Host-doorward"
"""The session handle on a protected host."""
SIGN_IN_COOKIE = "__Host-doorward-sso"
"""The session handle on the sign-in host."""
OUR_PREFIX = "__Host-doorward"
"""Every cookie of ours begins with this; none of them reaches an upstream, and none comes from one."""
HEADER_LIMIT_BYTES = 32 * 1024


def parse_cookies(header_values: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
    """Name and value of every cookie in order, from all ``Cookie`` header lines.

    Pieces without ``=`` are returned with an empty name, as browsers would send them. Lines longer than 32 KiB in all
    yield nothing: somebody who sends them is not signed in.
    """
    lines = list(header_values)
    if sum(map(len, lines)) > HEADER_LIMIT_BYTES:
        return []
    cookies = []
    for line in lines:
        for piece in line.split(b";"):
            trimmed = piece.strip(b" \t")
            if not trimmed:
                continue
            name, separator, value = trimmed.partition(b"=")
            cookies.append((name.rstrip(b" \t"), value.lstrip(b" \t")) if separator else (b"", trimmed))
    return cookies


def single_cookie(cookies: Iterable[tuple[bytes, bytes]], name: str) -> str | None:
    """The value of the cookie ``name``, or ``None`` when it is absent, present twice or not ASCII."""
    wanted = name.encode()
    values = [value for candidate, value in cookies if candidate == wanted]
    if len(values) != 1 or not values[0].isascii():
        return None
    return values[0].decode("ascii")


def without_ours(cookies: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A ``Cookie`` value with every cookie but ours; empty when nothing is left.

    Case is folded in the comparison, and what stands before the first letter of a piece without a name is skipped: an
    upstream that folds names or drops stray ``=`` must not see ours under another spelling.
    """
    prefix = OUR_PREFIX.lower().encode()
    kept = [
        name + b"=" + value if name else value
        for name, value in cookies
        if not (name or value.lstrip(b"= \t")).lower().startswith(prefix)
    ]
    return b"; ".join(kept)
