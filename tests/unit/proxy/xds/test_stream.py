"""The order in which one client is brought up to date."""

from google.rpc.status_pb2 import Status
from tests.support.envoy import route, settings_of
from tests.unit.proxy.examples import CERTIFIED, surroundings

from doorward.envoy_api.envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
)
from doorward_proxy.resources.build import build_snapshot
from doorward_proxy.xds.snapshot import CLUSTER_TYPE, LISTENER_TYPE, ROUTE_TYPE, SECRET_TYPE, TYPES, Snapshot
from doorward_proxy.xds.stream import ClientStream, Refusal


def snapshot(port: int, generation: str = "g1") -> Snapshot:
    settings = settings_of(route(to=[("http", "127.0.0.1", port)]), generation=generation)
    return build_snapshot(settings, CERTIFIED, surroundings())


def types(responses: list[DeltaDiscoveryResponse]) -> list[str]:
    return [response.type_url for response in responses]


def answer(stream: ClientStream, response: DeltaDiscoveryResponse, error: str | None = None) -> Refusal | None:
    request = DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
    if error is not None:
        request.error_detail.CopyFrom(Status(message=error))
    return stream.take(request)


def ask(stream: ClientStream, type_url: str, *names: str) -> None:
    assert stream.take(DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=names)) is None


def settled(first: Snapshot) -> ClientStream:
    """A client that has taken over ``first``, as Envoy does."""
    stream = ClientStream()
    stream.move_to(first)
    ask(stream, CLUSTER_TYPE)
    ask(stream, LISTENER_TYPE)
    ask(stream, ROUTE_TYPE, "public")
    ask(stream, SECRET_TYPE, "listener-certificate")
    while responses := stream.responses():
        for response in responses:
            assert answer(stream, response) is None
    assert stream.current
    return stream


def test_each_stage_waits_for_the_answer_of_the_one_before() -> None:
    stream = ClientStream()
    stream.move_to(snapshot(1))
    for type_url in (CLUSTER_TYPE, LISTENER_TYPE):
        ask(stream, type_url)
    clusters = stream.responses()
    assert types(clusters) == [CLUSTER_TYPE]
    assert stream.responses() == []
    answer(stream, clusters[0])
    listeners = stream.responses()
    assert types(listeners) == [LISTENER_TYPE]
    ask(stream, ROUTE_TYPE, "public")
    ask(stream, SECRET_TYPE, "listener-certificate")
    # The listener is taken over only once its certificate is there: a secret must not wait for it.
    secrets = stream.responses()
    assert types(secrets) == [SECRET_TYPE]
    answer(stream, secrets[0])
    answer(stream, listeners[0])
    assert types(stream.responses()) == [ROUTE_TYPE]


def test_a_missing_answer_can_be_skipped() -> None:
    stream = ClientStream()
    stream.move_to(snapshot(1))
    ask(stream, CLUSTER_TYPE)
    ask(stream, LISTENER_TYPE)
    assert types(stream.responses()) == [CLUSTER_TYPE]
    assert stream.waiting
    stream.skip_wait()
    assert types(stream.responses()) == [LISTENER_TYPE]


def test_a_new_cluster_comes_before_its_route_and_the_old_one_goes_last_and_late() -> None:
    stream = settled(snapshot(1))
    stream.move_to(snapshot(2, "g2"))
    added = stream.responses()
    assert types(added) == [CLUSTER_TYPE]
    assert not added[0].removed_resources
    answer(stream, added[0])
    routes = stream.responses()
    assert types(routes) == [ROUTE_TYPE]
    answer(stream, routes[0])
    assert stream.responses() == []
    assert stream.current
    assert stream.holds_removed
    stream.remove_clusters()
    removed = stream.responses()
    assert types(removed) == [CLUSTER_TYPE]
    assert len(removed[0].removed_resources) == 1
    answer(stream, removed[0])
    assert not stream.holds_removed


def test_a_refusal_names_the_snapshot_that_was_refused() -> None:
    stream = settled(snapshot(1))
    second = snapshot(2, "g2")
    stream.move_to(second)
    refusal = answer(stream, stream.responses()[0], "bad cluster")
    assert refusal is not None
    assert (refusal.generation, refusal.version, refusal.message) == ("g2", second.version, "bad cluster")
    assert not stream.current
    stream.move_to(snapshot(1, "g3"))
    for response in stream.responses():
        answer(stream, response)
    assert stream.current


def test_types_that_are_not_served_are_ignored() -> None:
    stream = settled(snapshot(1))
    ask(stream, "type.googleapis.com/envoy.service.runtime.v3.Runtime", "x")
    assert stream.responses() == []


def test_equal_settings_give_equal_snapshots() -> None:
    assert snapshot(1).version == snapshot(1).version != snapshot(2).version
    assert set(snapshot(1).resources) == set(TYPES)
