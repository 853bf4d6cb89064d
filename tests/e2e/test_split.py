"""Four planes apart, with mutual TLS and two of what decides and two of what serves: the flow, kills, certificates, generations."""

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import grpc.aio
import psutil
import pytest
import yaml
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from tests.e2e.conftest import PASSWORDS
from tests.support.deployment import free_port, short_folder, wait_for
from tests.support.echo import EchoServer, echo_server
from tests.support.site import everyone, signed_in
from tests.support.split import LOST_SOCKETS, Checker, Split, failed, report, split_deployment, status

from doorward.cli.keys import export_plane
from doorward.clock import SystemClock
from doorward.config.document import PlanesDocument
from doorward.config.endpoints import Address, parse_address
from doorward.envoy_api.envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from doorward.keys.plane_authority import PlaneAuthority, plane_uri
from doorward.rpc.client import open_channel
from doorward.rpc.credentials import PlaneIdentity
from doorward.rpc.grpc_server import GrpcServer
from doorward.rpc.plane_listener import admitted, listen
from doorward.rpc.planes import Plane
from doorward_authorize.transport import check_methods

pytestmark = [pytest.mark.e2e, LOST_SOCKETS, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def upstream() -> Iterator[EchoServer]:
    with echo_server("up") as up:
        yield up


def routes(upstream: EchoServer) -> list[dict[str, object]]:
    to = f"http://127.0.0.1:{upstream.port}"
    return [
        {"name": "open", "from": "open", "to": to, "policy": everyone()},
        {"name": "closed", "from": "closed", "to": to, "policy": signed_in()},
    ]


@pytest.fixture(scope="module")
def split(upstream: EchoServer) -> Iterator[Split]:
    # On a busy machine a databroker may take longer than five seconds to come back; test_partitions.py looks at the limit.
    patient = {"staleness_limit": "30s"}
    with short_folder() as folder, split_deployment(folder, routes(upstream), databroker=patient) as made:
        yield made


@pytest.fixture(scope="module")
def cookie(split: Split) -> str:
    return sign_in(split)


def sign_in(made: Split, proxy: int = 1) -> str:
    with made.client(proxy) as client:
        answer = client.sign_in(made.url("closed") + "/", *PASSWORDS["alice"])
        assert answer.status_code == 200, answer.text
        return f"__Host-doorward={client.cookie('closed.localhost', '__Host-doorward')}"


def get(made: Split, proxy: int, route: str, cookie: str = "") -> int:
    with made.client(proxy) as client:
        return client.request("GET", made.url(route) + "/", cookie_header=cookie).status_code


def test_the_flow_passes_through_any_of_them(split: Split, cookie: str):
    for proxy in (1, 2):
        assert get(split, proxy, "open") == 200
        assert get(split, proxy, "closed") == 401
        assert get(split, proxy, "closed", cookie) == 200
        assert get(split, proxy, "closed", sign_in(split, proxy)) == 200
    shown = status(split)
    assert shown["healthy"]
    assert Counter(item["plane"] for item in shown["processes"]) == {
        "authenticate": 1,
        "authorize": 2,
        "databroker": 1,
        "proxy": 2,
    }
    assert len(shown["generations"]) == 1
    assert all(item["certificate_expires_at"] > time.time() for item in shown["processes"])


def test_a_revoke_reaches_every_authorizer(split: Split):
    ours = sign_in(split, 2)
    with Checker(split, ours) as checker:
        checker.wait_for_load()
        result = split.command("session", "revoke", "--all")
        assert result.returncode == 0, result.stderr + result.stdout
        revoked = time.monotonic()
        until = checker.wait_for_load()
    assert checker.refused.wrong == []
    after = checker.allowed.between(revoked, until)
    assert after[200] == 0
    assert after[401] > 10


@pytest.mark.parametrize(
    ("victim", "most"),
    [
        *(("authorize-1", 0.001), ("databroker", 0.0), ("authenticate", 0.0), ("proxy-1", 0.01)),
    ],
)
def test_it_goes_on_around_each_kill(split: Split, victim: str, most: float):
    """`bench/kills.py` counts more of them."""
    cookie = sign_in(split, 2)
    process = split.processes[victim]
    with Checker(split, cookie) as checker:
        checker.wait_for_load()
        process.kill()
        checker.wait_for_load()
        process.start()  # as a supervisor does
        checker.wait_for_load()
    report(f"kill {victim}", checker)
    assert failed(checker.allowed.all) <= most
    for proxy in (1, 2):
        wait_for(lambda proxy=proxy: get(split, proxy, "closed", cookie) == 200, 10, what="the signed-in request")  # type: ignore[misc]


def test_an_authorizer_that_hangs_costs_nobody_a_request(split: Split):
    cookie = sign_in(split)
    process = split.processes["authorize-1"].popen
    assert process is not None
    with Checker(split, cookie) as checker:
        checker.wait_for_load()
        process.send_signal(signal.SIGSTOP)
        checker.wait_for_load(200)
        process.send_signal(signal.SIGCONT)
        checker.wait_for_load()
    report("authorize-1 hangs and goes on", checker)
    assert failed(checker.allowed.all) <= 0.001


def test_a_sign_in_waits_for_an_authenticate_plane_that_hangs_for_a_moment(split: Split):
    process = split.processes["authenticate"].popen
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    try:
        healthy = "cluster.doorward-authenticate.membership_healthy"
        wait_for(lambda: split.envoy_stat("proxy-1", healthy) == 0, 20, what="Envoy to see that it hangs")
        with ThreadPoolExecutor(1) as pool:
            signing_in = pool.submit(sign_in, split)
            waiting = [f"cluster.doorward-authenticate.upstream_rq_{kind}" for kind in ("active", "pending_active")]
            wait_for(lambda: any(split.envoy_stat("proxy-1", name) for name in waiting), 20, what="a waiting request")
            process.send_signal(signal.SIGCONT)
            assert signing_in.result(30)
    finally:
        process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("victim", ["authorize-1", "authenticate", "proxy-2"])
def test_an_orderly_end_drops_nothing(split: Split, victim: str):
    cookie = sign_in(split)
    process = split.processes[victim]
    with Checker(split, cookie) as checker:
        checker.wait_for_load()
        assert process.end(signal.SIGTERM) == 0
        checker.wait_for_load()
        process.start()
        checker.wait_for_load()
    report(f"end and start {victim}", checker)
    assert failed(checker.allowed.all) <= 0.001


@pytest.mark.parametrize(
    "order",
    [
        ("authorize-1", "authorize-2", "authenticate", "databroker", "proxy-1", "proxy-2"),
        ("proxy-1", "proxy-2", "databroker", "authenticate", "authorize-2", "authorize-1"),
        ("proxy-1", "authorize-1", "authenticate", "proxy-2", "databroker", "authorize-2"),
        ("authenticate", "proxy-2", "authorize-2", "databroker", "authorize-1", "proxy-1"),
    ],
)
def test_a_change_in_any_order_of_arrival_fails_nothing(split: Split, upstream: EchoServer, order: tuple[str, ...]):
    """A route changes what it reaches, one comes and one goes, while each process gets the file at its own time."""
    cookie = sign_in(split)
    before = split.routes
    to = (
        f"http://localhost:{upstream.port}"
        if "127.0.0.1" in str(before[1]["to"])
        else f"http://127.0.0.1:{upstream.port}"
    )
    extra = {"name": "extra", "from": "extra", "to": to, "policy": everyone()}
    kept = [route for route in before if route["name"] != "extra"]
    split.routes = [{**kept[0]}, {**kept[1], "to": to}, *([] if len(before) > 2 else [extra])]
    with Checker(split, cookie) as checker:
        for name in order:
            split.write(name)
            checker.wait_for_load(10)
        wait_for(lambda: _agreed(split), 10, what="one generation")
        checker.wait_for_load()
    report(f"a change, {order[0]} first", checker)
    assert failed(checker.allowed.all) == 0
    split.write("operator")


def _agreed(made: Split) -> str:
    generations = status(made)["generations"]
    return str(generations[0]) if len(generations) == 1 else ""


def test_two_configurations_at_once_are_shown_and_nothing_opens(split: Split):
    proxy = split.document("proxy-2")
    settings = split.settings
    split.settings = {**settings, "session": {"lifetime": "1h"}}
    split.write("proxy-2")
    split.settings = settings
    shown = wait_for(lambda: (found := status(split)) and len(found["generations"]) == 2 and found, 10, what="two")
    assert shown["healthy"]
    assert get(split, 2, "open") == 200
    assert get(split, 2, "closed") == 401
    assert proxy
    split.write()
    wait_for(lambda: _agreed(split), 10, what="one generation")


def test_s25_s78_each_process_listens_where_it_was_told_and_nowhere_else(split: Split):
    ports = {name: port for name, port in split.ports.items() if name != "provider"}
    expected = {
        "databroker": {ports["databroker"]},
        "authenticate": {ports["authenticate"], ports["pages"]},
        "authorize-1": {ports["authorize-1"], ports["services-1"]},
        "authorize-2": {ports["authorize-2"], ports["services-2"]},
        "proxy-1": {ports["proxy-1"]},
        "proxy-2": {ports["proxy-2"]},
    }
    for name, wanted in expected.items():
        process = split.processes[name].popen
        assert process is not None
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        listening = {
            connection.laddr.port
            for member in family
            for connection in member.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening == wanted, name
    with split.client(1) as client:
        for path in ("/debug", "/metrics", "/config_dump", "/-/", "/server_info", "/healthz"):
            assert client.request("GET", split.url("closed") + path).status_code == 401
            answer = client.request("GET", f"https://nobody.localhost:{split.public_port}{path}")
            assert answer.status_code == 404


def test_s77_nobody_without_a_certificate_gets_an_answer_from_a_plane(split: Split, tmp_path: Path):
    foreign = PlaneAuthority(tmp_path, _Clock())
    foreign.renew(("proxy",), foreign_life())
    for name in ("databroker", "authorize-1", "services-1", "authenticate", "pages"):
        address = f"https://127.0.0.1:{split.ports[name]}/"
        for credentials in ([], ["--cert", str(tmp_path / "proxy/tls.crt"), "--key", str(tmp_path / "proxy/tls.key")]):
            asked = subprocess.run(
                ["curl", "-ksS", "--http2", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", *credentials, address],
                capture_output=True,
                text=True,
                check=False,
            )
            assert asked.stdout == "000", (name, asked.stdout)
        with socket.create_connection(("127.0.0.1", split.ports[name]), 5) as plain:
            plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
            plain.settimeout(5)
            assert not plain.recv(64).startswith(b"\0\0"), f"{name} speaks in clear"


class AlwaysYes:
    """An authorizer that lets everybody in."""

    def __init__(self) -> None:
        self.asked = 0

    def check(self, data: bytes, *, traceparent: bytes = b"") -> bytes:
        del traceparent
        return self.overloaded(data)

    def overloaded(self, data: bytes) -> bytes:
        del data
        self.asked += 1
        return CheckResponse(status={}, ok_response={}).SerializeToString()


SERVED = {
    # What listens → whose certificates are served there. Which method is for whom is tested with each servicer.
    "databroker": {"authenticate", "authorize", "proxy", "directory", "operator"},
    "authorize": {"proxy", "gateway/edge"},
    "authorize_services": {"operator", "proxy", "gateway/edge"},
    "authenticate": {"proxy"},
    "directory": {"operator"},
}


@contextmanager
def directory_worker(split: Split) -> Iterator[Address]:
    """A worker for directories, which not every deployment has, and where it serves."""
    name, address = "directory", Address(host="127.0.0.1", port=free_port())
    described = {
        "id": "pushed", "type": "scim", "identity_provider": "demo", "join": "sub", "tokens": ["file:../scim-token"],
    }  # fmt: skip
    document = split.document(name)
    document["planes"]["directory"] = [str(address)]
    document |= {"directories": [described], "scim": {"listen": f"127.0.0.1:{free_port()}"}}
    (split.folder / "scim-token").write_text("a-scim-token-of-good-length")
    split.config_of(name).parent.mkdir()
    split.config_of(name).write_text(yaml.safe_dump(document))
    export_plane(name, split.folder / "master", split.folder / name / "data")
    process = split.make(name)
    try:
        process.start()
        yield address
    finally:
        process.end()
        del split.processes[name]


async def test_s90_every_service_for_every_certificate(split: Split):
    """A service or a plane without a row is a failure; the sign-in pages are HTTP, and for proxies alone as well."""
    places = {service: parse_address(found[0]) for service, found in split.planes().items()}
    split.keys("gateway", "edge")
    with directory_worker(split) as places["directory"]:
        assert SERVED.keys() == PlanesDocument.model_fields.keys() - {"authenticate_pages"}
        await _served_as_listed(split, places)


async def _served_as_listed(split: Split, places: dict[str, Address | None]) -> None:
    for service, expected in SERVED.items():
        address = places[service]
        assert address is not None
        served = set()
        for name in (*Plane, "gateway/edge"):
            identity = PlaneIdentity(split.folder / "master" / "planes" / name, name, SystemClock())
            plane = Plane(service.removesuffix("_services"))
            code = grpc.StatusCode.OK
            async with open_channel((address,), plane, identity) as channel:
                try:
                    await HealthStub(channel).Check(HealthCheckRequest(), timeout=10)
                except grpc.aio.AioRpcError as error:
                    code = error.code()
            if code is grpc.StatusCode.OK:
                served.add(str(name))
                continue
            # Where Envoy asks, others are hung up on; elsewhere they are told.
            hung_up = service == "authorize"
            assert code is (grpc.StatusCode.UNAVAILABLE if hung_up else grpc.StatusCode.PERMISSION_DENIED), (
                service,
                name,
            )
        assert served == expected, service


async def test_s77_envoy_believes_nobody_who_is_no_authorizer(split: Split):
    """Whoever has broken into another plane has its certificate, and may take an authorizer's address."""
    victim = split.processes["authorize-2"]
    victim.end()
    address = Address(host="127.0.0.1", port=split.ports["authorize-2"])
    try:
        for name, plane in (("databroker", Plane.DATABROKER), ("authorize-2", Plane.AUTHORIZE)):
            identity = PlaneIdentity(split.folder / name / "data" / "planes" / plane, plane, SystemClock())
            stranger = AlwaysYes()
            server = GrpcServer(check_methods(stranger, lambda: True), admits=admitted([Plane.PROXY]))
            await listen(server, address, identity)
            refused = _refusals(split)
            if plane is Plane.DATABROKER:
                await asyncio.to_thread(
                    wait_for, lambda before=refused: _refusals(split) > before, 10, what="Envoy's refusal"
                )
                assert {await asyncio.to_thread(get, split, 1, "closed") for _ in range(10)} == {401}
                assert stranger.asked == 0
            else:
                # What makes the difference is the name in the certificate.
                await asyncio.to_thread(wait_for, lambda: get(split, 1, "closed") == 200, 10, what="a yes")
                assert _refusals(split) == refused
            await server.drain(0)
    finally:
        await asyncio.to_thread(victim.start)
    split.wait_until_both_serve()


def _refusals(split: Split) -> int:
    return split.envoy_stat("proxy-1", "cluster.doorward-authorize.ssl.fail_verify_san")


class _Clock:
    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


def foreign_life():
    import datetime as dt

    return dt.timedelta(days=1)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda made: _as(made, "authorize"), "the plane `authorize`, and this is `databroker`"),
        (lambda made: _expired(made), "expired at"),
        (lambda made: (made / "ca.crt").unlink(), "ca.crt"),
        (lambda made: (made / "tls.key").chmod(0o644), "others may read"),
    ],
    ids=["another plane's", "expired", "no authorities", "readable"],
)
def test_a_plane_with_a_bad_certificate_says_so_and_listens_nowhere(split: Split, tmp_path: Path, spoil, said: str):
    folder = tmp_path / "data"
    split.keys("export", "databroker", str(folder))
    spoil(folder / "planes" / "databroker")
    split.write()
    result = subprocess.run(
        [
            *(sys.executable, "-m", "doorward.cli.app", "serve", "databroker"),
            *("--config", str(split.config_of("databroker")), "--data", str(folder), "--run-dir", str(tmp_path / "r")),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode != 0
    assert said in result.stdout + result.stderr


def _as(made: Path, plane: str) -> None:
    source = made.parent.parent.parent / plane
    authority = PlaneAuthority(source, _Clock())
    authority.renew((plane,), foreign_life())
    for name in ("tls.crt", "tls.key", "ca.crt"):
        (made / name).write_bytes((source / plane / name).read_bytes())


def _expired(made: Path) -> None:
    from tests.support.planes import odd_certificate

    odd_certificate(made, made / "authority", [plane_uri("databroker")], now=time.time() - 7200)
