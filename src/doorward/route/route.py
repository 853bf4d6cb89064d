"""One route as a value, its id and its digest."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum

from doorward.route.header_template import PROVIDER_TOKENS, Template, Variable
from doorward.route.methods import ORDINARY_METHODS, TUNNEL_METHOD

_ORDINARY = frozenset(ORDINARY_METHODS)


class MatchKind(StrEnum):
    """How a route's path is compared."""

    PREFIX = "prefix"
    """The path itself or anything below it, at a slash: ``/api`` matches ``/api`` and ``/api/x``, not ``/apix``."""
    PATH = "path"
    """Exactly this path."""
    TCP = "tcp"
    """A CONNECT request to the route's host and this port (RFC 9110, section 9.3.6); it has no path."""


class CertificateUse(StrEnum):
    """What a client's certificate is on a route."""

    IGNORED = "ignored"
    FACT = "fact"
    """Policy may look at it, beside whoever is signed in."""
    PRINCIPAL = "principal"
    """It says who asks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Which requests of a host a route takes."""

    kind: MatchKind
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """Where requests go."""

    scheme: str
    """``http`` (HTTP/1.1), ``h2c`` (HTTP/2 in clear text), ``https`` (HTTP/2 or HTTP/1.1, as negotiated), or ``tcp``."""
    host: str
    port: int

    @property
    def authority(self) -> str:
        """``host:port``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A route as configured and checked; everything but the policy says what a request reaches.

    ``id`` is the route's name, or a hash of host and match: never of policy or upstream, so that an edit keeps it.
    """

    id: str
    name: str
    host: str
    """Lower case, without port."""
    port: int
    match: Match
    upstreams: tuple[Upstream, ...]
    """Requests are spread over them evenly; they all have one scheme."""
    set_request_headers: tuple[tuple[str, str], ...] = ()
    request_templates: tuple[tuple[str, Template], ...] = ()
    """Headers whose values hold facts; authorize sets them, or removes what lacks a fact."""
    kubernetes_token_file: str | None = None
    """File with the token of the Kubernetes service account that speaks for whoever asks; ``None``: an ordinary upstream."""
    remove_request_headers: tuple[str, ...] = ()
    set_response_headers: tuple[tuple[str, str], ...] = ()
    preserve_host: bool = False
    """Whether the upstream sees the route's host instead of its own."""
    timeout_seconds: float = 60.0
    """For the whole exchange, request and response; does not apply to guarded streams."""
    websocket: bool = False
    continuous: bool = False
    """Whether open streams are guarded: decided again on change and cut when access ends."""
    pass_assertion: bool = True
    """Whether the upstream gets ``x-doorward-jwt-assertion``."""
    claim_headers: tuple[tuple[str, str], ...] = ()
    """Header name and the identity fact that fills it."""
    path_parameters: bool = False
    extra_methods: tuple[str, ...] = ()
    """Methods that count besides the ordinary ones."""
    allowed_origins: tuple[str, ...] = ()
    sensitive: bool = False
    """Whether the shorter staleness limit applies."""
    idle_strict: bool = False
    """Whether an open guarded stream does not count as using the session."""
    client_certificate: CertificateUse = CertificateUse.IGNORED
    token_issuers: tuple[str, ...] = ()
    """Ids of the issuers whose bearer tokens count."""
    pass_bearer: bool = False
    """Whether the upstream gets such a token."""
    explanation: str | None = None
    """The operator's sentence for the denial page."""
    show_remedy: bool = False
    """Whether a denial says what would have to change."""
    tls_server_name: str | None = None
    tls_ca_pem: str | None = None
    tls_skip_verify: bool = False
    yields_to: str = ""
    """Hash of the matches of the host's routes that stand before it and take part of what it matches; empty: none does."""
    broken: str | None = None
    """Why this route cannot be served; it keeps its place and answers 503."""
    digest: str = field(init=False, default="")
    """Hash of all that says what the route reaches; policy, explanation and staleness are not part of it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", _digest(self))

    @property
    def provider_tokens(self) -> frozenset[Variable]:
        """The identity provider's tokens that some header holds."""
        used = {part.variable for _, template in self.request_templates for part in template if part.variable}
        return PROVIDER_TOKENS & used

    @property
    def is_tunnel(self) -> bool:
        """Whether it carries TCP through CONNECT instead of HTTP."""
        return self.match.kind is MatchKind.TCP

    def takes(self, method: str) -> bool:
        """Whether requests with this method are decided by policy at all; every other one is refused before."""
        if self.match.kind is MatchKind.TCP:
            return method == TUNNEL_METHOD
        return method in _ORDINARY or method in self.extra_methods

    @property
    def methods(self) -> tuple[str, ...]:
        """All that ``takes`` says yes to."""
        return (TUNNEL_METHOD,) if self.is_tunnel else (*ORDINARY_METHODS, *self.extra_methods)

    @property
    def authority(self) -> str:
        """Host with port unless that is 443: how browsers write it."""
        return self.host if self.port == 443 else f"{self.host}:{self.port}"

    @property
    def origin(self) -> str:
        """``https://host[:port]``."""
        return f"https://{self.authority}"


_NOT_REACH = frozenset(
    {
        "id",
        "name",
        "explanation",
        "sensitive",
        "idle_strict",
        "show_remedy",
        "digest",
        "allowed_origins",
        "extra_methods",
        # Where it lies differs from machine to machine, and authorize alone reads it.
        "kubernetes_token_file",
        "client_certificate",
        "token_issuers",
        "pass_bearer",
    }
)


def _digest(route: Route) -> str:
    reach = {name: value for name, value in asdict(route).items() if name not in _NOT_REACH}
    if not route.yields_to:
        del reach["yields_to"]  # versions that do not know of it run beside this one, and their streams go on here
    return hashlib.sha256(json.dumps(reach, sort_keys=True).encode()).hexdigest()[:32]


def unnamed_route_id(host: str, port: int, match: Match) -> str:
    """The id of a route without a name: a hash of what it matches."""
    text = f"{host}:{port}\0{match.kind}\0{match.value}"
    return "r-" + hashlib.sha256(text.encode()).hexdigest()[:16]


def overlaps(first: Match, path: str) -> bool:
    """Whether ``path`` is matched by ``first``; for tests and checks, never for requests: Envoy matches those."""
    if first.kind is MatchKind.TCP:
        return False
    if first.kind is MatchKind.PATH:
        return path == first.value
    prefix = first.value.rstrip("/")
    return path == prefix or path.startswith(prefix + "/")


def broader(match: Match) -> Iterator[Match]:
    """Every match that takes all that ``match`` does: the same, and the prefixes above it; for configurations, never for requests."""
    yield match
    path = match.value
    while True:
        yield Match(kind=MatchKind.PREFIX, value=path or "/")
        if path in {"", "/"}:
            return
        path = path.rpartition("/")[0]
