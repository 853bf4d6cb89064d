"""The decision path's metrics; bound beforehand, so that counting costs a fraction of a microsecond."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class AuthorizeMetrics:
    """Every metric of the plane."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.decisions = Counter(
            "doorward_decisions", "Decisions by what became of the request.", ["outcome"], registry=registry
        )
        self.failures = Counter(
            "doorward_check_failures", "Checks that ended in an exception; all were refused.", registry=registry
        )
        self.shed = Counter("doorward_checks_shed", "Checks refused because too many waited.", registry=registry)
        self.unknown_digest = Counter(
            "doorward_unknown_digest",
            "Checks for a route or digest that this authorizer does not know; all were refused.",
            registry=registry,
        )
        self.log_drops = Counter(
            "doorward_decision_log_drops", "Decision records lost because the log could not follow.", registry=registry
        )
        self.guarded_streams = Gauge("doorward_guarded_streams", "Open guarded streams.", registry=registry)
        self.streams_cut = Counter("doorward_streams_cut", "Guarded streams that were ended here.", registry=registry)
