"""What lies in ``examples/`` does what it says, against the running demo."""

import asyncio
import json
import string
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import pytest
import yaml
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.contract.test_gateways import authorizer
from tests.support.deployment import Running, free_port, short_folder, wait_for
from tests.support.echo import EchoServer, echo_server
from tests.support.http_client import BrowserlessClient
from tests.unit.authorize.builders import CONFIG

from doorward.api.authorize.v1 import authorize_pb2 as pb
from doorward.api.authorize.v1.authorize_pb2_grpc import AuthorizeServiceStub
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


GATEWAYS = """
gateways:
  - {name: edge, routes: [admin], trust_client_address: true}
  - {name: tool, routes: [verify, public]}
"""


@pytest.fixture
def gateways(demo: Running) -> Iterator[Callable[[str], Path]]:
    """The running demo knows two gateways, each by its socket."""
    file = demo.data / "demo.yaml"
    before = file.read_text()
    file.write_text(before + GATEWAYS)

    def socket(name: str) -> Path:
        return endpoints(demo).gateway(name, 0)

    wait_for(lambda: socket("edge").is_socket() and socket("tool").is_socket(), what="a socket for each gateway")
    try:
        yield socket
    finally:
        file.write_text(before)
        wait_for(lambda: not socket("edge").exists(), what="the gateways to go")


@pytest.fixture
def plain_envoy(demo: Running, gateways: Callable[[str], Path]) -> Iterator[tuple[int, EchoServer]]:
    """The hand-written Envoy of the example with an application behind it; its port, and the application."""
    command = [sys.executable, "-m", "doorward.cli.app", "routes", "--config", str(demo.data / "demo.yaml"), "--json"]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    lines = listed.stdout.splitlines() or pytest.fail(listed.stderr)
    route = next(found for line in lines if (found := json.loads(line))["route"] == "admin")
    with echo_server("plain") as application:
        port = free_port()
        text = example(
            "envoy.yaml",
            LISTEN_PORT=port,
            UPSTREAM_PORT=application.port,
            GATEWAY_SOCKET=gateways("edge"),
            ROUTE=route["route"],
            DIGEST=route["digest"],
            HOST=route["host"],
        )
        with envoy(text, port):
            yield port, application


def example(name: str, **values: object) -> str:
    """A file of the example, filled in."""
    return string.Template((EXAMPLES / "plain-envoy" / name).read_text()).substitute(values)


@contextmanager
def envoy(text: str, port: int) -> Iterator[None]:
    """An Envoy with this configuration, once it answers on ``port``."""
    with short_folder() as folder:
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
            yield
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

    def get(path: str = "/x", host: str = "admin.localhost", **headers: str) -> httpx.Response:
        sent = {"host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return httpx.get(f"http://127.0.0.1:{port}{path}", headers=sent, trust_env=False)

    assert get().status_code == 401
    client = browser("alice")
    client.navigate(demo.ready["urls"]["admin"] + "/")
    cookie = f"__Host-doorward={client.cookie('admin.localhost', '__Host-doorward')}; theirs=1"
    passed = get(host="ADMIN.localhost:443", cookie=cookie, x_doorward_jwt_assertion="forged")
    assert passed.status_code == 200, passed.text
    seen = dict(passed.json()["headers"])
    assert seen["cookie"] == "theirs=1"
    assert seen["x-doorward-jwt-assertion"].count(".") == 2
    assert "x-doorward-client-address" not in seen
    before = len(application.seen)
    assert get("/a;b", cookie=cookie).status_code == 400
    assert get(host="other.localhost", cookie=cookie).status_code in {404, 503}
    stranger = browser("bob")
    stranger.navigate(demo.ready["urls"]["admin"] + "/")
    theirs = f"__Host-doorward={stranger.cookie('admin.localhost', '__Host-doorward')}"
    assert get(cookie=theirs).status_code == 403
    assert len(application.seen) == before


# Asyncio leaves some TLS transports that end to the collector, which warns.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_on_another_machine_an_envoy_asks_by_its_certificate(tmp_path: Path):
    """The example's other cluster, at the address of an authorizer that knows its callers by certificate."""
    async with authorizer(tmp_path) as made:
        cookie = made.world.sign_in(host="app.example.com")
        made.planes.gateway("edge")
        port, digest = free_port(), made.world.evaluator.snapshot.routes["app"].route.digest
        with echo_server("apart") as application:
            values = {"UPSTREAM_PORT": application.port, "ROUTE": "app", "DIGEST": digest, "HOST": "app.example.com"}
            written = yaml.safe_load(example("envoy.yaml", LISTEN_PORT=port, GATEWAY_SOCKET="", **values))
            at = {"AUTHORIZE_HOST": made.checks.host, "AUTHORIZE_PORT": made.checks.port}
            folder = made.planes.folder / "gateway" / "edge"
            cluster = yaml.safe_load(example("doorward-apart.yaml", FOLDER=folder, **at))
            written["static_resources"]["clusters"][0] = cluster
            running = envoy(yaml.safe_dump(written), port)
            await asyncio.to_thread(running.__enter__)
            try:
                async with httpx.AsyncClient(
                    trust_env=False, headers={"cookie": cookie, "host": "app.example.com"}
                ) as client:
                    url = f"http://127.0.0.1:{port}/x"
                    assert (await client.get(url)).status_code == 200
                    made.world.reload(CONFIG + GATEWAYS.replace("routes: [admin]", "routes: [public]"))
                    refused = await client.get(url)
                    assert refused.status_code == 503
                    assert "x-doorward-decision-id" in refused.headers, "Envoy's own word, not the authorizer's"
            finally:
                await asyncio.to_thread(running.__exit__, None, None, None)


def test_a_program_with_a_gateways_socket_asks_about_its_routes(
    demo: Running, browser: Browser, gateways: Callable[[str], Path]
):
    browser("alice")
    session = newest_session(demo)

    def ask(route: str) -> pb.Decision:
        with grpc.insecure_channel(
            f"unix:{gateways('tool')}", options=[("grpc.default_authority", "localhost")]
        ) as channel:
            facts = pb.RequestFacts(route_id=route, method="GET", path="/json")
            request = pb.DecideRequest(subject=pb.Subject(session_id=session), request=facts)
            return AuthorizeServiceStub(channel).Decide(request, timeout=5).decision

    assert ask("verify").effect == pb.EFFECT_ALLOW
    with pytest.raises(grpc.RpcError) as refused:
        ask("admin")
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
