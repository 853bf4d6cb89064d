"""Requests that another origin's script makes in somebody's browser.

Hosts of one site share cookies in the browser's eyes, so SameSite does not keep `admin` from `wiki`. A request that a cookie
vouches for and that can change something must come from its own origin. `Sec-Fetch-Site` says so where the browser sends it;
else `Origin` must be the request's own; a caller that sends neither is no browser.
"""

from collections.abc import Collection

from doorward.route.route import Route
from doorward_authorize.check_request import CheckedRequest

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_SITES = frozenset({"same-origin", "none"})
PREFLIGHT_SECONDS = 300


def is_forbidden(request: CheckedRequest, own_origins: Collection[str], allowed_origins: tuple[str, ...]) -> bool:
    """Whether a request made with a cookie comes from a foreign origin and could do something."""
    if request.method in _SAFE_METHODS and not request.is_upgrade:
        return False
    origins = request.headers.get("origin", ())
    if len(origins) == 1 and origins[0] in allowed_origins:
        return False
    sites = request.headers.get("sec-fetch-site", ())
    if sites:
        return len(sites) != 1 or sites[0] not in _OWN_SITES
    if origins:
        return len(origins) != 1 or origins[0] not in own_origins
    return False


def listed_origin(request: CheckedRequest, route: Route, *, by_cookie: bool) -> str:
    """The origin that only the route's list lets do what ``request`` asks for with a cookie; empty where it needs no list."""
    if not by_cookie or not is_forbidden(request, (route.origin,), ()):
        return ""
    return request.header("origin") or ""


def preflight_origin(request: CheckedRequest, route: Route) -> str | None:
    """The origin of a preflight that ``route`` lists, which is answered here and never reaches the upstream."""
    if request.method != "OPTIONS" or not request.headers.get("access-control-request-method"):
        return None
    origin = request.header("origin")
    return origin if origin is not None and origin in route.allowed_origins else None
