"""The names that the proxy and authorize planes share about what is not an operator's route.

Envoy tells authorize with each Check which route it matched. Requests for our own pages, for the sign-in host, for
nothing at all and for routes that cannot be served are checked too; they carry one of these ids instead.
"""

from enum import StrEnum


class InternalRoute(StrEnum):
    """Ids in the Check context of what is not an operator's route; ``@`` begins no id that an operator can write."""

    PAGES = "@pages"
    """Our pages on a protected host: ``/.doorward/…`` and the key set."""
    SIGN_IN = "@sign-in"
    """The sign-in host."""
    UNMATCHED = "@unmatched"
    """A path or host that nothing is configured for; answered 404."""
    BROKEN = "@broken"
    """A route or host that cannot be served; answered 503."""


INTERNAL_DIGEST = "internal"
"""The digest that goes with every internal id."""

CONTEXT_ROUTE = "route"
"""Check context: id of the route, an operator's or an internal one."""
CONTEXT_DIGEST = "digest"
"""Check context: ``Route.digest``, or ``INTERNAL_DIGEST``."""
CONTEXT_HOST = "host"
"""Check context: the route's host, lower case, without port; empty for a host that nobody configured."""

METADATA_NAMESPACE = "envoy.filters.http.ext_authz"
"""Where authorize's dynamic metadata lies for the guard."""
METADATA_STREAM = "doorward.stream"
"""Its one field: what Check says about a request on a guarded route, in base64."""

PAGES_PREFIX = "/.doorward"
"""Everything from here on is ours, on every host."""
CALLBACK_PATH = "/.doorward/callback"
WHOAMI_PATH = "/.doorward/whoami"
SIGN_IN_PATH = "/.doorward/sign_in"
SIGN_OUT_PATH = "/.doorward/sign_out"
JWKS_PATH = "/.well-known/doorward/jwks.json"

CLIENT_ADDRESS_HEADER = "x-doorward-client-address"
"""Envoy's own idea of the client's address; set by the first filter, removed before the upstream."""
ASSERTION_HEADER = "x-doorward-jwt-assertion"
"""The signed statement about who asks."""
DECISION_ID_HEADER = "x-doorward-decision-id"
"""On the way to our own pages: the id of the decision that let the request pass."""
GROUP_HEADER = "impersonate-group"
"""For whom a Kubernetes API is asked: authorize sets all groups joined by commas, Envoy makes a header of each."""
TOKEN_HEADER = "doorward-authorization"  # noqa: S105  # a header's name
"""Where a service account may present its token when `Authorization` is the application's."""
