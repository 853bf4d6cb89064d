"""The gate: what may be published at all, checked on every snapshot before Envoy sees it.

An allow-list. A field that nobody thought of is refused, because most of what Envoy can do would let a request past the
check: a filter that answers first, a route that skips the check, a redirect inside, a switch at run time. Whoever adds
something to ``doorward_proxy.resources`` adds it here too, and says so in review.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from doorward.envoy_api.envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from doorward.envoy_api.envoy.config.cluster.v3.cluster_pb2 import Cluster
from doorward.envoy_api.envoy.config.listener.v3.listener_components_pb2 import FilterChain
from doorward.envoy_api.envoy.config.listener.v3.listener_pb2 import Listener
from doorward.envoy_api.envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2 import ExtAuthz
from doorward.envoy_api.envoy.extensions.filters.http.ext_proc.v3.ext_proc_pb2 import ExternalProcessor
from doorward.envoy_api.envoy.extensions.filters.http.header_mutation.v3.header_mutation_pb2 import HeaderMutation
from doorward.envoy_api.envoy.extensions.filters.http.lua.v3.lua_pb2 import Lua
from doorward.envoy_api.envoy.extensions.filters.http.router.v3.router_pb2 import Router
from doorward.envoy_api.envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
)
from doorward.envoy_api.envoy.extensions.transport_sockets.tls.v3.tls_pb2 import (
    DownstreamTlsContext,
    UpstreamTlsContext,
)
from doorward.envoy_api.envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from doorward.errors import DoorwardError
from doorward.rpc.planes import Plane
from doorward_proxy.envoy.overload import one_form
from doorward_proxy.gate_routes import configuration_violations, scope_violations, unlisted
from doorward_proxy.resources.clusters import PROTOCOL_OPTIONS
from doorward_proxy.resources.http_filters import (
    CHECK,
    COOKIE_SCRIPT,
    COOKIES,
    DELETED_PREFIXES,
    GUARD,
    HYGIENE,
    ORDER,
    OURS,
    ROUTER,
    WELL_KNOWN_HEADERS,
    check,
    guard,
)
from doorward_proxy.resources.listeners import (
    CONNECT_UPGRADE,
    CONNECTION_MANAGER,
    MAX_STREAMS_OF_A_CONNECTION,
    scoped_routes,
    server_name_inspector,
)
from doorward_proxy.resources.local_replies import local_replies
from doorward_proxy.resources.surroundings import (
    AUTHENTICATE_CLUSTER,
    AUTHORIZE_CLUSTER,
    GUARD_CLUSTER,
    OWN_CLUSTERS,
    PAGES_CLUSTER,
    TRACES_CLUSTER,
    UPSTREAM_PREFIX,
)
from doorward_proxy.resources.tls import plane_socket
from doorward_proxy.resources.tracing import early_mutations, request_ids, tracing_form
from doorward_proxy.xds.snapshot import (
    Snapshot,
    wanted_by_cluster,
    wanted_by_listener,
    wanted_by_routes,
    wanted_by_scope,
)

_Look: TypeAlias = tuple[
    Sequence[Message], Callable[[Any], Iterator[str]], Callable[[Any], frozenset[str]], frozenset[str]
]


class GateClosedError(DoorwardError):
    """A snapshot or bootstrap that must not reach Envoy.

    Attributes:
        violations: what is wrong with it, one text each; never empty.
    """

    def __init__(self, violations: list[str]) -> None:
        super().__init__("; ".join(violations))
        self.violations = violations


@dataclass(frozen=True, slots=True)
class _Admitted:
    message: Message
    wanted: frozenset[str]
    """Names of what it refers to."""


class Gate:
    """Admits one snapshot after another; a message that was admitted, and is the same object still, is not looked at again.

    Messages of a snapshot are never changed, so the same object is the same content. Whether what it refers to is still there is
    asked each time.
    """

    def __init__(self) -> None:
        self._admitted: dict[int, _Admitted] = {}

    def admit(self, snapshot: Snapshot) -> None:
        """Return when ``snapshot`` may be published.

        Raises:
            GateClosedError: it holds something that is not on the list.
        """
        violations = [*_listeners(snapshot), *_hosts_are_complete(snapshot)]
        fresh: dict[int, _Admitted] = {}
        clusters = frozenset(cluster.name for cluster in snapshot.clusters)
        secrets = frozenset(secret.name for secret in snapshot.secrets)
        routes = frozenset(configuration.name for configuration in snapshot.routes)
        looks: tuple[_Look, ...] = (
            (snapshot.routes, configuration_violations, wanted_by_routes, clusters),
            (snapshot.scopes, scope_violations, wanted_by_scope, clusters),
            (snapshot.clusters, _cluster, wanted_by_cluster, secrets),
            (snapshot.listeners, lambda _: iter(()), wanted_by_listener, routes | secrets | clusters),
        )
        for messages, look, wanted, there in looks:
            for message in messages:
                known = self._admitted.get(id(message))
                if known is None or known.message is not message:
                    violations += look(message)
                    known = _Admitted(message, wanted(message))
                fresh[id(message)] = known
                if not known.wanted <= there:
                    missing = ", ".join(f"`{name}`" for name in sorted(known.wanted - there))
                    violations.append(f"`{getattr(message, 'name', '')}` refers to what is not there: {missing}")
        if violations:
            raise GateClosedError(violations)
        self._admitted = fresh


def admit(snapshot: Snapshot) -> None:
    """Return when ``snapshot`` may be published.

    Raises:
        GateClosedError: it holds something that is not on the list.
    """
    Gate().admit(snapshot)


def admit_bootstrap(bootstrap: Bootstrap) -> None:
    """Return when Envoy may be started with ``bootstrap``.

    Raises:
        GateClosedError: it has a runtime layer, an admin interface that others can open, no limits, or anything else unlisted.
    """
    violations = list(
        unlisted(bootstrap, "bootstrap", {"node", "admin", "dynamic_resources", "static_resources", "overload_manager"})
    )
    violations += unlisted(bootstrap.admin, "admin", {"address", "ignore_global_conn_limit"})
    violations += unlisted(bootstrap.static_resources, "static resources", {"clusters"})
    if bootstrap.admin.address.pipe.mode != 0o600:
        violations.append("the admin interface is not a private Unix socket")
    if bootstrap.overload_manager != one_form(bootstrap.overload_manager):
        violations.append("memory or connections are not limited, or in another way")
    if violations:
        raise GateClosedError(violations)


_LISTENER_FIELDS = {"name", "address", "listener_filters", "filter_chains", "per_connection_buffer_limit_bytes"}
_CHAIN_FIELDS = {"filter_chain_match", "filters", "transport_socket", "transport_socket_connect_timeout"}
_DOWNSTREAM_FIELDS = {
    "common_tls_context",
    "require_client_certificate",
    "disable_stateless_session_resumption",
    "disable_stateful_session_resumption",
}
_MANAGER_FIELDS = {
    "stat_prefix",
    "rds",
    "scoped_routes",
    "http_filters",
    "normalize_path",
    "merge_slashes",
    "path_with_escaped_slashes_action",
    "common_http_protocol_options",
    "http2_protocol_options",
    "scheme_header_transformation",
    "max_request_headers_kb",
    "stream_idle_timeout",
    "request_headers_timeout",
    "drain_timeout",
    "delayed_close_timeout",
    "use_remote_address",
    "xff_num_trusted_hops",
    "internal_address_config",
    "upgrade_configs",
    "generate_request_id",
    "always_set_request_id_in_response",
    "local_reply_config",
    "server_name",
    "tracing",
    "early_header_mutation_extensions",
    "request_id_extension",
}


def _hosts_are_complete(snapshot: Snapshot) -> Iterator[str]:
    """One way for routes to travel, and requests for unknown hosts are checked, or cannot reach a route at all."""
    if len(snapshot.routes) > 1 or bool(snapshot.routes) is bool(snapshot.scopes):
        yield "there must be one route configuration, or scopes"
    for configuration in snapshot.routes:
        if not any("*" in host.domains for host in configuration.virtual_hosts):
            yield "routes: requests for unknown hosts would go unchecked"


def _listeners(snapshot: Snapshot) -> Iterator[str]:
    if len(snapshot.listeners) != 1:
        yield "there must be one listener"
    for listener in snapshot.listeners:
        yield from _listener(listener)


def _listener(listener: Listener) -> Iterator[str]:
    yield from unlisted(listener, "listener", _LISTENER_FIELDS)
    if any(item != server_name_inspector() for item in listener.listener_filters):
        yield "listener: another listener filter"
    for chain in listener.filter_chains:
        yield from unlisted(chain, "filter chain", _CHAIN_FIELDS)
        yield from unlisted(chain.filter_chain_match, "filter chain", {"server_names"})
        yield from _downstream_tls(chain, bool(listener.listener_filters))
        if [item.name for item in chain.filters] != [CONNECTION_MANAGER]:
            yield "filter chain: the connection manager must be its only filter"
            continue
        manager = HttpConnectionManager()
        if not _unpack(chain.filters[0].typed_config, manager):
            yield "filter chain: not a connection manager"
            continue
        yield from _manager(manager)


def _downstream_tls(chain: FilterChain, is_name_known: bool) -> Iterator[str]:
    """TLS on every chain; only one that is chosen by name asks for certificates, and believes nobody but its authorities."""
    tls = DownstreamTlsContext()
    if not chain.HasField("transport_socket") or not _unpack(chain.transport_socket.typed_config, tls):
        yield "filter chain: no TLS"
        return
    named = bool(chain.filter_chain_match.server_names)
    if named and not is_name_known:
        yield "filter chain: nobody reads the name that it is chosen by"
    yield from unlisted(tls, "filter chain", _DOWNSTREAM_FIELDS)
    common = tls.common_tls_context
    yield from unlisted(
        common,
        "filter chain",
        {"tls_params", "tls_certificate_sds_secret_configs", "alpn_protocols", "validation_context"},
    )
    if common.HasField("validation_context") is not named:
        yield "filter chain: clients must be asked for certificates where the chain is chosen by name, and nowhere else"
    if named:
        context = common.validation_context
        yield from unlisted(context, "filter chain", {"trusted_ca", "crl", "max_verify_depth"})
        if not context.HasField("trusted_ca") or not context.HasField("max_verify_depth"):
            yield "filter chain: client certificates without authorities or without a bound of their chains"
        if not (tls.disable_stateless_session_resumption and tls.disable_stateful_session_resumption):
            yield "filter chain: a resumed session would not be checked again"


def _manager(manager: HttpConnectionManager) -> Iterator[str]:
    yield from unlisted(manager, "connection manager", _MANAGER_FIELDS)
    common = manager.common_http_protocol_options
    demanded = {
        "normalize_path": manager.normalize_path.value,
        "merge_slashes": manager.merge_slashes,
        "path_with_escaped_slashes_action": manager.path_with_escaped_slashes_action
        == HttpConnectionManager.PathWithEscapedSlashesAction.REJECT_REQUEST,
        "headers_with_underscores_action": common.headers_with_underscores_action == common.REJECT_REQUEST,
        "use_remote_address": manager.use_remote_address.value,
        "internal_address_config": manager.HasField("internal_address_config")
        and not manager.internal_address_config.ListFields(),
        "upgrade_configs": list(manager.upgrade_configs)
        == [HttpConnectionManager.UpgradeConfig(upgrade_type=CONNECT_UPGRADE)],
        "local_reply_config": manager.local_reply_config == local_replies(),
        "max_concurrent_streams": 0
        < manager.http2_protocol_options.max_concurrent_streams.value
        <= MAX_STREAMS_OF_A_CONNECTION,
    }
    yield from _tracing(manager)
    if manager.HasField("scoped_routes") and manager.scoped_routes != scoped_routes():
        yield "connection manager: scopes are found in another way"
    yield from (f"connection manager: `{name}` is not as it must be" for name, holds in demanded.items() if not holds)
    if tuple(item.name for item in manager.http_filters) != ORDER:
        yield "connection manager: other filters, or another order"
        return
    for item in manager.http_filters:
        yield from unlisted(item, f"filter `{item.name}`", {"name", "typed_config"})
        yield from _FILTERS[item.name](item)


def _tracing(manager: HttpConnectionManager) -> Iterator[str]:
    """Envoy's spans: none, or those of the one form; only where they go and how many may differ."""
    traced = manager.HasField("tracing")
    if list(manager.early_header_mutation_extensions) != early_mutations(traced=traced):
        yield "connection manager: headers are changed before everything else, or hold what clients write"
    if not traced:
        if manager.HasField("request_id_extension"):
            yield "connection manager: requests are named in another way"
        return
    if manager.request_id_extension != request_ids():
        yield "connection manager: requests are named in another way"
    expected = tracing_form(manager.tracing)
    if manager.tracing != expected:
        yield f"tracing: differs from the one form in {_differing(manager.tracing, expected)}"


def _hygiene(item: HttpFilter) -> Iterator[str]:
    config = HeaderMutation()
    if not _unpack(item.typed_config, config):
        yield "hygiene: another type"
        return
    yield from unlisted(config, "hygiene", {"mutations"})
    yield from unlisted(config.mutations, "hygiene", {"request_mutations", "request_trailers_mutations"})
    for name, mutations in (
        ("headers", config.mutations.request_mutations),
        ("trailers", config.mutations.request_trailers_mutations),
    ):
        removed = {mutation.remove for mutation in mutations if mutation.WhichOneof("action") == "remove"}
        prefixes = {
            mutation.remove_on_match.key_matcher.prefix
            for mutation in mutations
            if mutation.WhichOneof("action") == "remove_on_match"
        }
        if not set(WELL_KNOWN_HEADERS) <= removed or not set(DELETED_PREFIXES) <= prefixes:
            yield f"hygiene: identity headers are not deleted from {name}"
    kinds = [mutation.WhichOneof("action") == "append" for mutation in config.mutations.request_mutations]
    if kinds != sorted(kinds) or list(config.mutations.request_mutations)[-len(OURS) :] != list(OURS):
        yield "hygiene: our own headers must be set, all of them and after the deletions"


def _check(item: HttpFilter) -> Iterator[str]:
    config = ExtAuthz()
    if not _unpack(item.typed_config, config):
        yield "check: another type"
    elif config != check():
        yield f"check: differs from the one form in {_differing(config, check())}"


def _guard(item: HttpFilter) -> Iterator[str]:
    config = ExternalProcessor()
    if not _unpack(item.typed_config, config):
        yield "guard: another type"
    elif config != guard():
        yield f"guard: differs from the one form in {_differing(config, guard())}"


def _cookies(item: HttpFilter) -> Iterator[str]:
    config = Lua()
    if not _unpack(item.typed_config, config):
        yield "cookies: another type"
        return
    yield from unlisted(config, "cookies", {"default_source_code"})
    if config.default_source_code.inline_string != COOKIE_SCRIPT:
        yield "cookies: another script"


def _router(item: HttpFilter) -> Iterator[str]:
    config = Router()
    if not _unpack(item.typed_config, config):
        yield "router: another type"
        return
    yield from unlisted(config, "router", {"suppress_envoy_headers"})


_FILTERS: dict[str, Callable[[HttpFilter], Iterator[str]]] = {
    HYGIENE: _hygiene,
    CHECK: _check,
    GUARD: _guard,
    COOKIES: _cookies,
    ROUTER: _router,
}

_CLUSTER_FIELDS = {
    "name",
    "type",
    "connect_timeout",
    "load_assignment",
    "circuit_breakers",
    "wait_for_warm_on_init",
    "dns_lookup_family",
    "respect_dns_ttl",
    "dns_refresh_rate",
    "typed_extension_protocol_options",
    "transport_socket",
    "health_checks",
    "common_lb_config",
}
_PLANES = {
    AUTHORIZE_CLUSTER: Plane.AUTHORIZE,
    GUARD_CLUSTER: Plane.PROXY,
    PAGES_CLUSTER: Plane.PROXY,
    AUTHENTICATE_CLUSTER: Plane.AUTHENTICATE,
}
_PROTOCOL_FIELDS = {"common_http_protocol_options", "explicit_http_config", "auto_config"}


def _cluster(cluster: Cluster) -> Iterator[str]:
    where = f"cluster `{cluster.name}`"
    yield from unlisted(cluster, where, _CLUSTER_FIELDS)
    own = cluster.name in OWN_CLUSTERS
    if not own and cluster.name != TRACES_CLUSTER and not cluster.name.startswith(UPSTREAM_PREFIX):
        yield f"{where}: no name of ours"
    for key, config in cluster.typed_extension_protocol_options.items():
        options = HttpProtocolOptions()
        if key != PROTOCOL_OPTIONS or not _unpack(config, options):
            yield f"{where}: protocol options of another type"
            continue
        yield from unlisted(options, where, _PROTOCOL_FIELDS)
    addresses = [
        endpoint.endpoint.address
        for locality in cluster.load_assignment.endpoints
        for endpoint in locality.lb_endpoints
    ]
    on_sockets = all(address.HasField("pipe") for address in addresses)
    if not own and any(address.HasField("pipe") for address in addresses):
        yield f"{where}: an upstream on a Unix socket"
    if own:
        plane = _PLANES[cluster.name]
        expected = None if on_sockets else plane_socket(plane)
        found = cluster.transport_socket if cluster.HasField("transport_socket") else None
        if found != expected:
            yield f"{where}: the plane `{plane}` must be on Unix sockets, or show its certificate"
    elif cluster.HasField("transport_socket"):
        yield from _upstream_tls(cluster, where)


def _upstream_tls(cluster: Cluster, where: str) -> Iterator[str]:
    tls = UpstreamTlsContext()
    if not _unpack(cluster.transport_socket.typed_config, tls):
        yield f"{where}: not TLS"
        return
    yield from unlisted(tls, where, {"common_tls_context", "sni"})
    yield from unlisted(tls.common_tls_context, where, {"tls_params", "validation_context"})
    if tls.common_tls_context.HasField("validation_context"):
        context = tls.common_tls_context.validation_context
        yield from unlisted(context, where, {"trusted_ca", "match_typed_subject_alt_names"})
        exact = [item.matcher.WhichOneof("match_pattern") == "exact" for item in context.match_typed_subject_alt_names]
        if not context.HasField("trusted_ca") or not exact or not all(exact):
            yield f"{where}: TLS without a trust store and an exact name"


def _unpack(config: AnyMessage, into: Message) -> bool:
    return bool(config.Unpack(into))


def _differing(found: Message, expected: Message) -> str:
    """Names of the fields in which two messages of one type differ."""
    ours = {field.name: value for field, value in expected.ListFields()}
    theirs = {field.name: value for field, value in found.ListFields()}
    names = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    return ", ".join(f"`{name}`" for name in names)
