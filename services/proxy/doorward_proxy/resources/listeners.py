"""The public listener: TLS, and a connection manager that refuses what two servers could read differently."""

from typing import Any

from doorward.config.settings import Settings
from doorward.envoy_api.envoy.config.core.v3.protocol_pb2 import (
    Http2ProtocolOptions,
    HttpProtocolOptions,
    SchemeHeaderTransformation,
)
from doorward.envoy_api.envoy.config.listener.v3.listener_components_pb2 import (
    Filter,
    FilterChain,
    FilterChainMatch,
    ListenerFilter,
)
from doorward.envoy_api.envoy.config.listener.v3.listener_pb2 import Listener
from doorward.envoy_api.envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2 import TlsInspector
from doorward.envoy_api.envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    Rds,
    ScopedRds,
    ScopedRoutes,
)
from doorward_proxy.resources.http_filters import http_filters
from doorward_proxy.resources.local_replies import local_replies
from doorward_proxy.resources.messages import YES, count, from_discovery, packed, seconds, socket_address
from doorward_proxy.resources.routes import is_scoped
from doorward_proxy.resources.surroundings import LISTENER, ROUTES, SCOPES
from doorward_proxy.resources.tls import downstream_socket
from doorward_proxy.resources.tracing import early_mutations, request_ids, tracing

CONNECTION_MANAGER = "envoy.filters.network.http_connection_manager"
SERVER_NAME_INSPECTOR = "envoy.filters.listener.tls_inspector"
CONNECT_UPGRADE = "CONNECT"
MAX_STREAMS_OF_A_CONNECTION = 100

_BUFFER_BYTES = 1024 * 1024


def public_listener(settings: Settings) -> Listener:
    """The listener at ``settings.listen``: one chain, and one more for hosts whose clients are asked for a certificate."""
    manager = packed(connection_manager(settings))
    asking = settings.certificate_hosts
    chains = [FilterChain(transport_socket=downstream_socket())]
    if asking:
        chains.insert(
            0,
            FilterChain(
                filter_chain_match=FilterChainMatch(server_names=asking),
                transport_socket=downstream_socket(settings.client_certificates),
            ),
        )
    for chain in chains:
        chain.filters.append(Filter(name=CONNECTION_MANAGER, typed_config=manager))
        chain.transport_socket_connect_timeout.CopyFrom(seconds(10))
    return Listener(
        name=LISTENER,
        address=socket_address(settings.listen.host, settings.listen.port),
        # Which host a client means is known only from what it says before TLS begins.
        listener_filters=[server_name_inspector()] if asking else [],
        filter_chains=chains,
        per_connection_buffer_limit_bytes=count(_BUFFER_BYTES),
    )


def server_name_inspector() -> ListenerFilter:
    """Reads the name of the server that a client means (SNI)."""
    return ListenerFilter(name=SERVER_NAME_INSPECTOR, typed_config=packed(TlsInspector()))


def _routes(settings: Settings) -> dict[str, Any]:
    """Where routes come from: one resource, or one for each host."""
    if not is_scoped(settings):
        return {"rds": Rds(route_config_name=ROUTES, config_source=from_discovery())}
    return {"scoped_routes": scoped_routes()}


def scoped_routes() -> ScopedRoutes:
    """Routes by the authority up to its port."""
    fragment = ScopedRoutes.ScopeKeyBuilder.FragmentBuilder
    extractor = fragment.HeaderValueExtractor(name=":authority", element_separator=":", index=0)
    return ScopedRoutes(
        name=SCOPES,
        scope_key_builder=ScopedRoutes.ScopeKeyBuilder(fragments=[fragment(header_value_extractor=extractor)]),
        rds_config_source=from_discovery(),
        scoped_rds=ScopedRds(scoped_rds_config_source=from_discovery()),
    )


def connection_manager(settings: Settings) -> HttpConnectionManager:
    """HTTP on the public listener, as strict as it goes."""
    traced: dict[str, Any] = {}
    if settings.tracing is not None:
        traced = {"tracing": tracing(settings.tracing), "request_id_extension": request_ids()}
    manager = HttpConnectionManager
    return manager(
        stat_prefix="public",
        **_routes(settings),
        http_filters=http_filters(settings),
        # What a path or a header name is must be beyond dispute before anybody decides on it.
        normalize_path=YES,
        merge_slashes=True,
        path_with_escaped_slashes_action=manager.PathWithEscapedSlashesAction.REJECT_REQUEST,
        common_http_protocol_options=HttpProtocolOptions(
            headers_with_underscores_action=HttpProtocolOptions.HeadersWithUnderscoresAction.REJECT_REQUEST,
            idle_timeout=seconds(300),
            max_headers_count=count(100),
        ),
        http2_protocol_options=Http2ProtocolOptions(
            max_concurrent_streams=count(MAX_STREAMS_OF_A_CONNECTION),
            initial_stream_window_size=count(256 * 1024),
            initial_connection_window_size=count(_BUFFER_BYTES),
            # WebSockets over HTTP/2 are CONNECT requests (RFC 8441); others are tunnels, or meet the checked 404.
            allow_connect=True,
        ),
        scheme_header_transformation=SchemeHeaderTransformation(scheme_to_overwrite="https"),
        max_request_headers_kb=count(60),
        stream_idle_timeout=seconds(300),
        request_headers_timeout=seconds(10),
        drain_timeout=seconds(5),
        # HTTP/1.1 clients see the end of a revoked stream only after this long.
        delayed_close_timeout=seconds(0.05),
        # The client's address is the peer's, or what the given number of trusted proxies wrote; nobody is "internal".
        use_remote_address=YES,
        xff_num_trusted_hops=settings.trusted_hops,
        internal_address_config=manager.InternalAddressConfig(),
        # Without this Envoy would answer CONNECT by itself, unchecked; of the operator's routes only tunnels match it.
        upgrade_configs=[manager.UpgradeConfig(upgrade_type=CONNECT_UPGRADE)],
        early_header_mutation_extensions=early_mutations(traced=settings.tracing is not None),
        generate_request_id=YES,
        always_set_request_id_in_response=True,
        local_reply_config=local_replies(),
        server_name="doorward",
        **traced,
    )
