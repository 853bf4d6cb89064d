"""The names that callers are known by: the planes', and those of other gateways."""

import functools
import re
from dataclasses import dataclass
from enum import StrEnum

from doorward.keys.plane_authority import GATEWAY_PREFIX

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


@dataclass(frozen=True, slots=True)
class Gateway:
    """Another gateway, or a program, that asks authorizers; what it may ask is the configuration's to say (``gateways``)."""

    name: str

    def __str__(self) -> str:
        return GATEWAY_PREFIX + self.name


def gateway_named(identity: str | None) -> Gateway | None:
    """The gateway that a certificate names; ``None`` for a plane, and for nobody."""
    if identity is None or not identity.startswith(GATEWAY_PREFIX):
        return None
    return Gateway(identity.removeprefix(GATEWAY_PREFIX))


@functools.lru_cache(64)
def contract_of(user_agent: str) -> int | None:
    """The contract that a caller speaks by its user agent; ``None`` for callers that are no plane of ours."""
    match = _CONTRACT.search(user_agent)
    return int(match[1]) if match else None
