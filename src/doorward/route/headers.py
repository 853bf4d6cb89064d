"""Headers that a route sets: an application believes them, so no client may send them."""

import re
from collections.abc import Iterable

from doorward.route.internal import TOKEN_HEADER
from doorward.route.route import Route

Told = tuple[tuple[str, object], ...]
"""Headers with their values."""

_NAME = re.compile(r"[a-z0-9!#$%&'*+.^`|~-]+\Z", re.ASCII)

KEPT_FOR_THE_CHECK = frozenset(
    {
        *("accept", "access-control-request-headers", "access-control-request-method", "authorization", "connection"),
        *("content-length", "content-type", "cookie", TOKEN_HEADER, "host", "origin", "referer", "te", "trailer"),
        *("sec-fetch-dest", "sec-fetch-mode", "sec-fetch-site", "sec-fetch-user", "transfer-encoding", "upgrade"),
        *("user-agent", "x-forwarded-for", "x-forwarded-proto", "x-request-id"),
    }
)
"""Headers that the check itself reads, or HTTP needs: never deleted, even if a route sets one of them.

Without `Sec-Fetch-Site` and `Origin` a foreign page's request would pass for one from no browser at all. The route's
own value still replaces the client's on the way to the upstream.
"""


def told_by(route: Route) -> tuple[Told, ...]:
    """What ``route`` sets, in groups. Thousands of routes have the same few, or none: of a set of them little is left."""
    return route.set_request_headers, route.claim_headers, route.request_templates


def told_headers(groups: Iterable[Told]) -> frozenset[str]:
    """Every header that some route sets and no client may send, in lower case; ``groups`` are those of all routes.

    Of broken ones too, because a header that means something on one route must not be forgeable on another that shares its upstream.
    """
    names = {name.lower() for headers in groups for name, _ in headers}
    return frozenset(name for name in names - KEPT_FOR_THE_CHECK if _NAME.match(name))


def own_headers(route: Route) -> frozenset[str]:
    """What ``route`` itself sets or takes out of every request, whatever a client wrote there; in lower case."""
    return frozenset(name.lower() for headers in told_by(route) for name, _ in headers)
