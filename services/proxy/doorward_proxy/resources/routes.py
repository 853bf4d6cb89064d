"""One virtual host for each host, made apart and put together last.

Within a host the order is: our own pages, the operator's routes as they stand in the file, and a checked 404 for
everything else. Nothing that Envoy answers goes unchecked: a request that matches nothing is decided and recorded like
any other, and an unknown host looks like an unknown path.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.struct_pb2 import Struct

from doorward.config.settings import Settings
from doorward.envoy_api.envoy.config.core.v3.base_pb2 import Metadata
from doorward.envoy_api.envoy.config.route.v3.route_components_pb2 import (
    DirectResponseAction,
    HeaderMatcher,
    RetryPolicy,
    RouteAction,
    RouteMatch,
    VirtualHost,
)
from doorward.envoy_api.envoy.config.route.v3.route_components_pb2 import Route as EnvoyRoute
from doorward.envoy_api.envoy.config.route.v3.route_pb2 import RouteConfiguration
from doorward.envoy_api.envoy.config.route.v3.scoped_route_pb2 import ScopedRouteConfiguration
from doorward.envoy_api.envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2 import (
    CheckSettings,
    ExtAuthzPerRoute,
)
from doorward.envoy_api.envoy.extensions.filters.http.ext_proc.v3.ext_proc_pb2 import ExtProcPerRoute
from doorward.envoy_api.envoy.type.matcher.v3.string_pb2 import StringMatcher
from doorward.route.internal import (
    CONTEXT_DIGEST,
    CONTEXT_HOST,
    CONTEXT_ROUTE,
    INTERNAL_DIGEST,
    JWKS_PATH,
    PAGES_PREFIX,
    InternalRoute,
)
from doorward.route.route import MatchKind, Route
from doorward_proxy.resources.clusters import upstream_cluster_name
from doorward_proxy.resources.http_filters import CHECK, COOKIES, GUARD, OWN_PAGES_KEY
from doorward_proxy.resources.messages import YES, count, overwritten, packed, seconds
from doorward_proxy.resources.surroundings import AUTHENTICATE_CLUSTER, PAGES_CLUSTER, ROUTES

GUARDED_IDLE_SECONDS = 3600.0
OWN_PAGES_SECONDS = 20.0
UNKNOWN_HOST = "*"
RDS_HOSTS = 1000
"""With more hosts than this, each is a resource of its own."""
FORWARDED_HOST = "x-forwarded-host"

_CONNECT = RouteMatch(connect_matcher=RouteMatch.ConnectMatcher())
_ANYTHING = RouteMatch(prefix="/")
"""Targets that are no path (``OPTIONS *``) never come this far: the connection manager refuses them."""


@dataclass(frozen=True, slots=True)
class BuiltHost:
    """One host as Envoy is told about it, and what else comes of its routes."""

    made_of: object
    """Everything that it depends on, to be compared."""
    host: VirtualHost
    scope: ScopedRouteConfiguration
    """The same as a resource of its own."""
    upstreams: Mapping[str, Route]
    """A route for each cluster that it goes to, by the cluster's name."""


class HostCache:
    """Hosts that were built before, so that a change of one route among thousands costs one of them."""

    def __init__(self) -> None:
        self._built: dict[str, BuiltHost] = {}

    def hosts(self, settings: Settings) -> Mapping[str, BuiltHost]:
        """Every host; the same objects as long as nothing about a host has changed."""
        broken = dict(settings.broken_hosts)
        by_host: dict[str, list[Route]] = {}
        for item in settings.routes:
            by_host.setdefault(item.route.host, []).append(item.route)
        fresh: dict[str, BuiltHost] = {}
        for host in settings.hosts:
            routes = by_host.get(host, [])
            made_of = (host in broken, host == settings.authenticate_host, routes)
            known = self._built.get(host)
            if known is None or known.made_of != made_of:
                known = _built(settings, host, made_of, routes)
            fresh[host] = known
        self._built = fresh
        return fresh


def _built(settings: Settings, host: str, made_of: object, routes: Sequence[Route]) -> BuiltHost:
    served = () if host in dict(settings.broken_hosts) else [route for route in routes if route.broken is None]
    upstreams: dict[str, Route] = {}
    for route in served:
        upstreams.setdefault(upstream_cluster_name(route), route)
    built = virtual_host(settings, host, routes)
    return BuiltHost(made_of, built, scope(built), upstreams)


def virtual_host(settings: Settings, host: str, routes: Sequence[Route]) -> VirtualHost:
    """The virtual host of one served host with its ``routes``."""
    if host == settings.authenticate_host:
        built = _sign_in_host(host)
    elif host in dict(settings.broken_hosts):
        built = [_broken(_ANYTHING, host), _broken(_CONNECT, host)]
    else:
        built = _protected_host(host, routes)
    return VirtualHost(name=host, domains=[host], routes=built)


def unknown_host() -> VirtualHost:
    """All hosts that nobody configured."""
    return VirtualHost(name="unmatched", domains=["*"], routes=_unmatched(""))


def virtual_hosts(settings: Settings) -> dict[str, VirtualHost]:
    """The virtual host of every served host by its name, and that of all others as ``*``."""
    found = {host: built.host for host, built in HostCache().hosts(settings).items()}
    return {**found, UNKNOWN_HOST: unknown_host()}


def is_scoped(settings: Settings) -> bool:
    """Whether each host travels as a resource of its own.

    One resource for all hosts is sent and read as a whole at each change; with ten thousand hosts that takes seconds. Scopes have
    their price: a request for a host that nobody configured is checked without a route and refused as such, and hosts are compared as
    they are written.
    """
    return len(settings.hosts) > RDS_HOSTS


def scope(host: VirtualHost) -> ScopedRouteConfiguration:
    """One host as a resource of its own, found by the authority up to its port."""
    configuration = RouteConfiguration(name=host.name, virtual_hosts=[host], ignore_port_in_host_matching=True)
    key = ScopedRouteConfiguration.Key(fragments=[ScopedRouteConfiguration.Key.Fragment(string_key=host.name)])
    return ScopedRouteConfiguration(name=host.name, key=key, route_configuration=configuration)


def route_configuration(hosts: Iterable[VirtualHost]) -> RouteConfiguration:
    """All virtual hosts as the one resource that Envoy asks for."""
    return RouteConfiguration(name=ROUTES, virtual_hosts=hosts, ignore_port_in_host_matching=True)


def _protected_host(host: str, routes: Sequence[Route]) -> list[EnvoyRoute]:
    return [*_own_pages(host), *(_operator_route(route) for route in routes), *_unmatched(host)]


def _sign_in_host(host: str) -> list[EnvoyRoute]:
    return [
        _own_page(RouteMatch(path=JWKS_PATH), PAGES_CLUSTER, InternalRoute.PAGES, host),
        _own_page(_ANYTHING, AUTHENTICATE_CLUSTER, InternalRoute.SIGN_IN, host),
        *_unmatched(host),
    ]


def _own_pages(host: str) -> list[EnvoyRoute]:
    return [
        _own_page(RouteMatch(path_separated_prefix=PAGES_PREFIX), PAGES_CLUSTER, InternalRoute.PAGES, host),
        _own_page(RouteMatch(path=JWKS_PATH), PAGES_CLUSTER, InternalRoute.PAGES, host),
    ]


def _own_page(match: RouteMatch, cluster: str, route_id: InternalRoute, host: str) -> EnvoyRoute:
    mark = Struct()
    mark.update({OWN_PAGES_KEY: True})
    route = EnvoyRoute(
        match=match,
        route=RouteAction(
            cluster=cluster,
            retry_policy=_retry_of_what_never_arrived(),
            timeout=seconds(OWN_PAGES_SECONDS),
            max_stream_duration=_bound(OWN_PAGES_SECONDS),
        ),
        metadata=Metadata(filter_metadata={COOKIES: mark}),
    )
    return _checked(route, route_id, INTERNAL_DIGEST, host, guarded=False)


def _unmatched(host: str) -> list[EnvoyRoute]:
    return [
        _checked(_answer(match, 404), InternalRoute.UNMATCHED, INTERNAL_DIGEST, host, guarded=False)
        for match in (_ANYTHING, _CONNECT)
    ]


def _retry_of_what_never_arrived() -> RetryPolicy:
    """Only what certainly never reached an application is sent again."""
    return RetryPolicy(retry_on="connect-failure,refused-stream", num_retries=count(1))


def _operator_route(route: Route) -> EnvoyRoute:
    match = _match(route)
    if route.broken is not None:
        return _broken(match, route.host)
    action = RouteAction(
        cluster=upstream_cluster_name(route),
        retry_policy=_retry_of_what_never_arrived(),
    )
    # The public host goes on in the configuration's words: a client may write any port, and more, after the name.
    to_set = list(route.set_request_headers)
    if route.preserve_host:
        action.host_rewrite_literal = route.authority
    elif not route.is_tunnel:
        action.auto_host_rewrite.CopyFrom(YES)
        if FORWARDED_HOST not in map(str.lower, route.remove_request_headers):
            to_set.insert(0, (FORWARDED_HOST, route.authority))
    if route.continuous:
        # The guard ends it; the clock does not.
        action.timeout.CopyFrom(seconds(0))
        action.idle_timeout.CopyFrom(seconds(GUARDED_IDLE_SECONDS))
    else:
        # Envoy looks at no other timeout once it has this one (seen on 1.40).
        action.timeout.CopyFrom(seconds(route.timeout_seconds))
        action.max_stream_duration.CopyFrom(_bound(route.timeout_seconds))
    if route.is_tunnel:
        action.upgrade_configs.append(
            RouteAction.UpgradeConfig(
                upgrade_type="CONNECT", enabled=YES, connect_config=RouteAction.UpgradeConfig.ConnectConfig()
            )
        )
    if route.websocket:
        action.upgrade_configs.append(RouteAction.UpgradeConfig(upgrade_type="websocket", enabled=YES))
    built = EnvoyRoute(
        match=match,
        route=action,
        request_headers_to_add=overwritten(to_set),
        request_headers_to_remove=route.remove_request_headers,
        response_headers_to_add=overwritten(route.set_response_headers),
    )
    return _checked(built, route.id, route.digest, route.host, guarded=route.continuous)


def _match(route: Route) -> RouteMatch:
    match = route.match
    if match.kind is MatchKind.TCP:
        # Ports are ignored in the host's name, so that the listener's own does not matter; here they tell tunnels apart.
        authority = StringMatcher(exact=f"{route.host}:{match.value}", ignore_case=True)
        return RouteMatch(
            connect_matcher=RouteMatch.ConnectMatcher(),
            headers=[HeaderMatcher(name=":authority", string_match=authority)],
        )
    if match.kind is MatchKind.PATH:
        return RouteMatch(path=match.value)
    prefix = match.value.rstrip("/")
    return RouteMatch(path_separated_prefix=prefix) if prefix else RouteMatch(prefix="/")


def _broken(match: RouteMatch, host: str) -> EnvoyRoute:
    return _checked(_answer(match, 503), InternalRoute.BROKEN, INTERNAL_DIGEST, host, guarded=False)


def _answer(match: RouteMatch, status: int) -> EnvoyRoute:
    """Its words: ``local_replies``."""
    return EnvoyRoute(
        match=match,
        direct_response=DirectResponseAction(status=status),
        response_headers_to_add=overwritten([("cache-control", "no-store"), ("x-content-type-options", "nosniff")]),
    )


def _checked(route: EnvoyRoute, route_id: str, digest: str, host: str, *, guarded: bool) -> EnvoyRoute:
    """``route`` with what authorize must know about it; the only place where per-route settings are written."""
    context = {CONTEXT_ROUTE: str(route_id), CONTEXT_DIGEST: digest, CONTEXT_HOST: host}
    route.typed_per_filter_config[CHECK].CopyFrom(
        packed(ExtAuthzPerRoute(check_settings=CheckSettings(context_extensions=context)))
    )
    if not guarded:
        route.typed_per_filter_config[GUARD].CopyFrom(packed(ExtProcPerRoute(disabled=True)))
    return route


def _bound(limit_seconds: float) -> RouteAction.MaxStreamDuration:
    return RouteAction.MaxStreamDuration(max_stream_duration=seconds(limit_seconds))
