"""Routes from the operator's text: each checked alone, so that a broken one keeps its place and stops no other."""

import re
from collections.abc import Mapping as Headers
from pathlib import Path

from doorward.config.document import RouteDocument
from doorward.config.references import read_text
from doorward.config.route_lists import RouteList, nobody
from doorward.config.settings import RoutePolicy
from doorward.config.validation import position_of, salvaged, validate
from doorward.config.words import NAME
from doorward.policy import Library, Policy, check_policy, parse_policy
from doorward.route.header_template import Template, has_variables, parse_template, reads_certificate
from doorward.route.methods import FORBIDDEN_METHODS, ORDINARY_METHODS, is_method
from doorward.route.paths import ambiguity, unmatchable
from doorward.route.route import CertificateUse, Match, MatchKind, Route, Upstream, unnamed_route_id
from doorward.source import Mapping, Node, Position, Problems, Scalar, Sequence

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\Z", re.ASCII)
_FROM = re.compile(r"https://([^/:?#@\[\]]+)(?::([0-9]{1,5}))?/?\Z", re.ASCII)
_FROM_TCP = re.compile(r"tcp\+https://([^/:?#@\[\]]+):([0-9]{1,5})\Z", re.ASCII)
_TO = re.compile(r"(http|https|h2c|tcp)://(\[[0-9a-fA-F:.]+\]|[^/:?#@\[\]]+)(?::([0-9]{1,5}))?(/?)\Z", re.ASCII)
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^`|~-]+\Z", re.ASCII)
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*\Z", re.ASCII)
_DEFAULT_PORTS = {"http": 80, "https": 443, "h2c": 80}
_RESERVED_HEADERS = frozenset(
    {
        "host",
        "cookie",
        "set-cookie",
        "connection",
        "content-length",
        "transfer-encoding",
        "te",
        "trailer",
        "upgrade",
        "keep-alive",
        "proxy-connection",
        "authorization",
        "x-request-id",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-client-cert",
    }
)
_OWN_PREFIXES = ("x-doorward-", "doorward-", "x-envoy-", ":")
_RESERVED_PATHS = ("/.doorward", "/.well-known/doorward")
_LONGEST_TIMEOUT_SECONDS = 300.0
_ROUTE_OPAQUE = frozenset({"policy"})
_STAND_INS: dict[str, object] = {"from": "", "to": "http://stand-in.invalid", "policy": None}
_ANYWHERE = Match(kind=MatchKind.PREFIX, value="/")


class RouteReader:
    """Reads lists of routes, each by itself; ``library`` is what their policies may refer to by name."""

    def __init__(self, folder: Path, authenticate_host: str, library: Library) -> None:
        self._folder = folder
        self._library = library
        self._authenticate_host = authenticate_host
        self._begin()

    def _begin(self) -> None:
        self._fatal = Problems()
        self._contained = Problems()
        self._used_files: list[Path] = []
        self._broken_hosts: dict[str, str] = {}

    def read(self, node: Node) -> RouteList:
        """Read the list ``node``."""
        self._begin()
        routes: list[tuple[RoutePolicy, Position]] = []
        if not isinstance(node, Sequence):
            self._fatal.error(node.position, "`routes` must be a list")
        for item in node.items if isinstance(node, Sequence) else ():
            if not isinstance(item, Mapping):
                self._fatal.error(item.position, "a route must be a mapping with `from`, `to` and `policy`")
                continue
            found = self._route(item)
            if found is not None:
                routes.append((found, item.position))
        return RouteList(
            routes=tuple(routes),
            broken_hosts=tuple(self._broken_hosts.items()),
            used_files=tuple(self._used_files),
            fatal=self._fatal.all,
            contained=self._contained.all,
        )

    def _route(self, node: Mapping) -> RoutePolicy | None:
        place = self._place(node)
        # Without a place there is no route; what else is wrong with it is said all the same.
        host, port, tunnel = place or ("", 443, False)
        problems = Problems()
        document = validate(RouteDocument, node, problems, opaque=_ROUTE_OPAQUE)
        if document is None:
            document = salvaged(RouteDocument, node, opaque=_ROUTE_OPAQUE, stand_ins=_STAND_INS)
        match = self._tunnel_match(node, port, problems) if tunnel else self._match(node, problems)
        policy = self._policy(node, problems)
        route = None
        if document is not None:
            route = self._build(
                self._id(node, host, port, match or _ANYWHERE), host, port, match or _ANYWHERE, document, node, problems
            )
        self._contained.extend(problems.all)
        if place is None:
            return None
        if match is None:
            self._broken_hosts[host] = f"the match of the route on line {node.position.line} cannot be built"
            return None
        if route is None or problems.has_errors:
            reason = problems.errors[0].message
            route_id = self._id(node, host, port, match)
            route = Route(id=route_id, name=route_id, host=host, port=port, match=match, upstreams=(), broken=reason)
        return RoutePolicy(route=route, policy=policy)

    @staticmethod
    def _id(node: Mapping, host: str, port: int, match: Match) -> str:
        name = node.get("name")
        given = name.value if isinstance(name, Scalar) else None
        if isinstance(given, str) and re.match(NAME, given) is not None:
            return given
        return unnamed_route_id(host, port, match)

    def _place(self, node: Mapping) -> tuple[str, int, bool] | None:
        """Host and port of ``from``, and whether it is a tunnel; without them the route cannot even answer 503."""
        written = node.get("from")
        if written is None:
            self._fatal.error(node.position, "`from` is missing", "every route needs `from: https://host`")
            return None
        text = written.value if isinstance(written, Scalar) else None
        tunnel = isinstance(text, str) and text.startswith("tcp+")
        parse = parse_tunnel if tunnel else parse_origin
        parsed = parse(text) if isinstance(text, str) else None
        if parsed is None:
            expected = "`tcp+https://host:port`" if tunnel else "`https://host[:port]`"
            self._fatal.error(
                written.position, f"`from` is `{text}`", f"expected {expected} in lower case, without a path"
            )
            return None
        if parsed[0] == self._authenticate_host:
            self._fatal.error(
                written.position, f"`{parsed[0]}` is the sign-in host", "give the route a host of its own"
            )
            return None
        return *parsed, tunnel

    @staticmethod
    def _tunnel_match(node: Mapping, port: int, problems: Problems) -> Match:
        for name in ("prefix", "path"):
            written = node.get(name)
            if written is not None:
                problems.error(written.position, f"a tunnel has no `{name}`", "leave it out")
        return Match(kind=MatchKind.TCP, value=str(port))

    def _match(self, node: Mapping, problems: Problems) -> Match | None:
        prefix, path = node.get("prefix"), node.get("path")
        if prefix is not None and path is not None:
            problems.error(path.position, "`prefix` and `path` exclude each other", "keep one of them")
            return None
        written = prefix or path
        if written is None:
            return Match(kind=MatchKind.PREFIX, value="/")
        kind = MatchKind.PREFIX if written is prefix else MatchKind.PATH
        text = written.value if isinstance(written, Scalar) else None
        reason = ambiguity(text) if isinstance(text, str) else "path-not-a-string"
        if not isinstance(text, str) or reason is not None or "?" in text:
            problems.error(written.position, f"`{kind}` is `{text}`", f"expected a plain path ({reason or 'no query'})")
            return None
        right = unmatchable(text)
        if right is not None:
            problems.error(written.position, f"no request's path is written `{text}`", f"write `{right}`")
            return None
        if kind is MatchKind.PREFIX and text != "/" and text.endswith("/"):
            problems.error(written.position, f"`prefix` is `{text}`", f"write `{text.rstrip('/')}`")
            return None
        if text.startswith(_RESERVED_PATHS):
            problems.error(written.position, f"`{text}` is Doorward's own", "choose another path")
            return None
        return Match(kind=kind, value=text)

    def _policy(self, node: Mapping, problems: Problems) -> Policy:
        written = node.get("policy")
        if written is None:
            # `policy` is required, so this route is broken already.
            return nobody(node.position)
        policy = parse_policy(written, problems, self._library)
        if not problems.has_errors:
            check_policy(policy, problems)
        return policy

    def _build(
        self, route_id: str, host: str, port: int, match: Match, document: RouteDocument, node: Mapping, found: Problems
    ) -> Route | None:
        upstreams = self._upstreams(document, node, found)
        request_headers, templates = _request_headers(document.set_request_headers, node, found)
        claim_headers = _headers(document.claim_headers, "claim_headers", node, found)
        response_headers = _headers(document.set_response_headers, "set_response_headers", node, found, response=True)
        removed = tuple(name.lower() for name in document.remove_request_headers)
        self._check_headers((*request_headers, *templates), claim_headers, removed, node, found)
        if document.client_certificate == "ignored" and any(reads_certificate(template) for _, template in templates):
            found.error(
                position_of(node, ("set_request_headers",)),
                "`${client_certificate/…}` is never known on a route that ignores certificates",
                "add `client_certificate: fact`",
            )
        for origin in document.allowed_origins:
            if parse_origin(origin) is None:
                found.error(
                    position_of(node, ("allowed_origins",)), f"`{origin}` is no origin", "`https://host[:port]`"
                )
        tunnel = match.kind is MatchKind.TCP
        self._check_methods(document, tunnel, node, found)
        self._check_guard(document, tunnel, node, found)
        if any((upstream.scheme == "tcp") is not tunnel for upstream in upstreams):
            found.error(
                position_of(node, ("to",)), "tunnels and `tcp://` go together", "`from: tcp+https://…`, `to: tcp://…`"
            )
        token_file = document.kubernetes_service_account_token_file
        if token_file is not None:
            self._check_impersonation(document, tunnel, (*request_headers, *templates, *claim_headers), node, found)
        tls_given = document.tls_server_name or document.tls_ca_file or document.tls_skip_verify
        if tls_given and any(upstream.scheme != "https" for upstream in upstreams):
            found.error(position_of(node, ("to",)), "TLS settings for an upstream without TLS", "write `https://`")
        if document.tls_skip_verify:
            found.warning(position_of(node, ("tls_skip_verify",)), "the upstream's certificate is not verified")
        authorities = None
        if document.tls_ca_file is not None:
            position = position_of(node, ("tls_ca_file",))
            authorities = read_text(self._folder, document.tls_ca_file, position, found, self._used_files)
            if authorities is not None and "-----BEGIN CERTIFICATE-----" not in authorities:
                found.error(position, f"`{document.tls_ca_file}` holds no PEM certificate")
        if found.has_errors:
            return None
        return Route(
            id=route_id,
            name=document.name or (f"{host}:{port}" if tunnel else f"{host}{match.value}"),
            host=host,
            port=port,
            match=match,
            upstreams=upstreams,
            set_request_headers=request_headers,
            request_templates=templates,
            kubernetes_token_file=None if token_file is None else str(self._folder / token_file),
            remove_request_headers=removed,
            set_response_headers=response_headers,
            preserve_host=document.preserve_host,
            timeout_seconds=_LONGEST_TIMEOUT_SECONDS if document.timeout == "none" else document.timeout,
            websocket=document.websocket,
            continuous=document.continuous
            if document.continuous is not None
            else self._has_no_end(document, tunnel) or upstreams[0].scheme == "h2c",
            pass_assertion=document.pass_assertion,
            claim_headers=claim_headers,
            path_parameters=document.path_parameters == "allow",
            extra_methods=tuple(document.extra_methods),
            allowed_origins=tuple(document.allowed_origins),
            sensitive=document.sensitive,
            client_certificate=CertificateUse(document.client_certificate),
            token_issuers=tuple(document.token_issuers),
            pass_bearer=document.pass_bearer,
            idle_strict=document.idle == "strict",
            explanation=document.explanation,
            show_remedy=document.show_remedy,
            tls_server_name=document.tls_server_name,
            tls_ca_pem=authorities,
            tls_skip_verify=document.tls_skip_verify,
        )

    @staticmethod
    def _check_impersonation(
        document: RouteDocument, tunnel: bool, headers: tuple[tuple[str, object], ...], node: Mapping, found: Problems
    ) -> None:
        position = position_of(node, ("kubernetes_service_account_token_file",))
        if tunnel:
            found.error(position, "what goes through a tunnel has no headers")
        for name, _ in headers:
            if name == "authorization" or name.startswith("impersonate-"):
                found.error(position, f"`{name}` is the service account's on this route")
        targets = [document.to] if isinstance(document.to, str) else document.to
        if not all(text.startswith("https://") for text in targets):
            found.warning(position, "the service account's token travels to this upstream without TLS", "`https://`")

    @staticmethod
    def _check_methods(document: RouteDocument, tunnel: bool, node: Mapping, found: Problems) -> None:
        for index, method in enumerate(document.extra_methods):
            position = position_of(node, ("extra_methods", index))
            if tunnel:
                found.error(position, "a tunnel is opened by `CONNECT` alone", "leave `extra_methods` out")
            elif not is_method(method) or len(method) > 64:
                found.error(position, f"`{method}` is no method", "expected a name such as `PROPFIND`")
            elif method in FORBIDDEN_METHODS:
                found.error(position, f"`{method}` is never passed on", "leave it out")
            elif method in ORDINARY_METHODS or method in document.extra_methods[:index]:
                found.error(position, f"`{method}` counts already", "leave it out")
            elif method.upper() in {*ORDINARY_METHODS, *FORBIDDEN_METHODS}:
                found.error(
                    position, f"`{method}` is another method than `{method.upper()}`", "methods are case-sensitive"
                )

    @staticmethod
    def _has_no_end(document: RouteDocument, tunnel: bool) -> bool:
        """Whether its streams would go on for ever without the guard."""
        return tunnel or document.websocket or document.timeout == "none"

    def _check_guard(self, document: RouteDocument, tunnel: bool, node: Mapping, found: Problems) -> None:
        if document.continuous is False and self._has_no_end(document, tunnel):
            found.error(
                position_of(node, ("continuous",)),
                "streams without an end are always guarded",
                "leave `continuous` out",
            )
        if document.timeout != "none" and not 0 < document.timeout <= _LONGEST_TIMEOUT_SECONDS:
            found.error(
                position_of(node, ("timeout",)), "`timeout` must be more than nothing and at most `5m`", "`none`"
            )
        if tunnel and document.websocket:
            found.error(
                position_of(node, ("websocket",)), "a tunnel carries anything, WebSockets included", "leave it out"
            )

    def _upstreams(self, document: RouteDocument, node: Mapping, found: Problems) -> tuple[Upstream, ...]:
        texts = [document.to] if isinstance(document.to, str) else document.to
        upstreams = []
        for index, text in enumerate(texts):
            position = position_of(node, ("to", index) if isinstance(document.to, list) else ("to",))
            match = _TO.match(text)
            port = int(match[3] or _DEFAULT_PORTS.get(match[1], 0)) if match else 0
            if match is None or not 0 < port < 65536:
                found.error(
                    position,
                    f"`to` is `{text}`",
                    "expected `http://host[:port]`, `https://…`, `h2c://…` or `tcp://host:port`",
                )
                continue
            host = match[2].lower().strip("[]")
            if not match[2].startswith("[") and not _HOST.match(host):
                found.error(position, f"`{match[2]}` is no host name")
                continue
            upstreams.append(Upstream(scheme=match[1], host=host, port=port))
        if not texts:
            found.error(position_of(node, ("to",)), "`to` names no upstream")
        if len({upstream.scheme for upstream in upstreams}) > 1:
            found.error(position_of(node, ("to",)), "the upstreams of a route must have one scheme")
        return tuple(upstreams)

    def _check_headers(
        self,
        request_headers: tuple[tuple[str, object], ...],
        claim_headers: tuple[tuple[str, str], ...],
        removed: tuple[str, ...],
        node: Mapping,
        found: Problems,
    ) -> None:
        for index, name in enumerate(removed):
            _check_header_name(name, position_of(node, ("remove_request_headers", index)), found)
        twice = {name for name, _ in request_headers} & {name for name, _ in claim_headers}
        both = {name for name, _ in (*request_headers, *claim_headers)} & set(removed)
        for name in sorted(twice):
            found.error(position_of(node, ("claim_headers", name)), f"`{name}` is also in `set_request_headers`")
        for name in sorted(both):
            found.error(position_of(node, ("remove_request_headers",)), f"`{name}` is both set and removed")


def parse_origin(text: str) -> tuple[str, int] | None:
    """Host and port of ``https://host[:port]`` in lower case, or ``None`` when it is anything else."""
    match = _FROM.match(text)
    if match is None or not _HOST.match(match[1]) or len(match[1]) > 253:
        return None
    port = int(match[2] or 443)
    return (match[1], port) if 0 < port < 65536 else None


def parse_tunnel(text: str) -> tuple[str, int] | None:
    """Host and port of ``tcp+https://host:port``, or ``None`` when it is anything else."""
    match = _FROM_TCP.match(text)
    if match is None or not _HOST.match(match[1]) or len(match[1]) > 253:
        return None
    port = int(match[2])
    return (match[1], port) if 0 < port < 65536 else None


def _request_headers(
    headers: Headers[str, str], node: Mapping, found: Problems
) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, Template], ...]]:
    """Headers with a fixed value, and those with facts in it; only the latter may carry a credential."""
    plain = _headers(
        {name: value for name, value in headers.items() if not has_variables(value)}, "set_request_headers", node, found
    )
    templates = []
    filled = {name: value for name, value in headers.items() if has_variables(value)}
    for name, value in _headers(filled, "set_request_headers", node, found, filled=True):
        try:
            templates.append((name, parse_template(value)))
        except ValueError as error:
            written = next(key for key in filled if key.lower() == name)
            found.error(position_of(node, ("set_request_headers", written)), str(error))
    twice = {name for name, _ in plain} & {name for name, _ in templates}
    for name in sorted(twice):
        found.error(position_of(node, ("set_request_headers",)), f"`{name}` stands twice in different case")
    return plain, tuple(templates)


def _headers(
    headers: Headers[str, str],
    key: str,
    node: Mapping,
    found: Problems,
    *,
    response: bool = False,
    filled: bool = False,
) -> tuple[tuple[str, str], ...]:
    pairs = []
    for name, value in headers.items():
        position = position_of(node, (key, name))
        if not (filled and name.lower() == "authorization"):
            _check_header_name(name.lower(), position, found, response=response)
        if not _HEADER_VALUE.match(value) or len(value) > 4096:
            found.error(position, f"the value of `{name}` holds characters that no header may hold")
        pairs.append((name.lower(), value))
    if len({name for name, _ in pairs}) != len(pairs):
        found.error(position_of(node, (key,)), f"`{key}` names a header twice in different case")
    return tuple(sorted(pairs))


def _check_header_name(name: str, position: Position, found: Problems, *, response: bool = False) -> None:
    if not _HEADER_NAME.match(name) or len(name) > 128:
        found.error(position, f"`{name}` is no header name")
    elif name.startswith(_OWN_PREFIXES) or (name in _RESERVED_HEADERS and not response):
        found.error(position, f"`{name}` is not a route's to set or remove")
    elif response and name in {"set-cookie", "content-length", "transfer-encoding", "connection"}:
        found.error(position, f"`{name}` is not a route's to set")
