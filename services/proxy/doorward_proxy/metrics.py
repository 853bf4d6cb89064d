"""What the proxy plane counts."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class ProxyMetrics:
    """Counters of one proxy, in a registry of their own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.published = Counter("doorward_proxy_snapshots_published", "Snapshots sent to Envoy.", registry=registry)
        self.refused = Counter(
            "doorward_proxy_resources_refused", "Refusals (NACK) by Envoy, by type.", ["type"], registry=registry
        )
        self.gate_closed = Counter(
            "doorward_proxy_gate_closed", "Snapshots that the gate kept from being published.", registry=registry
        )
        self.isolated = Gauge(
            "doorward_proxy_hosts_isolated", "Hosts that answer 503 because Envoy refuses them.", registry=registry
        )
        self.unsynchronised = Counter(
            "doorward_proxy_published_before_authorize",
            "Snapshots published although authorize did not report their generation in time.",
            registry=registry,
        )
        self.envoy_starts = Counter("doorward_proxy_envoy_starts", "Starts of Envoy.", registry=registry)
        self.code_failures = Counter(
            "doorward_proxy_code_failures",
            "One-time codes that were not redeemed, by reason.",
            ["reason"],
            registry=registry,
        )
