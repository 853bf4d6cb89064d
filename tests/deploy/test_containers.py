"""The container files: linted, valid, and what they promise (no root, a read-only root, no capability) really written down."""

import json
import subprocess
from pathlib import Path
from typing import Any

import compose_spec
import pytest
import yaml
from tests.deploy.tools import DEPLOY, ROOT, tool

PLANES = ("authenticate", "authorize", "proxy", "databroker")
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"


def stages() -> dict[str, list[str]]:
    """The instructions of each stage of the Dockerfile, continuation lines joined."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in DOCKERFILE.read_text().replace("\\\n", " ").splitlines():
        if line.startswith("FROM "):
            name = line.split(" AS ")[1]
            found[name] = []
        elif name and line and not line.startswith("#"):
            found[name].append(line)
    return found


def services(name: str) -> dict[str, dict[str, Any]]:
    return dict(compose(name).to_dict()["services"])


def compose(name: str) -> compose_spec.PyCompose:
    return compose_spec.PyCompose.from_json(json.dumps(yaml.safe_load((DEPLOY / "compose" / name).read_text())))


def test_the_dockerfile_passes_the_linter() -> None:
    result = subprocess.run([tool("hadolint"), DOCKERFILE], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("plane", PLANES)
def test_the_image_of_a_plane_holds_its_own_extra_and_runs_as_nobody(plane: str) -> None:
    lines = stages()[plane]
    assert [line for line in lines if line.startswith("USER")] == ["USER 10001:10001"]
    installs = [line for line in lines if "install" in line]
    assert len(installs) == 1
    assert f"[{plane}]" in installs[0]
    assert f'CMD ["serve", "{plane}"]' in lines


def test_what_the_images_are_built_from_is_let_through() -> None:
    """A file that the build copies and `.dockerignore` leaves out fails every build."""
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for lines in stages().values()
        for line in lines
        if line.startswith("COPY ")
        for source in [word for word in line.split()[1:-1] if not word.startswith("--")]
    }
    assert copied <= allowed
    assert all((ROOT / path).exists() for path in copied)


@pytest.mark.parametrize("name", ["all-in-one.yaml", "split.yaml"])
def test_a_compose_file_is_valid(name: str) -> None:
    compose(name).validate()


@pytest.mark.parametrize("name", ["all-in-one.yaml", "split.yaml"])
def test_every_service_has_a_read_only_root_and_no_capability(name: str) -> None:
    for service in services(name).values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_the_directory_worker_has_no_more_secrets_than_its_own() -> None:
    worker = services("split.yaml")["directory"]
    mounts = {mount["target"]: mount["source"] for mount in worker["volumes"]}
    assert mounts["/etc/doorward/secrets"] == "./secrets/directory"
    assert "store" not in worker["networks"]
    assert 'CMD ["serve", "directory"]' in stages()["directory"]


def test_split_has_two_of_what_requests_wait_for_and_each_plane_its_own_secrets() -> None:
    found = services("split.yaml")
    by_plane = {plane: [name for name in found if name.split("-")[0] == plane] for plane in PLANES}
    assert len(by_plane["authorize"]) == 2
    assert len(by_plane["proxy"]) == 2
    for plane, names in by_plane.items():
        for name in names:
            mounts = {mount["target"]: mount["source"] for mount in found[name]["volumes"]}
            assert mounts["/etc/doorward/secrets"] == f"./secrets/{plane}"
            assert found[name]["build"]["target"] == plane
    reaches_store = [name for name, service in found.items() if "store" in service["networks"]]
    assert sorted(reaches_store) == ["databroker", "store"]


def test_the_entrypoint_passes_the_linter() -> None:
    result = subprocess.run(
        [tool("shellcheck"), DEPLOY / "docker" / "entrypoint.sh"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout


@pytest.fixture
def started(tmp_path: Path) -> dict[str, str]:
    """A platform's mounts, and a `doorward` that says how it was called."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "doorward"
    command.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    command.chmod(0o755)
    for part in ("keys", "planes/authorize"):
        (tmp_path / "secrets" / part).mkdir(parents=True)
    (tmp_path / "secrets" / "keys" / "flow.json").write_text("one")
    return {
        "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
        "DOORWARD_CONFIG": str(tmp_path / "doorward.yaml"),
        "DOORWARD_STATE": str(tmp_path / "state"),
        "DOORWARD_SECRETS": str(tmp_path / "secrets"),
        "DOORWARD_HEALTH": "127.0.0.1:1",
    }


def entrypoint(environment: dict[str, str], *arguments: str) -> list[str]:
    Path(environment["DOORWARD_STATE"]).mkdir(exist_ok=True)
    command = [str(DEPLOY / "docker" / "entrypoint.sh"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()


def test_the_entrypoint_starts_a_plane_with_its_data_in_a_private_folder(started: dict[str, str]) -> None:
    said = entrypoint(started, "serve", "authorize", "--worker", "1")
    data = Path(started["DOORWARD_STATE"]) / "data"
    assert said == [
        *("serve", "authorize", "--worker", "1", "--config", started["DOORWARD_CONFIG"]),
        *("--data", str(data), "--health", "127.0.0.1:1"),
    ]
    assert data.stat().st_mode & 0o777 == 0o700
    assert (data / "keys" / "flow.json").read_text() == "one"


def test_rotated_secrets_are_seen_through_the_links_also_after_a_restart(started: dict[str, str]) -> None:
    entrypoint(started, "serve", "authorize")
    Path(started["DOORWARD_SECRETS"], "keys", "flow.json").write_text("two")
    assert (Path(started["DOORWARD_STATE"]) / "data" / "keys" / "flow.json").read_text() == "two"
    entrypoint(started, "serve", "authorize")
    assert not (Path(started["DOORWARD_STATE"]) / "data" / "keys" / "keys").exists()


def test_the_entrypoint_passes_other_commands_on(started: dict[str, str]) -> None:
    assert entrypoint(started, "check", "x.yaml") == ["check", "x.yaml"]


CONFIGURATIONS = (
    "compose/all-in-one/doorward.yaml",
    "compose/split/doorward.yaml",
    "kubernetes/overlays/example/doorward.yaml",
)


@pytest.mark.parametrize("path", CONFIGURATIONS)
def test_the_configuration_beside_it_is_one_that_doorward_takes(path: str, tmp_path: Path) -> None:
    document = yaml.safe_load((DEPLOY / path).read_text())
    for key in ("certificate", "key"):
        # What a deployment brings of its own; its text is not looked at by a check of the configuration.
        (tmp_path / key).write_text("")
        document["tls"][key] = str(tmp_path / key)
    (tmp_path / "doorward.yaml").write_text(json.dumps(document))
    result = subprocess.run(
        [tool("doorward"), "check", "--strict", str(tmp_path / "doorward.yaml")],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "DOORWARD_CLIENT_SECRET": "made-up", "KEYCLOAK_SECRET": "made-up"},
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
