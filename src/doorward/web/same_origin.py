"""Where a request comes from, as the browser says it."""

from starlette.requests import Request


def is_same_origin(request: Request) -> bool:
    """Whether this very host's own page, or no page at all, has sent the request.

    Authorize decides the same for every request with a cookie. Here it is said once more for what ends a session, and for the
    request that a browser sends without the cookie because another site made it: the answer must not delete that cookie.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in {"same-origin", "none"}
    origin = request.headers.get("origin")
    return origin is None or origin.lower() == f"https://{request.headers.get('host', '').lower()}"
