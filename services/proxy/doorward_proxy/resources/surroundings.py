"""What the configuration of Envoy refers to besides the operator's settings."""

from dataclasses import dataclass
from pathlib import Path

LISTENER = "public"
ROUTES = "public"
SCOPES = "public-scopes"
CERTIFICATE = "listener-certificate"
PLANE_CERTIFICATE = "plane-certificate"
"""What we show to the other planes."""
PLANE_AUTHORITIES = "plane-authorities"
"""Whom we believe about the other planes."""

AUTHORIZE_CLUSTER = "doorward-authorize"
GUARD_CLUSTER = "doorward-guard"
PAGES_CLUSTER = "doorward-pages"
AUTHENTICATE_CLUSTER = "doorward-authenticate"
DISCOVERY_CLUSTER = "doorward-discovery"
TRACES_CLUSTER = "doorward-traces"
"""The collector of spans, where one is configured."""
OWN_CLUSTERS = frozenset({AUTHORIZE_CLUSTER, GUARD_CLUSTER, PAGES_CLUSTER, AUTHENTICATE_CLUSTER})

UPSTREAM_PREFIX = "upstream-"
"""Clusters of the operator's upstreams are named so, with a hash of what they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The sockets that Envoy talks to; planes at addresses are the settings' matter."""

    check_sockets: tuple[Path, ...]
    """One for each authorizer worker: each is an endpoint of its own, or one of them would get everything."""
    guard_socket: Path
    pages_socket: Path
    authenticate_socket: Path
    discovery_socket: Path
    admin_socket: Path
    trust_store: Path
    """PEM file with the certificates that TLS upstreams are verified by, unless a route brings its own."""
