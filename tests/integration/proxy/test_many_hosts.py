"""Scoped routes in a real Envoy: hosts come, change and go one by one; what nobody configured reaches nothing."""

from collections.abc import AsyncIterator

import pytest
from tests.support.deployment import free_port
from tests.support.envoy import EchoUpstream, RunningProxy, route, running_proxy, settings_of

from doorward_proxy.resources import routes


@pytest.fixture
async def proxy(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[RunningProxy, EchoUpstream]]:
    monkeypatch.setattr(routes, "RDS_HOSTS", 2)
    upstream = EchoUpstream(free_port())
    to = [("http", "127.0.0.1", upstream.port)]
    async with (
        upstream.running(),
        running_proxy(settings_of(*(route(f"h{n}.localhost", to=to) for n in range(5)))) as it,
    ):
        yield it, upstream


async def test_hosts_come_change_and_go(proxy: tuple[RunningProxy, EchoUpstream]):
    running, upstream = proxy
    to = [("http", "127.0.0.1", upstream.port)]
    for number in range(5):
        assert (await running.get(host=f"h{number}.localhost")).status == 200
        assert (await running.get(host=f"h{number}.localhost:{running.port}")).status == 200
    reached, asked = len(upstream.requests), len(running.authorizer.checks)
    for host in ("nobody.localhost", "H1.Localhost", "h1.localhost.", "localhost"):
        # Envoy asks nobody about what has no route; the guard knows of no decision and refuses, and there is nowhere to go.
        answer = await running.get(host=host)
        assert answer.status == 404
        assert b"No application has this address" in answer.data
    assert all("route" not in context for context in running.authorizer.contexts()[asked:])
    assert len(upstream.requests) == reached
    assert (await running.get("/.doorward", host="h1.localhost")).status == 404
    changed = [route("h1.localhost", to=to, set_response_headers=(("x-new", "yes"),)), route("h7.localhost", to=to)]
    kept = [route(f"h{n}.localhost", to=to) for n in (2, 3)]
    await running.publish(settings_of(*changed, *kept, generation="g2", port=running.port))
    assert b"x-new: yes" in (await running.get(host="h1.localhost")).data
    assert (await running.get(host="h7.localhost")).status == 200
    assert (await running.get(host="h0.localhost")).status == 404
    assert running.plane.publisher.status.fault is None


async def test_fewer_hosts_again_travel_together_again(proxy: tuple[RunningProxy, EchoUpstream]):
    running, upstream = proxy
    to = [("http", "127.0.0.1", upstream.port)]
    await running.publish(settings_of(route("h1.localhost", to=to), generation="g2", port=running.port))
    assert (await running.get(host="h1.localhost")).status == 200
    asked = len(running.authorizer.checks)
    assert (await running.get(host="nobody.localhost")).status == 404
    assert len(running.authorizer.checks) == asked + 1
