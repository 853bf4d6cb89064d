"""The few of Envoy's own figures that an operator alerts on, told at our `/metrics`.

Envoy alone sees a check that nobody answered, a guard that is late, an upstream that is away. Its admin interface is a private socket, so
they are read there, and shown under names of ours that stay when Envoy's change.

Reading takes time in Envoy that grows with its upstreams: the next one waits at least fifty times as long as the last one took.
"""

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from doorward.errors import UnavailableError
from doorward_proxy.envoy.admin import EnvoyAdmin

EVERY_SECONDS = 10.0
_AT_MOST_A_PART = 50
_AUTHORIZE = "cluster.doorward-authorize"
_CHECK = "http.public.ext_authz"
_GUARD = "http.public.ext_proc"


@dataclass(frozen=True, slots=True)
class _Figure:
    """One metric, made of what Envoy calls otherwise."""

    name: str
    help: str
    label: str | None
    parts: tuple[tuple[str, str], ...]
    """Values of the label, each with a pattern of Envoy's names; what matches is added up. A group's text takes the place of ``*``."""
    scale: float = 1.0


COUNTERS = (
    _Figure(
        "doorward_envoy_checks",
        "Checks by what Envoy got: an answer, none in time or a broken one (`error`, `invalid`), or none asked (`unchecked`, never).",
        "result",
        (
            ("allowed", rf"{_CHECK}\.ok"),
            ("denied", rf"{_CHECK}\.denied"),
            ("error", rf"{_CHECK}\.error"),
            ("invalid", rf"{_CHECK}\.invalid"),
            ("unchecked", rf"{_CHECK}\.(?:disabled|failure_mode_allowed)"),
        ),
    ),
    _Figure(
        "doorward_envoy_check_tries_failed",
        "Tries of a check that failed; another authorizer may have answered the next one.",
        "reason",
        (
            ("timeout", rf"{_AUTHORIZE}\.upstream_rq_(?:timeout|per_try_timeout)"),
            ("connect", rf"{_AUTHORIZE}\.upstream_cx_connect_fail"),
            ("overflow", rf"{_AUTHORIZE}\.upstream_rq_(?:pending_overflow|retry_overflow)"),
        ),
    ),
    _Figure(
        "doorward_envoy_guard_streams",
        "Streams that Envoy named to the guard, and how the guard failed them; a failed one is ended.",
        "result",
        (
            ("started", rf"{_GUARD}\.streams_started"),
            ("cut", rf"{_GUARD}\.streams_failed"),
            ("late", rf"{_GUARD}\.message_timeouts"),
            ("unguarded", rf"{_GUARD}\.failure_mode_allowed"),
        ),
    ),
    _Figure(
        "doorward_envoy_upstream_failures",
        "What went wrong between Envoy and operators' upstreams.",
        "reason",
        (
            ("connect", r"cluster\.upstream-[0-9a-f]+\.upstream_cx_connect_fail"),
            ("timeout", r"cluster\.upstream-[0-9a-f]+\.upstream_rq_timeout"),
            ("overflow", r"cluster\.upstream-[0-9a-f]+\.upstream_rq_pending_overflow"),
            ("5xx", r"cluster\.upstream-[0-9a-f]+\.upstream_rq_5xx"),
        ),
    ),
    _Figure(
        "doorward_envoy_connections_refused",
        "Clients' connections that were closed at once because there were too many.",
        None,
        (("", r"listener\.[0-9\[].*\.downstream_(?:global_cx_overflow|cx_overflow|cx_overload_reject)"),),
    ),
    _Figure(
        "doorward_envoy_requests_refused",
        "Requests that were answered 503 because Envoy is short of memory.",
        None,
        (("", r"http\.public\.downstream_rq_overload_close"),),
    ),
)
GAUGES = (
    _Figure(
        "doorward_envoy_healthy_processes",
        "Processes of a plane that Envoy takes for healthy.",
        "plane",
        (("*", r"cluster\.doorward-(authorize|authenticate)\.membership_healthy"),),
    ),
    _Figure(
        "doorward_envoy_connections",
        "Open connections of clients.",
        None,
        (("", r"http\.public\.downstream_cx_active"),),
    ),
    _Figure(
        "doorward_envoy_heap_used_ratio",
        "Part of `envoy.max_heap_megabytes` that is in use.",
        None,
        (("", r"overload\.envoy\.resource_monitors\.fixed_heap\.pressure"),),
        scale=0.01,
    ),
)
_UP = "doorward_envoy_up"


class EnvoyFigures(Collector):
    """Reads them from time to time, and shows what was read last. Concurrency: belongs to one event loop."""

    def __init__(self, admin: EnvoyAdmin, monotonic: Callable[[], float]) -> None:
        self._admin = admin
        self._monotonic = monotonic
        self._families: list[Metric] = []

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            began = self._monotonic()
            await self.read()
            await asyncio.sleep(max(EVERY_SECONDS, _AT_MOST_A_PART * (self._monotonic() - began)))

    async def read(self) -> None:
        """Read once. What Envoy does not tell is not shown: an old figure would pass for a present one."""
        try:
            counters = await self._admin.figures("Counters", _filter(COUNTERS))
            gauges = await self._admin.figures("Gauges", _filter(GAUGES))
        except UnavailableError:
            self._families = []
        else:
            self._families = [
                *(_family(CounterMetricFamily, figure, counters) for figure in COUNTERS),
                *(_family(GaugeMetricFamily, figure, gauges) for figure in GAUGES),
            ]

    def collect(self) -> Iterable[Metric]:
        """What was read last."""
        yield GaugeMetricFamily(_UP, "Whether Envoy tells its figures.", value=1.0 if self._families else 0.0)
        yield from self._families


def _filter(figures: Iterable[_Figure]) -> str:
    return "^(?:" + "|".join(pattern for figure in figures for _, pattern in figure.parts) + ")$"


def _family(
    kind: type[CounterMetricFamily] | type[GaugeMetricFamily], figure: _Figure, told: Mapping[str, int]
) -> Metric:
    """One metric. Envoy leaves out what it has not counted yet, which is nothing."""
    values: dict[str, float] = {label: 0.0 for label, _ in figure.parts if label != "*"}
    for label, pattern in figure.parts:
        for name, value in told.items():
            match = re.fullmatch(pattern, name)
            if match is not None:
                shown = match[1] if label == "*" else label
                values[shown] = values.get(shown, 0.0) + value * figure.scale
    family = kind(figure.name, figure.help, labels=[figure.label] if figure.label is not None else [])
    for label, total in values.items():
        family.add_metric([label] if figure.label is not None else [], total)
    return family
