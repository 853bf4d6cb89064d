"""Each plane by its own command, on one machine, over sockets: what `doorward run` does, by hand."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
import yaml
from tests.support.deployment import free_port, short_folder, wait_for
from tests.support.echo import echo_server
from tests.support.http_client import BrowserlessClient
from tests.support.redis_server import redis_server
from tests.support.site import everyone

pytestmark = pytest.mark.e2e
PLANES = ("proxy", "authorize", "authenticate", "databroker")
"""In the order that suits them least: each waits for the others."""


def doorward(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "doorward.cli.app", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@contextmanager
def served(folder: Path, plane: str) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / f"{plane}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "doorward.cli.app", "serve", plane, "-c", "doorward.yaml", "--data", "data"],
            cwd=folder, stdout=log, stderr=log, env={**os.environ},
        )  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()
            assert process.wait(20) == 0, (folder / f"{plane}.log").read_text()[-2000:]


def test_four_planes_started_one_by_one_make_a_deployment():
    with (
        redis_server("valkey") as store,
        echo_server("app") as upstream,
        short_folder() as folder,
        ExitStack() as stack,
    ):
        port = free_port()
        document = {
            "version": 1,
            "listen": f"127.0.0.1:{port}",
            "authenticate_url": f"https://authenticate.localhost:{port}",
            "databroker": {"redis": store.url},
            "routes": [
                {
                    "name": "open", "from": f"https://open.localhost:{port}", "to": f"http://127.0.0.1:{upstream.port}",
                    "policy": everyone(),
                }
            ],
        }  # fmt: skip
        (folder / "doorward.yaml").write_text(yaml.safe_dump(document))
        assert doorward(folder, "check", "doorward.yaml").returncode == 0
        assert doorward(folder, "keys", "init", "--data", "data").returncode == 0
        for plane in PLANES:
            stack.enter_context(served(folder, plane))
        authority = folder / "data" / "certificates" / "authority.crt"
        wait_for(authority.exists, 30, what="the certificate authority")

        def answered() -> bool:
            with BrowserlessClient(authority) as client:
                try:
                    return client.get(f"https://open.localhost:{port}/").status_code == 200
                except httpx.TransportError:
                    return False

        wait_for(answered, 30, what="the route")
        # What a process reports of itself is up to a second old.
        wait_for(lambda: doorward(folder, "status", "--data", "data").returncode == 0, 10, what="a healthy status")
        # A second one would take the sockets away from the first, and its end would leave nobody there.
        again = doorward(folder, "serve", "databroker", "-c", "doorward.yaml", "--data", "data")
        assert again.returncode == 1
        assert "`databroker-0` is in use by process" in again.stderr
        assert "use --run-dir" in again.stderr
        assert answered()


@pytest.mark.parametrize("plane", PLANES)
def test_a_plane_that_cannot_start_says_why_in_one_line(tmp_path: Path, plane: str):
    (tmp_path / "doorward.yaml").write_text("version: 1\nauthenticate_url: https://a.example\nroutes: []\nlistn: x\n")
    result = doorward(tmp_path, "serve", plane, "-c", "doorward.yaml", "--data", "data")
    assert result.returncode == 1
    assert "doorward.yaml:4:1: error: unknown key `listn`" in result.stderr
    assert "Traceback" not in result.stdout + result.stderr


def test_an_unknown_plane_is_named_with_the_known_ones(tmp_path: Path):
    result = doorward(tmp_path, "serve", "proxi", "-c", "doorward.yaml")
    assert result.returncode != 0
    assert "proxy" in result.stderr
