"""Envoy's figures under our names, and what becomes of them when Envoy is silent."""

import re

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from tests.support.envoy_figures import Admin

from doorward_proxy.envoy.figures import COUNTERS, GAUGES, EnvoyFigures

TOLD = {
    "http.public.ext_authz.ok": 7,
    "http.public.ext_authz.error": 2,
    "http.public.ext_authz.disabled": 0,
    "cluster.upstream-0a.ext_authz.error": 99,
    "cluster.doorward-authorize.upstream_rq_timeout": 1,
    "cluster.doorward-authorize.upstream_rq_per_try_timeout": 2,
    "http.public.ext_proc.streams_failed": 3,
    "cluster.upstream-0a.upstream_cx_connect_fail": 4,
    "cluster.upstream-0b.upstream_cx_connect_fail": 5,
    "listener.127.0.0.1_443.downstream_global_cx_overflow": 6,
    "listener.admin.downstream_global_cx_overflow": 1000,
    "cluster.doorward-authorize.membership_healthy": 2,
    "cluster.doorward-authenticate.membership_healthy": 0,
    "overload.envoy.resource_monitors.fixed_heap.pressure": 42,
}


async def shown(admin: Admin) -> dict[str, float]:
    registry = CollectorRegistry()
    figures = EnvoyFigures(admin, lambda: 0.0)
    registry.register(figures)
    await figures.read()
    lines = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


async def test_s32_what_envoy_counts_is_shown_under_names_of_ours():
    found = await shown(Admin(TOLD))
    assert found["doorward_envoy_up"] == 1
    assert found['doorward_envoy_checks_total{result="allowed"}'] == 7
    assert found['doorward_envoy_checks_total{result="error"}'] == 2, "once, though Envoy counts it twice"
    assert found['doorward_envoy_checks_total{result="unchecked"}'] == 0
    assert found['doorward_envoy_check_tries_failed_total{reason="timeout"}'] == 3
    assert found['doorward_envoy_guard_streams_total{result="cut"}'] == 3
    assert found['doorward_envoy_upstream_failures_total{reason="connect"}'] == 9
    assert found["doorward_envoy_connections_refused_total"] == 6, "the admin interface is no client's"
    assert found['doorward_envoy_healthy_processes{plane="authorize"}'] == 2
    assert found['doorward_envoy_healthy_processes{plane="authenticate"}'] == 0
    assert found["doorward_envoy_heap_used_ratio"] == pytest.approx(0.42)


async def test_what_was_never_counted_is_nothing():
    found = await shown(Admin({}))
    assert found['doorward_envoy_checks_total{result="error"}'] == 0
    assert found["doorward_envoy_connections"] == 0


async def test_old_figures_are_not_shown_when_envoy_is_silent():
    admin = Admin(TOLD)
    registry = CollectorRegistry()
    figures = EnvoyFigures(admin, lambda: 0.0)
    registry.register(figures)
    await figures.read()
    admin.told = None
    await figures.read()
    text = generate_latest(registry).decode()
    assert "doorward_envoy_up 0.0" in text
    assert "doorward_envoy_checks" not in text


def test_patterns_are_what_envoy_can_read():
    """Its expressions (RE2) know no look-around, and one that is wrong hides every figure."""
    for figure in (*COUNTERS, *GAUGES):
        for _, pattern in figure.parts:
            assert not re.search(r"\(\?[=!<]", pattern), pattern
