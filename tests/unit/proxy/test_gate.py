"""The gate: every way past the check that we know of is planted, and refused. (S30)"""

from collections.abc import Callable
from typing import TypeVar

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tests.support.envoy import route, settings_of
from tests.unit.proxy.examples import CERTIFIED, EXAMPLES, surroundings

from doorward.config.settings import ClientCertificateSettings, RoutePolicy, Settings, TracingSettings
from doorward.envoy_api.envoy.config.cluster.v3.cluster_pb2 import Cluster
from doorward.envoy_api.envoy.config.listener.v3.listener_pb2 import Listener
from doorward.envoy_api.envoy.config.route.v3.route_components_pb2 import FilterConfig, Route, VirtualHost
from doorward.envoy_api.envoy.config.route.v3.route_pb2 import RouteConfiguration
from doorward.envoy_api.envoy.config.trace.v3.opentelemetry_pb2 import OpenTelemetryConfig
from doorward.envoy_api.envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2 import ExtAuthz, ExtAuthzPerRoute
from doorward.envoy_api.envoy.extensions.filters.http.ext_proc.v3.ext_proc_pb2 import (
    ExternalProcessor,
    ExtProcPerRoute,
)
from doorward.envoy_api.envoy.extensions.filters.http.header_mutation.v3.header_mutation_pb2 import HeaderMutation
from doorward.envoy_api.envoy.extensions.filters.http.lua.v3.lua_pb2 import Lua
from doorward.envoy_api.envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
)
from doorward.envoy_api.envoy.extensions.transport_sockets.tls.v3.tls_pb2 import (
    DownstreamTlsContext,
    UpstreamTlsContext,
)
from doorward.envoy_api.envoy.type.matcher.v3.string_pb2 import StringMatcher
from doorward.route.route import CertificateUse
from doorward_proxy.envoy.bootstrap import bootstrap
from doorward_proxy.envoy.overload import overload_manager
from doorward_proxy.gate import GateClosedError, admit, admit_bootstrap
from doorward_proxy.resources.build import build_snapshot
from doorward_proxy.resources.http_filters import CHECK, GUARD, ORDER, UNREAD_HEADERS
from doorward_proxy.resources.messages import packed
from doorward_proxy.resources.surroundings import TRACES_CLUSTER
from doorward_proxy.xds.snapshot import Snapshot

M = TypeVar("M", bound=Message)

GOLDEN = settings_of(
    route("app.localhost", "/guarded", continuous=True, websocket=True),
    route("app.localhost", to=[("https", "upstream.example", 443)]),
    route("devices.localhost", client_certificate=CertificateUse.FACT),
    route("db.localhost", "5432", to=[("tcp", "127.0.0.1", 9)], tunnel=True, continuous=True),
    broken_hosts=(("broken.localhost", "why"),),
    client_certificates=ClientCertificateSettings(authorities_pem="pem"),
    tracing=TracingSettings(otlp_endpoint="http://127.0.0.1:4318", sample=0.5),
)


def planted(change: Callable[[Listener, RouteConfiguration, dict[str, Cluster]], object]) -> Snapshot:
    """The golden snapshot with something in it that must not be there."""
    good = build_snapshot(GOLDEN, CERTIFIED, surroundings())
    listener, routes = Listener(), RouteConfiguration()
    listener.CopyFrom(good.listeners[0])
    routes.CopyFrom(good.routes[0])
    clusters = {}
    for cluster in good.clusters:
        clusters[cluster.name] = Cluster()
        clusters[cluster.name].CopyFrom(cluster)
    change(listener, routes, clusters)
    return Snapshot.of(
        generation="g",
        clusters=clusters.values(),
        secrets=good.secrets,
        listeners=[listener],
        routes=[routes],
    )


def edit(holder: AnyMessage, message: M, change: Callable[[M], object]) -> None:
    assert holder.Unpack(message)
    change(message)
    holder.CopyFrom(packed(message))


def in_manager(change: Callable[[HttpConnectionManager], object]) -> Snapshot:
    def plant(listener: Listener, _: RouteConfiguration, __: dict[str, Cluster]) -> None:
        edit(listener.filter_chains[0].filters[0].typed_config, HttpConnectionManager(), change)

    return planted(plant)


def in_asking(change: Callable[[DownstreamTlsContext], object], *, chain: int = 0) -> Snapshot:
    """In the TLS of the chain that asks for certificates, or of the other one."""

    def plant(listener: Listener, _: RouteConfiguration, __: dict[str, Cluster]) -> None:
        edit(listener.filter_chains[chain].transport_socket.typed_config, DownstreamTlsContext(), change)

    return planted(plant)


def in_tracing(change: Callable[[HttpConnectionManager.Tracing], object]) -> Snapshot:
    return in_manager(lambda manager: change(manager.tracing))


def in_spans(change: Callable[[OpenTelemetryConfig], object]) -> Snapshot:
    return in_tracing(lambda tracing: edit(tracing.provider.typed_config, OpenTelemetryConfig(), change))


def in_filter(position: int, message: M, change: Callable[[M], object]) -> Snapshot:
    return in_manager(lambda manager: edit(manager.http_filters[position].typed_config, message, change))


def host_named(routes: RouteConfiguration, name: str) -> VirtualHost:
    return next(host for host in routes.virtual_hosts if host.name == name)


def in_route(change: Callable[[Route], object], *, position: int = 3, host: str = "app.localhost") -> Snapshot:
    """Position 2 is the guarded route, 3 the unguarded one, 4 and 5 the 404s."""
    return planted(lambda _, routes, __: change(host_named(routes, host).routes[position]))


def in_tunnel(change: Callable[[Route], object]) -> Snapshot:
    return in_route(change, position=2, host="db.localhost")


def in_clusters(change: Callable[[dict[str, Cluster]], object]) -> Snapshot:
    return planted(lambda _, __, clusters: change(clusters))


def upstream(clusters: dict[str, Cluster]) -> Cluster:
    return next(cluster for cluster in clusters.values() if cluster.HasField("transport_socket"))


def override(route_: Route, name: str, message: Message) -> None:
    route_.typed_per_filter_config[name].CopyFrom(packed(message))


def change_context(route_: Route, **values: str) -> None:
    edit(
        route_.typed_per_filter_config[CHECK],
        ExtAuthzPerRoute(),
        lambda message: message.check_settings.context_extensions.update(values),
    )


VIOLATIONS: dict[str, Callable[[], Snapshot]] = {
    "clients' certificates are not verified": lambda: in_asking(
        lambda m: setattr(m.common_tls_context.validation_context, "trust_chain_verification", 1)
    ),
    "clients' certificates may have expired": lambda: in_asking(
        lambda m: setattr(m.common_tls_context.validation_context, "allow_expired_certificate", True)
    ),
    "only the last certificate is looked for in the lists": lambda: in_asking(
        lambda m: setattr(m.common_tls_context.validation_context, "only_verify_leaf_cert_crl", True)
    ),
    "nobody vouches for clients": lambda: in_asking(
        lambda m: m.common_tls_context.validation_context.ClearField("trusted_ca")
    ),
    "clients' chains have no bound": lambda: in_asking(
        lambda m: m.common_tls_context.validation_context.ClearField("max_verify_depth")
    ),
    "clients' sessions are resumed": lambda: in_asking(lambda m: m.ClearField("disable_stateful_session_resumption")),
    "clients' tickets are taken": lambda: in_asking(lambda m: m.ClearField("disable_stateless_session_resumption")),
    "nobody is asked": lambda: in_asking(lambda m: m.common_tls_context.ClearField("validation_context")),
    "everybody is asked": lambda: in_asking(
        lambda m: m.common_tls_context.validation_context.trusted_ca.SetInParent(), chain=1
    ),
    "the name is not read": lambda: planted(lambda listener, _, __: listener.ClearField("listener_filters")),
    "another listener filter": lambda: planted(
        lambda listener, _, __: setattr(listener.listener_filters.add(), "name", "evil")
    ),
    "a chain for some addresses": lambda: planted(
        lambda listener, _, __: setattr(
            listener.filter_chains[0].filter_chain_match, "transport_protocol", "raw_buffer"
        )
    ),
    "a chain without TLS": lambda: planted(
        lambda listener, _, __: listener.filter_chains[1].ClearField("transport_socket")
    ),
    "check is not told of certificates": lambda: in_filter(
        1, ExtAuthz(), lambda m: m.ClearField("include_peer_certificate")
    ),
    "check is not told where they were asked for": lambda: in_filter(
        1, ExtAuthz(), lambda m: m.ClearField("include_tls_session")
    ),
    "another host for the upstream": lambda: in_route(
        lambda route_: setattr(route_.route, "host_rewrite_literal", "app.localhost.evil.example")
    ),
    "check lets errors pass": lambda: in_filter(1, ExtAuthz(), lambda m: setattr(m, "failure_mode_allow", True)),
    "check clears the route cache": lambda: in_filter(1, ExtAuthz(), lambda m: setattr(m, "clear_route_cache", True)),
    "check is sampled": lambda: in_filter(1, ExtAuthz(), lambda m: m.filter_enabled.SetInParent()),
    "check is switched by metadata": lambda: in_filter(
        1, ExtAuthz(), lambda m: m.filter_enabled_metadata.SetInParent()
    ),
    "check asks somebody else": lambda: in_filter(
        1, ExtAuthz(), lambda m: setattr(m.grpc_service.envoy_grpc, "cluster_name", "evil")
    ),
    "check does not see a header": lambda: in_filter(
        1, ExtAuthz(), lambda m: m.disallowed_headers.patterns.add(exact="referer")
    ),
    "check joins repeated headers": lambda: in_filter(1, ExtAuthz(), lambda m: m.ClearField("encode_raw_headers")),
    "guard lets errors pass": lambda: in_filter(
        2, ExternalProcessor(), lambda m: setattr(m, "failure_mode_allow", True)
    ),
    "guard may rewrite": lambda: in_filter(2, ExternalProcessor(), lambda m: m.ClearField("mutation_rules")),
    "guard may re-route": lambda: in_filter(2, ExternalProcessor(), lambda m: m.ClearField("route_cache_action")),
    "guard may change its mode": lambda: in_filter(
        2, ExternalProcessor(), lambda m: setattr(m, "allow_mode_override", True)
    ),
    "guard only watches": lambda: in_filter(2, ExternalProcessor(), lambda m: setattr(m, "observability_mode", True)),
    "guard is over after the headers": lambda: in_filter(
        2, ExternalProcessor(), lambda m: setattr(m.processing_mode, "response_trailer_mode", 2)
    ),
    "another script": lambda: in_filter(
        3, Lua(), lambda m: setattr(m.default_source_code, "inline_string", "function envoy_on_request(h) end")
    ),
    "hygiene keeps an identity header": lambda: in_filter(
        0, HeaderMutation(), lambda m: m.mutations.request_mutations.pop(0)
    ),
    "hygiene keeps it in trailers": lambda: in_filter(
        0, HeaderMutation(), lambda m: m.mutations.ClearField("request_trailers_mutations")
    ),
    "hygiene leaves `Connection` to the client": lambda: in_filter(
        0, HeaderMutation(), lambda m: m.mutations.request_mutations.pop()
    ),
    "hygiene sets before it deletes": lambda: in_filter(
        0,
        HeaderMutation(),
        lambda m: m.mutations.request_mutations.insert(0, m.mutations.request_mutations[-1]),
    ),
    "a filter is switched off": lambda: in_manager(lambda m: setattr(m.http_filters[1], "disabled", True)),
    "a filter is optional": lambda: in_manager(lambda m: setattr(m.http_filters[1], "is_optional", True)),
    "the check is missing": lambda: in_manager(lambda m: m.http_filters.pop(1)),
    "a filter more": lambda: in_manager(lambda m: m.http_filters.insert(0, HttpFilter(name="envoy.filters.http.cors"))),
    "another order": lambda: in_manager(lambda m: m.http_filters.append(m.http_filters.pop(1))),
    "filters inside upgrades": lambda: in_manager(
        lambda m: m.upgrade_configs.add(upgrade_type="websocket").filters.add(name=ORDER[-1])
    ),
    "another upgrade": lambda: in_manager(lambda m: m.upgrade_configs.add(upgrade_type="websocket")),
    "paths are not normalised": lambda: in_manager(lambda m: m.ClearField("normalize_path")),
    "slashes are not merged": lambda: in_manager(lambda m: m.ClearField("merge_slashes")),
    "escaped slashes pass": lambda: in_manager(lambda m: m.ClearField("path_with_escaped_slashes_action")),
    "underscores pass": lambda: in_manager(
        lambda m: m.common_http_protocol_options.ClearField("headers_with_underscores_action")
    ),
    "somebody is internal": lambda: in_manager(lambda m: m.ClearField("internal_address_config")),
    "the client's address is the client's": lambda: in_manager(lambda m: m.ClearField("use_remote_address")),
    "another collector's cluster": lambda: in_spans(
        lambda c: setattr(c.http_service.http_uri, "cluster", "upstream-x")
    ),
    "another sampler": lambda: in_spans(lambda c: c.ClearField("sampler")),
    "spans with more headers": lambda: in_spans(lambda c: c.http_service.request_headers_to_add.add()),
    "spans by gRPC": lambda: in_spans(lambda c: c.grpc_service.SetInParent()),
    "spans with what the environment says": lambda: in_spans(lambda c: c.resource_detectors.add(name="x")),
    "whoever wants to is traced": lambda: in_tracing(lambda t: t.ClearField("client_sampling")),
    "spans with paths": lambda: in_tracing(lambda t: t.ClearField("max_path_tag_length")),
    "spans with queries": lambda: in_tracing(lambda t: t.custom_tags.pop()),
    "spans with a header": lambda: in_tracing(
        lambda t: setattr(t.custom_tags.add(tag="x").request_header, "name", "x")
    ),
    "verbose spans": lambda: in_tracing(lambda t: setattr(t, "verbose", True)),
    "another tracer": lambda: in_tracing(lambda t: setattr(t.provider, "name", "envoy.tracers.zipkin")),
    "a client's traceparent": lambda: in_manager(lambda m: m.early_header_mutation_extensions.pop()),
    "another early header mutation": lambda: in_manager(lambda m: m.early_header_mutation_extensions.add(name="x")),
    "request ids that decide": lambda: in_manager(lambda m: m.ClearField("request_id_extension")),
    "other request ids": lambda: in_manager(lambda m: m.request_id_extension.typed_config.Clear()),
    "a collector that is not there": lambda: in_clusters(lambda c: c.pop(TRACES_CLUSTER)),
    "a collector on a socket": lambda: in_clusters(
        lambda c: setattr(
            c[TRACES_CLUSTER].load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.pipe, "path", "/x"
        )
    ),
    "a route to the collector": lambda: in_route(lambda r: setattr(r.route, "cluster", TRACES_CLUSTER)),
    "early header mutation without tracing": lambda: in_manager(lambda m: m.ClearField("tracing")),
    "early header mutation": lambda: in_manager(lambda m: m.early_header_mutation_extensions.add(name="x")),
    "original address detection": lambda: in_manager(lambda m: m.original_ip_detection_extensions.add(name="x")),
    "another local reply": lambda: in_manager(lambda m: m.local_reply_config.mappers.add()),
    "a local reply that lets in": lambda: in_manager(
        lambda m: setattr(m.local_reply_config.mappers[-1].status_code, "value", 200)
    ),
    "no TLS": lambda: planted(lambda listener, _, __: listener.filter_chains[0].ClearField("transport_socket")),
    "a default filter chain": lambda: planted(lambda listener, _, __: listener.default_filter_chain.SetInParent()),
    "a network filter more": lambda: planted(
        lambda listener, _, __: listener.filter_chains[0].filters.add(name="envoy.filters.network.tcp_proxy")
    ),
    "a route without context": lambda: in_route(lambda r: r.typed_per_filter_config.pop(CHECK)),
    "a 404 without context": lambda: in_route(lambda r: r.typed_per_filter_config.pop(CHECK), position=4),
    "a broken host without context": lambda: in_route(
        lambda r: r.typed_per_filter_config.pop(CHECK), position=0, host="broken.localhost"
    ),
    "the check is disabled": lambda: in_route(lambda r: override(r, CHECK, ExtAuthzPerRoute(disabled=True))),
    "the check is disabled generically": lambda: in_route(lambda r: override(r, CHECK, FilterConfig(disabled=True))),
    "the check asks somebody else": lambda: in_route(
        lambda r: edit(
            r.typed_per_filter_config[CHECK],
            ExtAuthzPerRoute(),
            lambda m: setattr(m.check_settings.grpc_service.envoy_grpc, "cluster_name", "x"),
        )
    ),
    "more context": lambda: in_route(lambda r: change_context(r, more="x")),
    "an upstream with an internal id": lambda: in_route(lambda r: change_context(r, route="@pages", digest="internal")),
    "an internal digest": lambda: in_route(lambda r: change_context(r, digest="internal")),
    "another host's route": lambda: in_route(lambda r: change_context(r, host="other.localhost")),
    "hygiene is overridden": lambda: in_route(lambda r: override(r, ORDER[0], HeaderMutation())),
    "the guard is changed": lambda: in_route(lambda r: override(r, GUARD, FilterConfig(disabled=True))),
    "an upgrade without guard": lambda: in_route(
        lambda r: override(r, GUARD, ExtProcPerRoute(disabled=True)), position=2
    ),
    "unguarded without end": lambda: in_route(lambda r: r.route.ClearField("max_stream_duration")),
    "unguarded with an end of zero": lambda: in_route(
        lambda r: r.route.max_stream_duration.max_stream_duration.Clear()
    ),
    "an internal redirect": lambda: in_route(lambda r: r.route.internal_redirect_policy.SetInParent()),
    "the cluster from a header": lambda: in_route(lambda r: setattr(r.route, "cluster_header", "x-cluster")),
    "a mirror": lambda: in_route(lambda r: r.route.request_mirror_policies.add(cluster="x")),
    "a redirect": lambda: in_route(lambda r: r.redirect.SetInParent()),
    "a rewrite": lambda: in_route(lambda r: setattr(r.route, "prefix_rewrite", "/admin")),
    "repeats what may have been done": lambda: in_route(lambda r: setattr(r.route.retry_policy, "retry_on", "5xx")),
    "a regular expression": lambda: in_route(lambda r: setattr(r.match.safe_regex, "regex", ".*")),
    "a tunnel without guard": lambda: in_tunnel(lambda r: override(r, GUARD, ExtProcPerRoute(disabled=True))),
    "a tunnel that is passed on": lambda: in_tunnel(lambda r: r.route.upgrade_configs[0].ClearField("connect_config")),
    "a tunnel that is not ended here": lambda: in_tunnel(lambda r: r.route.ClearField("upgrade_configs")),
    "a tunnel that takes posts": lambda: in_tunnel(
        lambda r: setattr(r.route.upgrade_configs[0].connect_config, "allow_post", True)
    ),
    "a tunnel for another host": lambda: in_tunnel(
        lambda r: setattr(r.match.headers[0].string_match, "exact", "other.localhost:5432")
    ),
    "a tunnel for any port": lambda: in_tunnel(
        lambda r: setattr(r.match.headers[0].string_match, "prefix", "db.localhost:")
    ),
    "a tunnel by another header": lambda: in_tunnel(lambda r: setattr(r.match.headers[0], "name", "x-tunnel")),
    "a connect upgrade on a path": lambda: in_route(
        lambda r: r.route.upgrade_configs[0].connect_config.SetInParent(), position=2
    ),
    "an authority for a path": lambda: in_route(
        lambda r: r.match.headers.add(name=":authority").string_match.CopyFrom(
            StringMatcher(exact="app.localhost:1", ignore_case=True)
        )
    ),
    "matched by a header": lambda: in_route(lambda r: r.match.headers.add(name="x", present_match=True)),
    "matched by chance": lambda: in_route(lambda r: r.match.runtime_fraction.SetInParent()),
    "an upstream as a page of ours": lambda: in_route(lambda r: r.metadata.filter_metadata["x"].Clear()),
    "a page of ours without its mark": lambda: in_route(lambda r: r.ClearField("metadata"), position=0),
    "a success by itself": lambda: in_route(lambda r: setattr(r.direct_response, "status", 200), position=4),
    "no 404 at the end": lambda: planted(lambda _, routes, __: host_named(routes, "app.localhost").routes.pop(4)),
    "no 404 for CONNECT": lambda: planted(lambda _, routes, __: host_named(routes, "app.localhost").routes.pop(5)),
    "no unknown host": lambda: planted(lambda _, routes, __: routes.virtual_hosts.pop()),
    "a host with other names": lambda: planted(
        lambda _, routes, __: host_named(routes, "app.localhost").domains.append("*.localhost")
    ),
    "headers for all routes of a host": lambda: planted(
        lambda _, routes, __: host_named(routes, "app.localhost").request_headers_to_remove.append("x")
    ),
    "a host's own filter settings": lambda: planted(
        lambda _, routes, __: (
            host_named(routes, "app.localhost")
            .typed_per_filter_config[CHECK]
            .CopyFrom(packed(ExtAuthzPerRoute(disabled=True)))
        )
    ),
    "a matcher instead of routes": lambda: planted(
        lambda _, routes, __: host_named(routes, "app.localhost").matcher.SetInParent()
    ),
    "routes from elsewhere": lambda: planted(lambda _, routes, __: routes.vhds.SetInParent()),
    "filters in a cluster": lambda: in_clusters(lambda c: upstream(c).filters.add(name="x")),
    "TLS without a name": lambda: in_clusters(
        lambda c: edit(
            upstream(c).transport_socket.typed_config,
            UpstreamTlsContext(),
            lambda m: m.common_tls_context.validation_context.ClearField("match_typed_subject_alt_names"),
        )
    ),
    "TLS without a trust store": lambda: in_clusters(
        lambda c: edit(
            upstream(c).transport_socket.typed_config,
            UpstreamTlsContext(),
            lambda m: m.common_tls_context.validation_context.ClearField("trusted_ca"),
        )
    ),
    "authorize over the network": lambda: in_clusters(
        lambda c: c["doorward-authorize"].load_assignment.CopyFrom(upstream(c).load_assignment)
    ),
    "a cluster of another name": lambda: in_clusters(lambda c: setattr(upstream(c), "name", "x")),
    "a route to nowhere": lambda: in_clusters(lambda c: c.pop(upstream(c).name)),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_we_make_passes(name: str) -> None:
    admit(build_snapshot(EXAMPLES[name], CERTIFIED, surroundings()))


@pytest.mark.parametrize("name", VIOLATIONS)
def test_s30_a_planted_violation_is_refused(name: str) -> None:
    admit(build_snapshot(GOLDEN, CERTIFIED, surroundings()))
    with pytest.raises(GateClosedError) as refused:
        admit(VIOLATIONS[name]())
    assert refused.value.violations


LIMITS = overload_manager(max_heap_bytes=1 << 30, max_connections=1_000)


def test_the_bootstrap_passes() -> None:
    admit_bootstrap(bootstrap(surroundings(), LIMITS, node_id="test"))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda m: m.layered_runtime.layers.add(name="admin"), id="runtime layer"),
        pytest.param(lambda m: setattr(m.admin.address.pipe, "mode", 0o666), id="open admin socket"),
        pytest.param(
            lambda m: setattr(m.admin.address.socket_address, "address", "192.0.2.1"), id="admin on the network"
        ),
        pytest.param(lambda m: m.static_resources.listeners.add(name="x"), id="static listener"),
        pytest.param(lambda m: m.bootstrap_extensions.add(name="x"), id="extension"),
        pytest.param(lambda m: m.ClearField("overload_manager"), id="no limits"),
        pytest.param(lambda m: m.overload_manager.resource_monitors.pop(), id="no limit of connections"),
        pytest.param(lambda m: m.overload_manager.resource_monitors.pop(0), id="no limit of memory"),
        pytest.param(lambda m: m.overload_manager.actions.pop(), id="requests are never refused"),
        pytest.param(
            lambda m: setattr(m.overload_manager.actions[-1].triggers[0].threshold, "value", 1.0), id="too late"
        ),
        pytest.param(
            lambda m: m.overload_manager.MergeFrom(overload_manager(max_heap_bytes=1, max_connections=1)), id="twice"
        ),
        pytest.param(
            lambda m: m.overload_manager.CopyFrom(overload_manager(max_heap_bytes=1 << 30, max_connections=0)),
            id="a limit of nothing",
        ),
    ],
)
def test_s30_s82_a_bootstrap_with_more_is_refused(change: Callable[[Message], object]) -> None:
    message = bootstrap(surroundings(), LIMITS, node_id="test")
    change(message)
    with pytest.raises(GateClosedError):
        admit_bootstrap(message)


_names = st.sampled_from(["a.localhost", "b.localhost", "c.localhost"])
_paths = st.sampled_from(["/", "/a", "/a/b", "/%20", "/x.y"])
_headers = st.lists(
    st.tuples(st.sampled_from(["x-a", "x-email", "origin", "x-forwarded-user"]), st.text("ab%{}\t ", max_size=6)),
    max_size=3,
    unique_by=lambda pair: pair[0],
).map(tuple)


@st.composite
def _routes(draw: st.DrawFn) -> RoutePolicy:
    scheme = draw(st.sampled_from(["http", "h2c", "https"]))
    hosts = draw(st.lists(st.sampled_from(["127.0.0.1", "::1", "up.example"]), min_size=1, max_size=2, unique=True))
    broken = draw(st.booleans())
    websocket = draw(st.booleans())
    return route(
        draw(_names),
        draw(_paths),
        exact=draw(st.booleans()),
        to=() if broken else [(scheme, host, draw(st.integers(1, 65535))) for host in hosts],
        broken="why" if broken else None,
        websocket=websocket,
        continuous=websocket or draw(st.booleans()),
        preserve_host=draw(st.booleans()),
        timeout_seconds=draw(st.floats(0.1, 300)),
        set_request_headers=draw(_headers),
        set_response_headers=draw(_headers),
        claim_headers=draw(st.sampled_from([(), (("x-groups", "groups"),)])),
        tls_skip_verify=scheme == "https" and draw(st.booleans()),
    )


@hypothesis_settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.lists(_routes(), max_size=6),
    st.lists(_names, max_size=2, unique=True),
    st.integers(0, 3),
    st.integers(1, 50_000),
)
def test_any_settings_pass(routes: list[RoutePolicy], broken: list[str], hops: int, streams: int) -> None:
    settings: Settings = settings_of(
        *routes,
        broken_hosts=tuple((host, "why") for host in sorted(broken)),
        trusted_hops=hops,
        max_streams=streams,
    )
    admit(build_snapshot(settings, CERTIFIED, surroundings()))


def test_every_header_of_a_client_goes_with_the_check():
    """A policy that reads a header from now on must not find it missing on the connections of an older listener."""
    assert all(name.startswith(":") for name in UNREAD_HEADERS)
