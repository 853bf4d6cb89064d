"""The delta protocol's state for one type."""

from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from doorward.envoy_api.envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
)
from doorward_proxy.xds.snapshot import Resource
from doorward_proxy.xds.subscription import Accepted, Interest, Refused, Subscription


def world(**versions: str) -> dict[str, Resource]:
    return {name: Resource(name, version, AnyMessage()) for name, version in versions.items()}


def request(
    *subscribe: str,
    leave: tuple[str, ...] = (),
    nonce: str = "",
    held: dict[str, str] | None = None,
    error: str | None = None,
) -> DeltaDiscoveryRequest:
    message = DeltaDiscoveryRequest(
        resource_names_subscribe=subscribe,
        resource_names_unsubscribe=leave,
        response_nonce=nonce,
        initial_resource_versions=held or {},
    )
    if error is not None:
        message.error_detail.CopyFrom(Status(code=13, message=error))
    return message


def sent(response: DeltaDiscoveryResponse | None) -> dict[str, str]:
    assert response is not None
    return {item.name: item.version for item in response.resources}


def opened(*names: str, held: dict[str, str] | None = None) -> Subscription:
    subscription = Subscription("type")
    assert subscription.take(request(*names, held=held)) == Interest()
    return subscription


def respond(
    subscription: Subscription, resources: dict[str, Resource], *, removals: bool = True
) -> DeltaDiscoveryResponse | None:
    return subscription.next_response(resources, "v", removals=removals)


def test_nothing_is_sent_before_anything_is_asked_for() -> None:
    assert respond(Subscription("type"), world(a="1")) is None


def test_a_first_request_without_names_asks_for_everything() -> None:
    assert sent(respond(opened(), world(a="1", b="1"))) == {"a": "1", "b": "1"}


def test_named_resources_alone_are_sent() -> None:
    assert sent(respond(opened("a"), world(a="1", b="1"))) == {"a": "1"}


def test_a_name_that_does_not_exist_is_answered_as_removed() -> None:
    """The client waits until it hears of it."""
    subscription = opened("missing")
    response = respond(subscription, world(a="1"))
    assert response is not None
    assert list(response.removed_resources) == ["missing"]
    subscription.take(request(nonce=response.nonce))
    assert sent(respond(subscription, world(missing="1"))) == {"missing": "1"}


def test_what_the_client_brings_from_an_earlier_stream_is_not_sent_again() -> None:
    subscription = opened(held={"a": "1", "gone": "1"})
    response = respond(subscription, world(a="1", b="1"))
    assert sent(response) == {"b": "1"}
    assert response is not None
    assert list(response.removed_resources) == ["gone"]


def test_the_next_response_waits_for_the_answer() -> None:
    subscription = opened()
    first = respond(subscription, world(a="1"))
    assert first is not None
    assert subscription.waiting
    assert respond(subscription, world(a="2")) is None
    assert subscription.take(request(nonce="stale")) == Interest()
    assert subscription.take(request(nonce=first.nonce)) == Accepted()
    assert sent(respond(subscription, world(a="2"))) == {"a": "2"}


def test_equal_content_is_not_sent_twice() -> None:
    subscription = opened()
    first = respond(subscription, world(a="1"))
    assert first is not None
    subscription.take(request(nonce=first.nonce))
    assert respond(subscription, world(a="1")) is None
    assert subscription.is_current(world(a="1"))


def test_a_refusal_is_reported_and_not_repeated_until_there_is_a_new_snapshot() -> None:
    subscription = opened()
    first = respond(subscription, world(a="bad", b="1"))
    assert first is not None
    refused = subscription.take(request(nonce=first.nonce, error="no such filter"))
    assert refused == Refused(("a", "b"), "no such filter")
    assert respond(subscription, world(a="bad", b="1")) is None
    assert not subscription.is_current(world(a="bad", b="1"))
    subscription.retry()
    assert sent(respond(subscription, world(a="good", b="1"))) == {"a": "good", "b": "1"}


def test_removals_can_be_held_back() -> None:
    subscription = opened(held={"a": "1", "b": "1"})
    assert respond(subscription, world(a="1"), removals=False) is None
    assert subscription.is_current(world(a="1"), removals=False)
    assert not subscription.is_current(world(a="1"))
    response = respond(subscription, world(a="1"))
    assert response is not None
    assert list(response.removed_resources) == ["b"]


def test_a_name_that_was_left_is_not_sent_any_more() -> None:
    subscription = opened("a", "b")
    first = respond(subscription, world(a="1", b="1"))
    assert first is not None
    subscription.take(request(nonce=first.nonce, leave=("a",)))
    assert sent(respond(subscription, world(a="2", b="2"))) == {"b": "2"}


def test_asking_again_is_answered_again() -> None:
    subscription = opened("a")
    first = respond(subscription, world(a="1"))
    assert first is not None
    subscription.take(request("a", nonce=first.nonce))
    assert sent(respond(subscription, world(a="1"))) == {"a": "1"}


_worlds = st.dictionaries(st.sampled_from("abcd"), st.sampled_from("123"), max_size=4)


@given(st.lists(_worlds, min_size=1, max_size=6), st.lists(st.booleans(), max_size=6))
def test_a_client_that_accepts_always_ends_with_what_is_served(
    worlds: list[dict[str, str]], reconnects: list[bool]
) -> None:
    held: dict[str, str] = {}
    subscription = opened()
    for index, versions in enumerate(worlds):
        if index < len(reconnects) and reconnects[index]:
            subscription = opened(held=dict(held))
        resources = world(**versions)
        while (response := respond(subscription, resources)) is not None:
            held.update(sent(response))
            for name in response.removed_resources:
                held.pop(name)
            assert subscription.take(request(nonce=response.nonce)) == Accepted()
        assert held == versions
        assert subscription.is_current(resources)
