"""Where requests, checks and guard streams go.

Routes whose upstream settings are equal share a cluster: ten thousand routes to one gateway are one set of connections.
A cluster's name is a hash of its settings, so a change is always a new cluster beside the old one.
"""

import hashlib
import ipaddress
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from doorward.config.endpoints import Address
from doorward.config.settings import Settings, TracingSettings
from doorward.envoy_api.envoy.config.cluster.v3.circuit_breaker_pb2 import CircuitBreakers
from doorward.envoy_api.envoy.config.cluster.v3.cluster_pb2 import Cluster
from doorward.envoy_api.envoy.config.core.v3.address_pb2 import Address as EnvoyAddress
from doorward.envoy_api.envoy.config.core.v3.health_check_pb2 import HealthCheck
from doorward.envoy_api.envoy.config.core.v3.protocol_pb2 import (
    Http1ProtocolOptions,
    Http2ProtocolOptions,
    HttpProtocolOptions,
    KeepaliveSettings,
)
from doorward.envoy_api.envoy.config.endpoint.v3.endpoint_components_pb2 import LbEndpoint, LocalityLbEndpoints
from doorward.envoy_api.envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from doorward.envoy_api.envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import (
    HttpProtocolOptions as UpstreamProtocolOptions,
)
from doorward.envoy_api.envoy.type.v3.percent_pb2 import Percent
from doorward.route.route import Route, Upstream
from doorward.rpc.planes import Plane
from doorward_proxy.resources.messages import (
    NO,
    count,
    endpoint,
    packed,
    pipe_address,
    seconds,
    socket_address,
)
from doorward_proxy.resources.surroundings import (
    AUTHENTICATE_CLUSTER,
    AUTHORIZE_CLUSTER,
    GUARD_CLUSTER,
    PAGES_CLUSTER,
    TRACES_CLUSTER,
    UPSTREAM_PREFIX,
    Surroundings,
)
from doorward_proxy.resources.tls import plane_socket, upstream_socket

PROTOCOL_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

_CONNECT_SECONDS = 2.0
_IDLE_SECONDS = 55.0
"""Below the minute after which most servers close an idle connection: a request must not meet one that is closing."""
_HEALTH_SECONDS = 0.25
_HEALTH_ANSWER_SECONDS = 0.5
_GUARD_PING_SECONDS = 1.0
_GUARD_PONG_SECONDS = 3.0
_PLANE_CONNECT_SECONDS = 0.25
"""A check has half a second altogether: enough to find one replica away and ask another."""
_PING_SECONDS = 0.1
_PONG_SECONDS = 0.3
_NAME_SECONDS = 2.0
_LEAST_LIMIT = 1024
_CHECKS_LIMIT = 100_000
_COLLECTOR_LIMIT = 8
"""Requests with spans at a time; a collector that hangs must not gather more and more of them."""
_DEFAULT_PORTS = {"http": 80, "h2c": 80, "https": 443}


def clusters(
    settings: Settings,
    surroundings: Surroundings,
    upstreams: Iterable[Mapping[str, Route]],
    before: Mapping[str, Cluster],
) -> dict[str, Cluster]:
    """Every cluster by name: our own, and those of ``upstreams``, each given by its name and a route that goes there.

    Those of upstreams that ``before`` holds in this very form are taken over from it.
    """
    checks = settings.planes.authorize or surroundings.check_sockets
    sign_in = settings.planes.authenticate_pages or (surroundings.authenticate_socket,)
    found = {
        AUTHORIZE_CLUSTER: _watched(
            _prompt(_own(AUTHORIZE_CLUSTER, Plane.AUTHORIZE, checks, _CHECKS_LIMIT)), asked=True
        ),
        GUARD_CLUSTER: _guard(surroundings.guard_socket, settings.max_streams),
        PAGES_CLUSTER: _own(PAGES_CLUSTER, Plane.PROXY, [surroundings.pages_socket], _LEAST_LIMIT),
        AUTHENTICATE_CLUSTER: _patient(_watched(_own(AUTHENTICATE_CLUSTER, Plane.AUTHENTICATE, sign_in, _LEAST_LIMIT))),
    }
    if settings.tracing is not None:
        found[TRACES_CLUSTER] = _collector(settings.tracing, surroundings.trust_store)
    limit = max(settings.max_streams, _LEAST_LIMIT)
    for several in upstreams:
        for name, route in several.items():
            if name not in found:
                known = before.get(name)
                if known is None or known.circuit_breakers.thresholds[0].max_requests.value != limit:
                    known = _upstream_cluster(name, route, limit, surroundings.trust_store)
                found[name] = known
    return found


def upstream_cluster_name(route: Route) -> str:
    """The name of the cluster that ``route`` goes to: equal upstream settings give equal names."""
    settings = {
        "upstreams": sorted({(upstream.scheme, upstream.host, upstream.port) for upstream in route.upstreams}),
        "http1": _speaks_http1(route),
        "server_name": route.tls_server_name,
        "ca": route.tls_ca_pem,
        "skip_verify": route.tls_skip_verify,
    }
    return UPSTREAM_PREFIX + hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:24]


def upstream_authority(upstream: Upstream) -> str:
    """What requests to ``upstream`` carry as their host: without the port where it is the scheme's own."""
    if upstream.port == _DEFAULT_PORTS.get(upstream.scheme):
        return upstream.authority.rpartition(":")[0]
    return upstream.authority


def _speaks_http1(route: Route) -> bool:
    """WebSocket upgrades need HTTP/1.1: few upstreams take them over HTTP/2 (RFC 8441)."""
    return route.upstreams[0].scheme in {"http", "tcp"} or (route.upstreams[0].scheme == "https" and route.websocket)


def _upstream_cluster(name: str, route: Route, limit: int, trust_store: Path) -> Cluster:
    numeric = all(_is_address(upstream.host) for upstream in route.upstreams)
    cluster = Cluster(
        name=name,
        type=Cluster.DiscoveryType.STATIC if numeric else Cluster.DiscoveryType.STRICT_DNS,
        connect_timeout=seconds(_CONNECT_SECONDS),
        load_assignment=_assignment(
            name,
            [
                endpoint(socket_address(upstream.host, upstream.port), hostname=upstream_authority(upstream))
                for upstream in sorted(set(route.upstreams), key=lambda item: item.authority)
            ],
        ),
        circuit_breakers=_breakers(limit),
        # A name that does not resolve must not keep everything else from starting.
        wait_for_warm_on_init=NO,
    )
    if not numeric:
        cluster.dns_lookup_family = Cluster.DnsLookupFamily.V4_PREFERRED
        cluster.respect_dns_ttl = True
    _set_protocol(cluster, _upstream_protocol(route))
    if route.upstreams[0].scheme == "https":
        cluster.transport_socket.CopyFrom(
            upstream_socket(
                server_name=route.tls_server_name or route.upstreams[0].host,
                ca_pem=route.tls_ca_pem,
                trust_store=trust_store,
                skip_verify=route.tls_skip_verify,
            )
        )
    return cluster


def _upstream_protocol(route: Route) -> UpstreamProtocolOptions:
    explicit = UpstreamProtocolOptions.ExplicitHttpConfig
    common = HttpProtocolOptions(idle_timeout=seconds(_IDLE_SECONDS))
    if route.upstreams[0].scheme == "h2c":
        return UpstreamProtocolOptions(
            common_http_protocol_options=common,
            explicit_http_config=explicit(http2_protocol_options=_http2()),
        )
    if _speaks_http1(route):
        return UpstreamProtocolOptions(
            common_http_protocol_options=common,
            explicit_http_config=explicit(http_protocol_options=Http1ProtocolOptions()),
        )
    return UpstreamProtocolOptions(
        common_http_protocol_options=common,
        auto_config=UpstreamProtocolOptions.AutoHttpConfig(
            http_protocol_options=Http1ProtocolOptions(), http2_protocol_options=_http2()
        ),
    )


def _own(name: str, plane: Plane, places: Sequence[Path | Address], limit: int) -> Cluster:
    """A service of ``plane``: each of ``places`` is an endpoint of its own."""
    addresses = [place for place in places if isinstance(place, Address)]
    named = any(not address.is_numeric for address in addresses)
    cluster = Cluster(
        name=name,
        type=Cluster.DiscoveryType.STRICT_DNS if named else Cluster.DiscoveryType.STATIC,
        connect_timeout=seconds(_PLANE_CONNECT_SECONDS),
        load_assignment=_assignment(name, [endpoint(_address_of(place)) for place in places]),
        circuit_breakers=_breakers(max(limit, _LEAST_LIMIT)),
    )
    if named:
        cluster.dns_lookup_family = Cluster.DnsLookupFamily.V4_PREFERRED
        cluster.respect_dns_ttl = True
        # Replicas come and go; their names are asked for again soon whatever the name server says.
        cluster.dns_refresh_rate.CopyFrom(seconds(_NAME_SECONDS))
        cluster.wait_for_warm_on_init.CopyFrom(NO)
    if addresses:
        cluster.transport_socket.CopyFrom(plane_socket(plane))
    _set_protocol(cluster, _plane_protocol())
    return cluster


def _guard(socket: Path, limit: int) -> Cluster:
    """The guard beside Envoy. One that hangs must be noticed: with its connection, all its streams end."""
    cluster = _own(GUARD_CLUSTER, Plane.PROXY, [socket], limit)
    keepalive = KeepaliveSettings(interval=seconds(_GUARD_PING_SECONDS), timeout=seconds(_GUARD_PONG_SECONDS))
    _set_protocol(cluster, _plane_protocol(keepalive))
    return cluster


def _collector(tracing: TracingSettings, trust_store: Path) -> Cluster:
    """Where Envoy's spans go. One that is away costs spans and nothing else."""
    parts = urlsplit(tracing.otlp_endpoint)
    host = parts.hostname or ""
    numeric = _is_address(host)
    cluster = Cluster(
        name=TRACES_CLUSTER,
        type=Cluster.DiscoveryType.STATIC if numeric else Cluster.DiscoveryType.STRICT_DNS,
        connect_timeout=seconds(_CONNECT_SECONDS),
        load_assignment=_assignment(
            TRACES_CLUSTER, [endpoint(socket_address(host, parts.port or _DEFAULT_PORTS[parts.scheme]))]
        ),
        circuit_breakers=_breakers(_COLLECTOR_LIMIT),
        wait_for_warm_on_init=NO,
    )
    if not numeric:
        cluster.dns_lookup_family = Cluster.DnsLookupFamily.V4_PREFERRED
        cluster.respect_dns_ttl = True
    explicit = UpstreamProtocolOptions.ExplicitHttpConfig(http_protocol_options=Http1ProtocolOptions())
    _set_protocol(cluster, UpstreamProtocolOptions(explicit_http_config=explicit))
    if parts.scheme == "https":
        cluster.transport_socket.CopyFrom(
            upstream_socket(server_name=host, ca_pem=None, trust_store=trust_store, skip_verify=False)
        )
    return cluster


def _address_of(place: Path | Address) -> EnvoyAddress:
    return socket_address(place.host, place.port) if isinstance(place, Address) else pipe_address(place)


def _plane_protocol(keepalive: KeepaliveSettings | None = None) -> UpstreamProtocolOptions:
    http2 = _http2()
    if keepalive is not None:
        http2.connection_keepalive.CopyFrom(keepalive)
    explicit = UpstreamProtocolOptions.ExplicitHttpConfig(http2_protocol_options=http2)
    return UpstreamProtocolOptions(explicit_http_config=explicit)


def _prompt(cluster: Cluster) -> Cluster:
    """Connections to what hangs or is cut off are closed early enough for the request to be asked again elsewhere."""
    keepalive = KeepaliveSettings(interval=seconds(_PING_SECONDS), timeout=seconds(_PONG_SECONDS))
    _set_protocol(cluster, _plane_protocol(keepalive))
    return cluster


def _patient(cluster: Cluster) -> Cluster:
    """When all look dead, asks them anyway and waits: a person would rather see a slow page than a refusal."""
    cluster.connect_timeout.CopyFrom(seconds(_CONNECT_SECONDS))
    cluster.common_lb_config.healthy_panic_threshold.CopyFrom(Percent(value=1))
    return cluster


def _watched(cluster: Cluster, *, asked: bool = False) -> Cluster:
    """Notices within a quarter of a second that a replica is gone, or back; with ``asked``, also that it cannot decide."""
    interval = seconds(_HEALTH_SECONDS)
    check = HealthCheck(
        # Longer than the interval: who is only slow for a moment must not be taken for dead.
        timeout=seconds(_HEALTH_ANSWER_SECONDS),
        interval=interval,
        # Without these, a worker that came back would be looked at only once a minute while nothing is asked.
        no_traffic_interval=interval,
        no_traffic_healthy_interval=interval,
        unhealthy_threshold=count(1),
        healthy_threshold=count(1),
    )
    if asked:
        check.grpc_health_check.CopyFrom(HealthCheck.GrpcHealthCheck())
    else:
        check.tcp_health_check.CopyFrom(HealthCheck.TcpHealthCheck())
        check.reuse_connection.CopyFrom(NO)
    cluster.health_checks.append(check)
    # With none healthy, asking the dead ones anyway would only make the refusal late.
    cluster.common_lb_config.healthy_panic_threshold.CopyFrom(Percent(value=0))
    return cluster


def _http2() -> Http2ProtocolOptions:
    return Http2ProtocolOptions(
        initial_stream_window_size=count(256 * 1024), initial_connection_window_size=count(1024 * 1024)
    )


def _set_protocol(cluster: Cluster, options: UpstreamProtocolOptions) -> None:
    cluster.typed_extension_protocol_options[PROTOCOL_OPTIONS].CopyFrom(packed(options))


def _assignment(name: str, endpoints: Sequence[LbEndpoint]) -> ClusterLoadAssignment:
    return ClusterLoadAssignment(cluster_name=name, endpoints=[LocalityLbEndpoints(lb_endpoints=endpoints)])


def _breakers(limit: int) -> CircuitBreakers:
    return CircuitBreakers(
        thresholds=[
            CircuitBreakers.Thresholds(
                max_connections=count(limit),
                max_pending_requests=count(limit),
                max_requests=count(limit),
                max_retries=count(limit),
            )
        ]
    )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
