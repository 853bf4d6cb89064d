"""An immutable set of resources, each with a version made of its content."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from doorward.envoy_api.envoy.config.cluster.v3.cluster_pb2 import Cluster
from doorward.envoy_api.envoy.config.listener.v3.listener_pb2 import Listener
from doorward.envoy_api.envoy.config.route.v3.route_pb2 import RouteConfiguration
from doorward.envoy_api.envoy.config.route.v3.scoped_route_pb2 import ScopedRouteConfiguration
from doorward.envoy_api.envoy.config.trace.v3.opentelemetry_pb2 import OpenTelemetryConfig
from doorward.envoy_api.envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from doorward.envoy_api.envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from doorward.envoy_api.envoy.extensions.transport_sockets.tls.v3.tls_pb2 import (
    DownstreamTlsContext,
    UpstreamTlsContext,
)

CLUSTER_TYPE = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
SECRET_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105  # a type's name
LISTENER_TYPE = "type.googleapis.com/envoy.config.listener.v3.Listener"
ROUTE_TYPE = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
SCOPE_TYPE = "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration"
TYPES = (CLUSTER_TYPE, SECRET_TYPE, LISTENER_TYPE, ROUTE_TYPE, SCOPE_TYPE)
"""In the order in which they are sent: nothing refers to what has not been sent before."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource as it is sent."""

    name: str
    version: str
    """Hash of the content: equal content is never sent twice."""
    body: AnyMessage
    message: Message | None = None
    """What it was made of; the same object is never packed twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything that Envoy is to know at one time. The messages must not be changed any more."""

    generation: str
    """Generation of the settings that it was made from."""
    clusters: tuple[Cluster, ...]
    secrets: tuple[Secret, ...]
    listeners: tuple[Listener, ...]
    routes: tuple[RouteConfiguration, ...]
    """All hosts as one resource, while they are not too many."""
    scopes: tuple[ScopedRouteConfiguration, ...]
    """Each host as a resource of its own, when they are."""
    version: str
    """Hash of the whole content."""
    resources: Mapping[str, Mapping[str, Resource]]
    """By type, then by name."""

    @classmethod
    def of(
        cls,
        *,
        generation: str,
        clusters: Iterable[Cluster],
        secrets: Iterable[Secret],
        listeners: Iterable[Listener],
        routes: Iterable[RouteConfiguration],
        scopes: Iterable[ScopedRouteConfiguration] = (),
        before: "Snapshot | None" = None,
    ) -> "Snapshot":
        """A snapshot of these messages, versions included; what ``before`` holds already is taken over from it."""
        by_type: tuple[Any, ...] = (
            tuple(clusters),
            tuple(secrets),
            tuple(listeners),
            tuple(routes),
            tuple(scopes),
        )
        resources = {
            type_url: _resources(type_url, messages, before.resources[type_url] if before is not None else {})
            for type_url, messages in zip(TYPES, by_type, strict=True)
        }
        return cls(
            generation=generation,
            clusters=by_type[0],
            secrets=by_type[1],
            listeners=by_type[2],
            routes=by_type[3],
            scopes=by_type[4],
            version=_version(resources),
            resources=MappingProxyType(resources),
        )


def wanted_by_routes(configuration: RouteConfiguration) -> frozenset[str]:
    """Names of the clusters that routes go to."""
    return frozenset(
        route.route.cluster for host in configuration.virtual_hosts for route in host.routes if route.HasField("route")
    )


def wanted_by_scope(scope: ScopedRouteConfiguration) -> frozenset[str]:
    """Names of the clusters that a scope's routes go to."""
    return wanted_by_routes(scope.route_configuration)


def wanted_by_listener(listener: Listener) -> frozenset[str]:
    """Names of the route configurations, of the secrets and of the collector's cluster that a listener asks for."""
    routes: set[str] = set()
    secrets: set[str] = set()
    collectors: set[str] = set()
    for chain in listener.filter_chains:
        manager, tls, spans = HttpConnectionManager(), DownstreamTlsContext(), OpenTelemetryConfig()
        for item in chain.filters:
            if item.typed_config.Unpack(manager):
                routes.add(manager.rds.route_config_name)
                if manager.tracing.provider.typed_config.Unpack(spans):
                    collectors.add(spans.http_service.http_uri.cluster)
        if chain.transport_socket.typed_config.Unpack(tls):
            secrets.update(item.name for item in tls.common_tls_context.tls_certificate_sds_secret_configs)
    return frozenset((routes | secrets | collectors) - {""})  # scoped: what is not there is 404


def wanted_by_cluster(cluster: Cluster) -> frozenset[str]:
    """Names of the secrets that a cluster asks for."""
    tls = UpstreamTlsContext()
    if not cluster.HasField("transport_socket") or not cluster.transport_socket.typed_config.Unpack(tls):
        return frozenset()
    common = tls.common_tls_context
    names = {item.name for item in common.tls_certificate_sds_secret_configs}
    names.add(common.combined_validation_context.validation_context_sds_secret_config.name)
    return frozenset(names - {""})


def _version(resources: Mapping[str, Mapping[str, Resource]]) -> str:
    versions = [
        f"{type_url}\0{name}\0{resources[type_url][name].version}"
        for type_url in TYPES
        for name in sorted(resources[type_url])
    ]
    return hashlib.sha256("\0".join(versions).encode()).hexdigest()[:16]


def _resources(
    type_url: str,
    messages: Iterable[Any],
    before: Mapping[str, Resource],
) -> Mapping[str, Resource]:
    found: dict[str, Resource] = {}
    for message in messages:
        name = message.name
        known = before.get(name)
        if known is not None and known.message is message:
            found[name] = known
            continue
        content = message.SerializeToString(deterministic=True)
        body = AnyMessage(type_url=type_url, value=content)
        found[name] = Resource(name, hashlib.sha256(content).hexdigest()[:16], body, message)
    return MappingProxyType(found)
