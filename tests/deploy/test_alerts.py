"""The example rules, in Prometheus's own hands: what is read, what fires when, and that there are such metrics."""

import re
import subprocess
from pathlib import Path

import yaml
from prometheus_client import CollectorRegistry, generate_latest
from tests.deploy.tools import DEPLOY, ROOT
from tests.support.envoy_figures import Admin

from doorward_authorize.metrics import AuthorizeMetrics
from doorward_databroker.directory.worker import DirectoryMetrics
from doorward_databroker.metrics import DatabrokerMetrics
from doorward_proxy.envoy.figures import EnvoyFigures
from doorward_proxy.guard.figures import GuardFigures
from doorward_proxy.guard.metrics import GuardMetrics
from doorward_proxy.local_http import LocalHttp
from doorward_proxy.metrics import ProxyMetrics

RULES = DEPLOY / "prometheus" / "alerts.yaml"
CASES = ROOT / "tests" / "deploy" / "alerts_cases.yaml"


def promtool(*arguments: object) -> str:
    told = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
    return told.stdout


def alerts() -> list[dict[str, str]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def test_prometheus_reads_them():
    assert f"{len(alerts())} rules found" in promtool("check", "rules", "--lint-fatal", RULES)


def test_each_fires_when_it_should_and_not_before():
    promtool("test", "rules", CASES)
    cases = [case for test in yaml.safe_load(CASES.read_text())["tests"] for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == {rule["alert"] for rule in alerts()}
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == {rule["alert"] for rule in alerts()}


async def test_rules_and_documents_name_metrics_that_there_are():
    registry = CollectorRegistry()
    AuthorizeMetrics(registry).count_decision("allow")
    DatabrokerMetrics(registry)
    DirectoryMetrics(registry).failures.labels("corp")
    ProxyMetrics(registry)
    GuardMetrics(registry)
    registry.register(GuardFigures(LocalHttp(Path("/nowhere"), "the guard")))
    figures = EnvoyFigures(Admin({}), lambda: 0.0)
    registry.register(figures)
    await figures.read()
    names = set(re.findall(r"^# TYPE (doorward_\w+)", generate_latest(registry).decode(), re.MULTILINE))
    page = (ROOT / "docs/operations/telemetry.md").read_text()
    for text in (*(rule["expr"] for rule in alerts()), *re.findall(r"`(doorward_\w+)", page)):
        for name in re.findall(r"doorward_\w+", text):
            assert name in names, name
    for name in sorted(names):
        if name.startswith(("doorward_envoy_", "doorward_guard_")) and not name.endswith("_created"):
            assert f"`{name}" in page, f"{name} is not in the document"
