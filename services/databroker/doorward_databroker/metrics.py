"""The databroker's metrics."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class DatabrokerMetrics:
    """Every metric of the plane."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.healthy = Gauge(
            "doorward_store_healthy", "Whether the last heartbeat was stored (1) or not (0).", registry=registry
        )
        self.heartbeat_seconds = Histogram(
            "doorward_store_heartbeat_seconds",
            "How long a heartbeat took to be stored, demanded replicas included.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.failed_heartbeats = Counter(
            "doorward_store_failed_heartbeats", "Heartbeats that were not stored.", registry=registry
        )
        self.store_operations = Counter(
            "doorward_store_operations",
            "What was asked of the store, by operation and outcome.",
            ["operation", "outcome"],
            registry=registry,
        )
        self.store_operation_seconds = Histogram(
            "doorward_store_operation_seconds",
            "How long the store took for what was asked of it; not for what waits for changes.",
            ["operation"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.records_written = Counter("doorward_records_written", "Records written.", ["type"], registry=registry)
        self.watchers = Gauge("doorward_watchers", "Open watches.", registry=registry)
        self.watchers_cut = Gauge("doorward_watchers_cut", "Watches cut because they fell behind.", registry=registry)
        self.damaged = Gauge(
            "doorward_damaged_records",
            "Stored records that do not open; their types are not vouched for.",
            registry=registry,
        )
        self.unreadable = Gauge(
            "doorward_feed_entries_unreadable",
            "Feed entries with a change that could not be read, since the start.",
            registry=registry,
        )
        self.feed_number = Gauge("doorward_feed_number", "Number of the newest change handed out.", registry=registry)
        self.feed_epoch = Gauge("doorward_feed_epoch", "Epoch of the feed; grows with each loss.", registry=registry)
        self.revoke_seconds = Histogram(
            "doorward_revoke_seconds",
            "From a revoke's arrival until every authorizer had applied it or could not let anybody in any more.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.revokes_pending = Counter(
            "doorward_revokes_pending",
            "Revokes that were answered while some authorizer had not applied them.",
            registry=registry,
        )
        self.swept = Counter("doorward_records_swept", "Expired records that became tombstones.", registry=registry)
        self.history_trimmed = Counter("doorward_history_trimmed", "Feed entries trimmed.", registry=registry)
