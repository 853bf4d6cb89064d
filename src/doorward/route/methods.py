"""Methods: the ordinary ones everywhere, others only where a route lists them, and some nowhere.

Names are compared exactly (RFC 9110, section 9.1): ``get`` is another method than ``GET``, and servers disagree on what it is.
"""

import re

ORDINARY_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
TUNNEL_METHOD = "CONNECT"
FORBIDDEN_METHODS = frozenset({TUNNEL_METHOD, "TRACE", "TRACK", "PRI"})
"""What no route can list: tunnels are routes of their own, a trace repeats credentials to whoever asks, and ``PRI`` opens HTTP/2."""

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z", re.ASCII)


def is_method(text: str) -> bool:
    """Whether ``text`` can be a method at all (a token; RFC 9110, section 5.6.2)."""
    return _TOKEN.match(text) is not None
