"""The Kubernetes manifests: rendered by kustomize, checked against the published schemas, and against what they promise."""

import subprocess
from typing import Any

import kubernetes_validate
import pytest
import yaml
from tests.deploy.tools import DEPLOY, tool

KUBERNETES = DEPLOY / "kubernetes"
VERSION = "1.34"
PLANES = ("databroker", "authenticate", "authorize", "proxy")


@pytest.fixture(scope="module")
def rendered() -> list[dict[str, Any]]:
    result = subprocess.run(
        [tool("kubectl"), "kustomize", KUBERNETES / "overlays" / "example"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return list(yaml.safe_load_all(result.stdout))


def of(kind: str, rendered: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {item["metadata"]["name"]: item for item in rendered if item["kind"] == kind}


def workloads(rendered: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return of("Deployment", rendered) | of("StatefulSet", rendered)


def test_every_manifest_is_what_the_published_schema_says(rendered: list[dict[str, Any]]) -> None:
    assert len(rendered) > 20
    for manifest in rendered:
        kubernetes_validate.validate(manifest, VERSION, strict=True)


def test_every_manifest_is_in_the_one_namespace_which_allows_only_restricted_pods(
    rendered: list[dict[str, Any]],
) -> None:
    assert {item["metadata"].get("namespace", "doorward") for item in rendered} == {"doorward"}
    labels = of("Namespace", rendered)["doorward"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_every_pod_is_nobody_with_a_read_only_root_and_no_capability(rendered: list[dict[str, Any]]) -> None:
    for workload in workloads(rendered).values():
        pod = workload["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("plane", PLANES)
def test_a_plane_has_probes_two_of_itself_a_budget_and_no_more_secrets_than_its_own(
    plane: str, rendered: list[dict[str, Any]]
) -> None:
    workload = workloads(rendered)[f"doorward-{plane}"]
    pod = workload["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert workload["spec"]["replicas"] >= 2
    assert container["args"] == ["serve", plane]
    assert container["image"].startswith(f"registry.example.com/doorward/{plane}:")
    assert {container[name]["httpGet"]["port"] for name in ("startupProbe", "readinessProbe", "livenessProbe")} == {
        "health"
    }
    # A plane that cannot serve because a neighbour is away must be left alone: restarting it would only lose what it has.
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    secrets = {volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
    own = {f"doorward-{plane}-keys", f"doorward-{plane}-certificate"}
    assert secrets == (own | {"doorward-tls"} if plane == "proxy" else own)
    # Readable by the group alone: the program refuses a key that others may read.
    assert {volume["secret"]["defaultMode"] for volume in pod["volumes"] if "secret" in volume} == {0o440}
    budget = of("PodDisruptionBudget", rendered)[f"doorward-{plane}"]
    assert budget["spec"]["selector"] == workload["spec"]["selector"]


def test_the_directory_worker_has_its_certificate_and_no_key(rendered: list[dict[str, Any]]) -> None:
    pod = workloads(rendered)["doorward-directory"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["args"] == ["serve", "directory"]
    secrets = {volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
    assert secrets == {"doorward-directory-certificate"}


def test_only_authenticate_is_given_the_identity_providers_secret(rendered: list[dict[str, Any]]) -> None:
    holders = {
        name
        for name, workload in workloads(rendered).items()
        for container in workload["spec"]["template"]["spec"]["containers"]
        if any("secretKeyRef" in variable.get("valueFrom", {}) for variable in container.get("env", []))
    }
    assert holders == {"doorward-authenticate"}


def test_nobody_talks_to_anybody_unless_a_policy_says_so(rendered: list[dict[str, Any]]) -> None:
    policies = of("NetworkPolicy", rendered)
    nothing = policies["doorward-nothing"]["spec"]
    assert nothing == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    into_store = policies["doorward-store"]["spec"]["ingress"]
    assert [rule["from"] for rule in into_store] == [
        [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "doorward-databroker"}}}]
    ]
    into_authorize = policies["doorward-authorize"]["spec"]["ingress"]
    assert {port["port"] for rule in into_authorize for port in rule["ports"]} == {9442, 9443}


def test_every_address_in_the_configuration_is_a_service_with_that_port(rendered: list[dict[str, Any]]) -> None:
    """A plane that is looked for where nothing listens is a deployment that never gets ready."""
    configuration = yaml.safe_load(of("ConfigMap", rendered)["doorward-configuration"]["data"]["doorward.yaml"])
    services, sets = of("Service", rendered), of("StatefulSet", rendered)
    addresses = [address for places in configuration["planes"].values() for address in places]
    addresses.append(configuration["databroker"]["redis"].removeprefix("redis://"))
    for address in addresses:
        host, _, port = address.partition(":")
        pod, _, service = host.rpartition(".")
        spec = services[service]["spec"]
        assert int(port) in {item["port"] for item in spec["ports"]}
        if pod:
            name, _, number = pod.rpartition("-")
            assert int(number) < sets[name]["spec"]["replicas"]
            assert sets[name]["spec"]["serviceName"] == service
