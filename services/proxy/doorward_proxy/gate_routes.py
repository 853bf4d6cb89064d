"""The gate's list for routes: every one is checked, and unguarded ones end by the clock."""

from collections.abc import Iterator

from google.protobuf.message import Message

from doorward.envoy_api.envoy.config.route.v3.route_components_pb2 import (
    HeaderMatcher,
    Route,
    RouteAction,
    VirtualHost,
)
from doorward.envoy_api.envoy.config.route.v3.route_pb2 import RouteConfiguration
from doorward.envoy_api.envoy.config.route.v3.scoped_route_pb2 import ScopedRouteConfiguration
from doorward.envoy_api.envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2 import ExtAuthzPerRoute
from doorward.envoy_api.envoy.extensions.filters.http.ext_proc.v3.ext_proc_pb2 import ExtProcPerRoute
from doorward.envoy_api.envoy.type.matcher.v3.string_pb2 import StringMatcher
from doorward.route.internal import (
    CONTEXT_DIGEST,
    CONTEXT_HOST,
    CONTEXT_ROUTE,
    INTERNAL_DIGEST,
    InternalRoute,
)
from doorward_proxy.resources.http_filters import CHECK, COOKIES, GUARD, OWN_PAGES_KEY
from doorward_proxy.resources.listeners import CONNECT_UPGRADE
from doorward_proxy.resources.surroundings import AUTHENTICATE_CLUSTER, PAGES_CLUSTER, UPSTREAM_PREFIX

_CONFIGURATION_FIELDS = {"name", "virtual_hosts", "ignore_port_in_host_matching"}
_ROUTE_FIELDS = {
    "match",
    "route",
    "direct_response",
    "metadata",
    "typed_per_filter_config",
    "request_headers_to_add",
    "request_headers_to_remove",
    "response_headers_to_add",
}
_MATCH_FIELDS = {"prefix", "path", "path_separated_prefix", "connect_matcher", "headers"}
_ACTION_FIELDS = {
    "cluster",
    "timeout",
    "idle_timeout",
    "max_stream_duration",
    "retry_policy",
    "auto_host_rewrite",
    "host_rewrite_literal",
    "upgrade_configs",
}
_SAFE_RETRIES = {"connect-failure", "refused-stream"}
_OWN_PAGES = {PAGES_CLUSTER: InternalRoute.PAGES, AUTHENTICATE_CLUSTER: InternalRoute.SIGN_IN}
_OWN_PAGES_MARK = {COOKIES: {OWN_PAGES_KEY: True}}
_ANSWERS = {404: InternalRoute.UNMATCHED, 503: InternalRoute.BROKEN}
_INTERNAL = frozenset(InternalRoute)


def configuration_violations(configuration: RouteConfiguration) -> Iterator[str]:
    """What is wrong with a route configuration."""
    yield from unlisted(configuration, "routes", _CONFIGURATION_FIELDS)
    for host in configuration.virtual_hosts:
        yield from _host(host)


def scope_violations(scope: ScopedRouteConfiguration) -> Iterator[str]:
    """What is wrong with a host that travels alone: its key must be its one host's name, or it would answer for another."""
    where = f"scope `{scope.name}`"
    yield from unlisted(scope, where, {"name", "key", "route_configuration"})
    hosts = [host.name for host in scope.route_configuration.virtual_hosts]
    keys = [fragment.string_key for fragment in scope.key.fragments]
    if hosts != [scope.name] or keys != [scope.name] or scope.route_configuration.name != scope.name:
        yield f"{where}: not exactly its own host"
    yield from configuration_violations(scope.route_configuration)


def _host(host: VirtualHost) -> Iterator[str]:
    where = f"host `{host.name}`"
    yield from unlisted(host, where, {"name", "domains", "routes"})
    last = host.routes[-2:]
    ends = ["connect" if item.match.HasField("connect_matcher") else item.match.prefix for item in last]
    if ends != ["/", "connect"] or not all(item.HasField("direct_response") for item in last):
        yield f"{where}: requests that match nothing would go unchecked"
    domain = "" if list(host.domains) == ["*"] else host.name
    if domain and list(host.domains) != [host.name]:
        yield f"{where}: answers for other names"
    for route in host.routes:
        yield from _route(route, domain, where)


def _route(route: Route, host: str, where: str) -> Iterator[str]:
    yield from unlisted(route, where, _ROUTE_FIELDS)
    yield from unlisted(route.match, where, _MATCH_FIELDS)
    yield from _header_matches(route, host, where)
    unexpected = set(route.typed_per_filter_config) - {CHECK, GUARD}
    yield from (f"{where}: a route overrides `{name}`" for name in sorted(unexpected))
    context = _context(route)
    if context is None:
        yield f"{where}: a route without the check's context, or with more than that"
        return
    if context[CONTEXT_HOST] != host:
        yield f"{where}: a route is checked as one of another host"
    if (context[CONTEXT_ROUTE] in _INTERNAL) is not (context[CONTEXT_DIGEST] == INTERNAL_DIGEST):
        yield f"{where}: the digest does not go with the route"
    guarded = GUARD not in route.typed_per_filter_config
    if not guarded and not _only_disabled(route):
        yield f"{where}: a route changes the guard"
    if route.HasField("direct_response"):
        if context[CONTEXT_ROUTE] != _ANSWERS.get(route.direct_response.status):
            yield f"{where}: an answer of Envoy's own under another id"
    else:
        yield from _action(route, context[CONTEXT_ROUTE], host, where, guarded=guarded)


def _header_matches(route: Route, host: str, where: str) -> Iterator[str]:
    """Only tunnels look at a header, and only at the port that they are for: others would depend on what clients write."""
    for matcher in route.match.headers:
        name, port = matcher.string_match.exact.rpartition(":")[::2]
        allowed = HeaderMatcher(name=":authority", string_match=StringMatcher(exact=f"{host}:{port}", ignore_case=True))
        if matcher != allowed or name != host or not port.isdigit() or not route.match.HasField("connect_matcher"):
            yield f"{where}: a route that depends on a header"


def _action(route: Route, route_id: str, host: str, where: str, *, guarded: bool) -> Iterator[str]:
    action = route.route
    yield from unlisted(action, where, _ACTION_FIELDS)
    expected = _OWN_PAGES.get(action.cluster)
    if expected is not None:
        if route_id != expected:
            yield f"{where}: a page of ours under another id"
        if {name: dict(marks) for name, marks in route.metadata.filter_metadata.items()} != _OWN_PAGES_MARK:
            yield f"{where}: a page of ours with other metadata"
    elif not action.cluster.startswith(UPSTREAM_PREFIX) or route_id in _INTERNAL or route.HasField("metadata"):
        # Everybody may reach what carries an internal id: an upstream must never.
        yield f"{where}: an upstream that is not checked as a route of the operator"
    if action.host_rewrite_literal and not _names(host, action.host_rewrite_literal):
        yield f"{where}: an upstream is told of another host"
    if not guarded and not _is_bounded(action):
        yield f"{where}: a stream without guard and without end"
    if not guarded and action.upgrade_configs:
        yield f"{where}: an upgrade without guard"
    tunnel = route.match.HasField("connect_matcher")
    for upgrade in action.upgrade_configs:
        yield from unlisted(upgrade, where, {"upgrade_type", "enabled", "connect_config"})
        yield from unlisted(upgrade.connect_config, where, set())
        # A tunnel ends here and goes on as plain TCP; a CONNECT that is passed on would go wherever the client says.
        if (upgrade.upgrade_type == CONNECT_UPGRADE, upgrade.HasField("connect_config")) != (tunnel, tunnel):
            yield f"{where}: an upgrade that does not go with the match"
    if tunnel and len(action.upgrade_configs) != 1:
        yield f"{where}: a tunnel that does not end here"
    yield from unlisted(action.retry_policy, where, {"retry_on", "num_retries"})
    if not set(filter(None, action.retry_policy.retry_on.split(","))) <= _SAFE_RETRIES:
        yield f"{where}: repeats requests that may have been carried out"


def _names(host: str, authority: str) -> bool:
    """Whether ``authority`` is ``host``, with or without a port."""
    name, separator, port = authority.rpartition(":")
    return authority == host or (separator == ":" and name == host and port.isdigit())


def _context(route: Route) -> dict[str, str] | None:
    """The context of the check, when there is one and nothing but that."""
    override = ExtAuthzPerRoute()
    if CHECK not in route.typed_per_filter_config or not route.typed_per_filter_config[CHECK].Unpack(override):
        return None
    settings = override.check_settings
    only_settings = {field.name for field, _ in override.ListFields()} == {"check_settings"}
    only_context = {field.name for field, _ in settings.ListFields()} == {"context_extensions"}
    if not only_settings or not only_context:
        return None
    context = dict(settings.context_extensions)
    return context if context.keys() == {CONTEXT_ROUTE, CONTEXT_DIGEST, CONTEXT_HOST} else None


def _only_disabled(route: Route) -> bool:
    override = ExtProcPerRoute()
    return bool(route.typed_per_filter_config[GUARD].Unpack(override)) and override == ExtProcPerRoute(disabled=True)


def _is_bounded(action: RouteAction) -> bool:
    limit = action.max_stream_duration.max_stream_duration
    return limit.seconds > 0 or limit.nanos > 0


def unlisted(message: Message, where: str, allowed: set[str]) -> Iterator[str]:
    """A violation for each field of ``message`` that is set and not in ``allowed``."""
    for field, _ in message.ListFields():
        if field.name not in allowed:
            yield f"{where}: `{field.name}` is not on the list"
