"""Decision records as log records for an OpenTelemetry collector (opentelemetry-proto, `logs/v1`). The file has what it does not take."""

import json
from collections.abc import Mapping, Sequence

from doorward.telemetry.otlp import OtlpSender, attribute
from doorward_authorize.metrics import AuthorizeMetrics


def record_sender(endpoint: str, resource: Mapping[str, str], metrics: AuthorizeMetrics) -> OtlpSender[str]:
    """Sends lines of the decision log to ``/v1/logs`` of a collector."""
    described = [attribute(name, value) for name, value in resource.items()]

    def body(lines: Sequence[str]) -> object:
        scope = {"scope": {"name": "doorward.decisions"}, "logRecords": [_record(line) for line in lines]}
        return {"resourceLogs": [{"resource": {"attributes": described}, "scopeLogs": [scope]}]}

    return OtlpSender(endpoint, "/v1/logs", body, metrics.export_drops.inc)


def _record(line: str) -> dict[str, object]:
    record = json.loads(line)
    return {
        "timeUnixNano": str(int(record.get("time", 0) * 1e9)),
        "severityNumber": 9,
        "severityText": "INFO",
        "body": {"stringValue": line.rstrip("\n")},
        "attributes": [
            attribute(f"doorward.{name}", str(record[name]))
            for name in ("decision_id", "route", "outcome", "user_id")
            if record.get(name) is not None
        ],
    }
