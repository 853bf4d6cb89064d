"""One setting bounds open streams everywhere that Envoy would otherwise stop at its own default."""

from datetime import timedelta

from tests.support.envoy import route, settings_of
from tests.unit.proxy.examples import surroundings

from doorward_proxy.resources.clusters import clusters
from doorward_proxy.resources.http_filters import check
from doorward_proxy.resources.listeners import connection_manager
from doorward_proxy.resources.surroundings import GUARD_CLUSTER, UPSTREAM_PREFIX


def test_the_breakers_of_guard_and_upstreams_follow_the_setting():
    """Envoy's default of 1,024 answers 500 to the next stream."""
    settings = settings_of(route(continuous=True), max_streams=12_345)
    found = clusters(settings, surroundings(), [{"upstream-a": settings.routes[0].route}], {})
    names = [name for name in found if name == GUARD_CLUSTER or name.startswith(UPSTREAM_PREFIX)]
    assert len(names) == 2
    for name in names:
        (limits,) = found[name].circuit_breakers.thresholds
        assert limits.max_requests.value >= 12_345
        assert limits.max_connections.value >= 12_345
        assert limits.max_pending_requests.value >= 12_345


def test_an_ended_stream_is_seen_by_its_client_at_once():
    manager = connection_manager(settings_of(route()))
    assert manager.delayed_close_timeout.ToTimedelta().total_seconds() <= 0.05


def test_a_check_is_asked_again_within_the_time_that_it_has():
    """Envoy's own pause is up to a second: half of the checks that could be asked again would be late by then."""
    service = check().grpc_service
    policy = service.retry_policy
    pauses = [
        policy.retry_back_off.base_interval.ToTimedelta() * 2**number for number in range(policy.num_retries.value)
    ]
    assert pauses
    assert sum(pauses, timedelta()) <= service.timeout.ToTimedelta() / 10
    assert policy.retry_back_off.max_interval == service.timeout, "it is also the deadline of each try"
