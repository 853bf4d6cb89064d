"""Envoy's spans in its configuration: nothing without the setting, and where they go with it."""

import dataclasses

import pytest
from tests.unit.proxy.examples import CERTIFIED, EXAMPLES, surroundings

from doorward.config.settings import Settings, TracingSettings
from doorward.envoy_api.envoy.config.cluster.v3.cluster_pb2 import Cluster
from doorward.envoy_api.envoy.config.trace.v3.opentelemetry_pb2 import OpenTelemetryConfig
from doorward.envoy_api.envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from doorward.envoy_api.envoy.extensions.transport_sockets.tls.v3.tls_pb2 import UpstreamTlsContext
from doorward_proxy.gate import admit
from doorward_proxy.resources.build import build_snapshot
from doorward_proxy.resources.messages import packed
from doorward_proxy.resources.surroundings import TRACES_CLUSTER
from doorward_proxy.resources.tracing import early_mutations


def traced(settings: Settings, endpoint: str = "http://127.0.0.1:4318") -> Settings:
    return dataclasses.replace(settings, tracing=TracingSettings(otlp_endpoint=endpoint, sample=0.01))


def collector(endpoint: str) -> tuple[str, Cluster]:
    snapshot = build_snapshot(traced(EXAMPLES["one route"], endpoint), CERTIFIED, surroundings())
    admit(snapshot)
    manager = HttpConnectionManager()
    assert snapshot.listeners[0].filter_chains[0].filters[0].typed_config.Unpack(manager)
    config = OpenTelemetryConfig()
    assert manager.tracing.provider.typed_config.Unpack(config)
    return config.http_service.http_uri.uri, next(
        cluster for cluster in snapshot.clusters if cluster.name == TRACES_CLUSTER
    )


@pytest.mark.parametrize("name", sorted(set(EXAMPLES) - {"traced"}))
def test_without_tracing_nothing_of_it_is_there_and_with_it_nothing_else_changes(name: str) -> None:
    without = build_snapshot(EXAMPLES[name], CERTIFIED, surroundings())
    snapshot = build_snapshot(traced(EXAMPLES[name]), CERTIFIED, surroundings())
    for listener in snapshot.listeners:
        for chain in listener.filter_chains:
            manager = HttpConnectionManager()
            assert chain.filters[0].typed_config.Unpack(manager)
            manager.ClearField("tracing")
            assert list(manager.early_header_mutation_extensions) == early_mutations(traced=True)
            manager.ClearField("early_header_mutation_extensions")
            manager.early_header_mutation_extensions.extend(early_mutations(traced=False))
            manager.ClearField("request_id_extension")
            chain.filters[0].typed_config.CopyFrom(packed(manager))
    assert snapshot.listeners == without.listeners
    assert [item for item in snapshot.clusters if item.name != TRACES_CLUSTER] == list(without.clusters)
    assert (snapshot.routes, snapshot.scopes, snapshot.secrets) == (without.routes, without.scopes, without.secrets)


@pytest.mark.parametrize(
    ("endpoint", "uri", "address"),
    [
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces", ("127.0.0.1", 4318)),
        ("http://[::1]:4318/", "http://[::1]:4318/v1/traces", ("::1", 4318)),
        ("http://collector.example", "http://collector.example/v1/traces", ("collector.example", 80)),
        ("https://collector.example/otlp/", "https://collector.example/otlp/v1/traces", ("collector.example", 443)),
    ],
)
def test_the_collector_is_where_the_setting_says(endpoint: str, uri: str, address: tuple[str, int]) -> None:
    found, cluster = collector(endpoint)
    socket = cluster.load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address
    assert found == uri
    assert (socket.address, socket.port_value) == address


def test_a_collector_with_tls_is_verified_by_its_name() -> None:
    _, cluster = collector("https://collector.example")
    tls = UpstreamTlsContext()
    assert cluster.transport_socket.typed_config.Unpack(tls)
    names = tls.common_tls_context.validation_context.match_typed_subject_alt_names
    assert [item.matcher.exact for item in names] == ["collector.example"]


def test_s50_a_password_in_the_collector_s_address_does_not_reach_envoy() -> None:
    uri, cluster = collector("https://somebody:hush@collector.example")
    assert "hush" not in uri + str(cluster)
