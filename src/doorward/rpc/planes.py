"""The planes' names, as callers are known by."""

import functools
import re
from enum import StrEnum

CONTRACT = 1
"""Version of the contracts in ``protos/``; grows only with a change that an older plane would misunderstand."""
UNDERSTOOD = frozenset({1})
"""Contracts of callers that we serve: during an upgrade, two."""

_CONTRACT = re.compile(r"doorward/\S+ contract/([0-9]{1,9})(?: |\Z)", re.ASCII)


class Plane(StrEnum):
    """Who calls: on Unix sockets the socket says it, over TCP the certificate."""

    AUTHENTICATE = "authenticate"
    AUTHORIZE = "authorize"
    PROXY = "proxy"
    DATABROKER = "databroker"
    DIRECTORY = "directory"
    """The databroker plane's worker that reads directories; a process of its own, with credentials of its own."""
    OPERATOR = "operator"
    """A person at the command line, with access to the run folder or a certificate."""


@functools.lru_cache(64)
def contract_of(user_agent: str) -> int | None:
    """The contract that a caller speaks by its user agent; ``None`` for callers that are no plane of ours."""
    match = _CONTRACT.search(user_agent)
    return int(match[1]) if match else None
