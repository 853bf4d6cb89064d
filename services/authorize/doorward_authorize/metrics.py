"""The decision path's metrics; bound beforehand, so that counting costs a fraction of a microsecond."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector


class AuthorizeMetrics:
    """Every metric of the plane."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._decided: dict[str, int] = {}
        registry.register(_Decisions(self._decided))
        self.seconds = Histogram(
            "doorward_check_seconds",
            "Time from a whole CheckRequest to its answer, without what waits; of one check in sixteen.",
            buckets=(2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.1),
            registry=registry,
        )
        self.data_age = Gauge(
            "doorward_data_age_seconds",
            "Age of the data that decisions are made by; infinite before there are any.",
            registry=registry,
        )
        self.sessions = Gauge("doorward_sessions", "Sessions in the replica.", registry=registry)
        self.failures = Counter(
            "doorward_check_failures", "Checks that ended in an exception; all were refused.", registry=registry
        )
        self.shed = Counter("doorward_checks_shed", "Checks refused because too many waited.", registry=registry)
        self.handed_on = Counter(
            "doorward_checks_handed_on",
            "Checks that another authorizer was left to answer, because the data here were too old.",
            registry=registry,
        )
        self.unknown_digest = Counter(
            "doorward_unknown_digest",
            "Checks for a route or digest that this authorizer does not know; all were refused.",
            registry=registry,
        )
        self.log_drops = Counter(
            "doorward_decision_log_drops", "Decision records lost because the log could not follow.", registry=registry
        )
        self.export_drops = Counter(
            "doorward_decision_export_drops", "Decision records that the collector did not take.", registry=registry
        )
        self.span_drops = Counter("doorward_span_drops", "Spans that the collector did not take.", registry=registry)
        self.refusals_unkept = Counter(
            "doorward_refusals_unkept", "Refusals with a page that were not put as records.", registry=registry
        )
        self.unrecorded = Counter(
            "doorward_decisions_unrecorded",
            "Decisions refused because they could not be recorded first.",
            registry=registry,
        )
        self.gateway_refusals = Counter(
            "doorward_gateway_refusals",
            "Questions of other gateways that they may not ask; all were refused.",
            labelnames=["reason"],
            registry=registry,
        )
        self.guarded_streams = Gauge("doorward_guarded_streams", "Open guarded streams.", registry=registry)
        self.streams_cut = Counter("doorward_streams_cut", "Guarded streams that were ended here.", registry=registry)

    def count_decision(self, outcome: str) -> None:
        """Count one decision: a plain number, because the library's own counter takes a lock and costs several times as much."""
        self._decided[outcome] = self._decided.get(outcome, 0) + 1


class _Decisions(Collector):
    """Shows the plain numbers as a counter."""

    def __init__(self, decided: dict[str, int]) -> None:
        self._decided = decided

    def collect(self) -> Iterable[Metric]:
        """The counter as it stands."""
        family = CounterMetricFamily(
            "doorward_decisions", "Decisions by what became of the request.", labels=["outcome"]
        )
        for outcome, count in tuple(self._decided.items()):
            family.add_metric([outcome], count)
        yield family
