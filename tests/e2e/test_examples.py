"""What lies in ``examples/`` does what it says, against the running demo."""

import json
import string
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.support.deployment import Running, free_port, short_folder, wait_for
from tests.support.echo import EchoServer, echo_server
from tests.support.http_client import BrowserlessClient

from doorward.config.endpoints import LocalEndpoints, default_run_folder
from doorward_proxy.envoy.binary import find_envoy

pytestmark = [pytest.mark.e2e]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
Browser = Callable[..., BrowserlessClient]


def endpoints(demo: Running) -> LocalEndpoints:
    return LocalEndpoints(default_run_folder(demo.data))


def newest_session(demo: Running) -> str:
    lines = demo.command("session", "list", "--json").stdout.splitlines()
    return str(max((json.loads(line) for line in lines), key=lambda session: session["issued_at"])["id"])


def decide(demo: Running, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / "decide.py"), str(endpoints(demo).authorize), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_the_python_example_decides_explains_and_lists(demo: Running, browser: Browser):
    browser("bob")
    session = newest_session(demo)
    denied = decide(demo, session, "admin")
    assert denied.returncode == 1, denied.stderr
    assert "admin/: EFFECT_DENY (groups-unauthorized)" in denied.stdout
    assert "methods: none" in denied.stdout
    allowed = decide(demo, session, "verify", "/json")
    assert allowed.returncode == 0, allowed.stderr
    assert "verify/json: EFFECT_ALLOW" in allowed.stdout
    assert "methods: GET, POST, DELETE" in allowed.stdout
    reachable = next(line for line in allowed.stdout.splitlines() if line.startswith("reachable: "))
    assert {"verify", "public"} <= set(reachable.removeprefix("reachable: ").split(", "))
    assert "admin" not in reachable
    assert "authenticated_user" in allowed.stdout


def test_the_services_describe_themselves(demo: Running):
    with grpc.insecure_channel(
        f"unix:{endpoints(demo).authorize}", options=[("grpc.default_authority", "localhost")]
    ) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        (answer,) = stub.ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=5
        )
    names = {service.name for service in answer.list_services_response.service}
    assert "doorward.api.authorize.v1.AuthorizeService" in names


@pytest.fixture
def plain_envoy(demo: Running) -> Iterator[tuple[int, EchoServer]]:
    """The hand-written Envoy of the example with an application behind it; its port, and the application."""
    command = [sys.executable, "-m", "doorward.cli.app", "routes", "--config", str(demo.data / "demo.yaml"), "--json"]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    lines = listed.stdout.splitlines() or pytest.fail(listed.stderr)
    route = next(found for line in lines if (found := json.loads(line))["route"] == "admin")
    with short_folder() as folder, echo_server("plain") as application:
        port = free_port()
        text = string.Template((EXAMPLES / "plain-envoy" / "envoy.yaml").read_text()).substitute(
            LISTEN_PORT=port,
            UPSTREAM_PORT=application.port,
            CHECK_SOCKET=endpoints(demo).check(0),
            ROUTE=route["route"],
            DIGEST=route["digest"],
            HOST=route["host"],
        )
        (folder / "envoy.yaml").write_text(text)
        command = [
            str(find_envoy(None)),
            "-c",
            str(folder / "envoy.yaml"),
            "--disable-hot-restart",
            "--log-level",
            "error",
        ]
        with (folder / "envoy.log").open("w") as log:
            process = subprocess.Popen([*command, "--concurrency", "1"], stdout=log, stderr=log)
        try:
            wait_for(lambda: process.poll() is not None or answers(port), what="the plain envoy")
            assert process.poll() is None, (folder / "envoy.log").read_text()
            yield port, application
        finally:
            process.terminate()
            process.wait()


def answers(port: int) -> bool:
    try:
        httpx.get(f"http://127.0.0.1:{port}/", trust_env=False)
    except httpx.TransportError:
        return False
    return True


def test_an_envoy_written_by_hand_asks_doorward(demo: Running, browser: Browser, plain_envoy: tuple[int, EchoServer]):
    port, application = plain_envoy
    url = f"http://127.0.0.1:{port}/x"
    assert httpx.get(url, trust_env=False).status_code == 401
    client = browser("alice")
    client.navigate(demo.ready["urls"]["admin"] + "/")
    cookie = f"__Host-doorward={client.cookie('admin.localhost', '__Host-doorward')}; theirs=1"
    passed = httpx.get(url, headers={"cookie": cookie, "x-doorward-jwt-assertion": "forged"}, trust_env=False)
    assert passed.status_code == 200, passed.text
    seen = dict(passed.json()["headers"])
    assert seen["cookie"] == "theirs=1"
    assert seen["x-doorward-jwt-assertion"].count(".") == 2
    assert "x-doorward-client-address" not in seen
    before = len(application.seen)
    assert httpx.get(f"http://127.0.0.1:{port}/a;b", headers={"cookie": cookie}, trust_env=False).status_code == 400
    stranger = browser("bob")
    stranger.navigate(demo.ready["urls"]["admin"] + "/")
    theirs = f"__Host-doorward={stranger.cookie('admin.localhost', '__Host-doorward')}"
    assert httpx.get(url, headers={"cookie": theirs}, trust_env=False).status_code == 403
    assert len(application.seen) == before
