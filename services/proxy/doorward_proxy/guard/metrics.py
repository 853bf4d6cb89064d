"""What the guard counts."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class GuardMetrics:
    """Metrics of one guard, in a registry of their own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.streams = Gauge("doorward_guard_streams", "Open guarded streams.", registry=registry)
        self.cut = Counter(
            "doorward_guard_streams_cut",
            "Guarded streams that were ended: denied by authorize, or without proof in time.",
            ["reason"],
            registry=registry,
        )
        self.lost = Counter("doorward_guard_authorizers_lost", "Losses of the authorizer in use.", registry=registry)
