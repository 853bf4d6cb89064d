"""What a check costs: bare Envoy, Envoy with a fixed reply from C, with our authorizer, with the same behind grpcio, in one run.

One Envoy process with one thread and listeners that differ only in the check: none; an HTTP/2 server in C that answers every
call with the very CheckResponse that ours gives (the ceiling for any authorizer that says the same), or with an empty one; our authorizer with a real session behind a real
cookie; the same authorizer with grpcio's asynchronous server as its transport. `--front` says what the client speaks, several in turn. One more case is our authorizer over TCP with mutual TLS, as
between machines, instead of a Unix socket. Requests per second come from a closed loop (h2load), added latency from a fixed rate.
CPU is read per process over the closed loop. Run by ``make bench``.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any as Json

import grpc
import httpx
import psutil
import yaml
from envoy_cases import (
    CHECK_PATH,
    FRONTS,
    Case,
    Front,
    answers,
    closed_loop,
    cluster,
    envoy_process,
    fixed_rate,
    fixed_reply,
    loopback,
    pipe,
    static_server,
)
from tests.support.deployment import Running, free_port, short_folder, start, wait_for
from tests.support.http_client import BrowserlessClient

from doorward.cli.keys import export_plane, init_keys
from doorward.config.endpoints import LocalEndpoints
from doorward.config.load import load_settings
from doorward.envoy_api.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse, OkHttpResponse
from doorward.keys.plane_authority import AUTHORITIES_FILE, CERTIFICATE_FILE, KEY_FILE, plane_host, plane_uri
from doorward.route.internal import CLIENT_ADDRESS_HEADER
from doorward.rpc.planes import Plane


def main() -> None:
    """Measure and print; the last line is JSON."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=int, default=8, help="closed loop, each case")
    arguments.add_argument("--rate", type=int, default=500, help="requests per second of the fixed-rate part")
    arguments.add_argument("--rounds", type=int, default=3, help="how often the cases take turns")
    arguments.add_argument(
        "--workers",
        type=int,
        choices=(1, 2),
        default=1,
        help="2: one more case, with a second authorizer beside the first",
    )
    arguments.add_argument(
        "--front", nargs="+", choices=sorted(FRONTS), default=["h1"], help="HTTP version and TLS in front of Envoy"
    )
    options = arguments.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(short_folder())
        running = start(["demo", "--port", "0"], folder / "data")
        stack.callback(running.stop)
        report = measure(stack, folder, running, options)
    print(json.dumps(report))


def measure(stack: ExitStack, folder: Path, running: Running, options: argparse.Namespace) -> dict[str, Json]:
    """Drive the cases with each front in turn; the first one's figures stand on top."""
    cookie, context = sign_in(running)
    upstream, ceiling, empty, apart = free_port(), free_port(), free_port(), free_port()
    stack.enter_context(static_server(folder / "upstream", "/", b"ok\n", upstream))
    check_socket = next(Path(c.laddr) for c in sockets_of(running) if Path(c.laddr).name == "check.0.sock")
    run_dir = check_socket.parent
    nothing = CheckResponse(ok_response=OkHttpResponse()).SerializeToString()
    processes = {
        "ceiling": stack.enter_context(
            fixed_reply(folder / "ceiling", our_answer(check_socket, cookie, context), ceiling)
        ),
        "empty": stack.enter_context(fixed_reply(folder / "empty", nothing, empty)),
        "grpcio": stack.enter_context(grpcio_checks(running, run_dir, folder / "grpcio.log")),
        "mtls": stack.enter_context(authorizer_apart(running, run_dir, folder / "apart", apart)),
    }
    clusters = [
        cluster("upstream", [loopback(upstream)]),
        cluster("ceiling", [loopback(ceiling)]),
        cluster("empty", [loopback(empty)]),
        cluster("doorward", [pipe(check_socket)]),
        cluster("grpcio", [pipe(run_dir / "check.grpcio.9.sock")]),
        cluster("mtls", [loopback(apart)], between_planes(folder / "apart" / "proxy")),
    ]
    checkers = {name: [psutil.Process(process.pid)] for name, process in processes.items()}
    checkers |= {"bare": [], "doorward": [running.member("authorize")]}
    order = ["bare", "ceiling", "empty", "doorward", "mtls", "grpcio"]
    if options.workers == 2:
        second = stack.enter_context(second_worker(running, run_dir, folder / "second.log"))
        clusters.append(cluster("two", [pipe(check_socket), pipe(run_dir / "check.1.sock")]))
        checkers["two"] = [running.member("authorize"), psutil.Process(second.pid)]
        order.append("two")
    reports: dict[str, dict[str, Json]] = {}
    for name in options.front:
        front = Front(name, running)
        cases = [Case(case, free_port(), checkers[case]) for case in order]
        with envoy_process(folder, cases, clusters, context, front) as envoy:
            for case in cases:
                wait_for(partial(answers, case.port, cookie, front), 20, what=f"the listener `{case.name}`")
            reports[name] = driven(cases, envoy, cookie, front, options)
    report = {**reports[options.front[0]], "rate": options.rate, "front": options.front[0]}
    if len(reports) > 1:
        report["fronts"] = reports
    return report


def driven(
    cases: list[Case], envoy: psutil.Process, cookie: str, front: Front, options: argparse.Namespace
) -> dict[str, Json]:
    """The figures of all cases with one front."""
    figures: dict[str, list[dict[str, float]]] = {case.name: [] for case in cases}
    for _ in range(options.rounds):
        for case in cases:
            figures[case.name].append(closed_loop(case, envoy, cookie, options.seconds, front))
    best = {name: max(rows, key=lambda row: row["rps"]) for name, rows in figures.items()}
    latency = {case.name: fixed_rate(case, cookie, options.rate, options.seconds, front) for case in cases}
    print(f"{front.name + ' front':10} {'req/s':>8} {'envoy µs':>9} {'check µs':>9} {'p50 ms':>8} {'p99 ms':>8}")
    for case in cases:
        row, times = best[case.name], latency[case.name]
        print(
            f"{case.name:10} {row['rps']:8.0f} {row['envoy_us']:9.0f} {row['check_us']:9.0f} "
            f"{times['p50_ms']:8.2f} {times['p99_ms']:8.2f}"
        )

    def ratio(name: str, to: str) -> float:
        """The median over the rounds: both took their turn in each."""
        pairs = zip(figures[name], figures[to], strict=True)
        return round(statistics.median(one["rps"] / other["rps"] for one, other in pairs), 3)

    two = {"ratio_two_workers": ratio("two", "doorward")} if "two" in best else {}
    return {
        **two,
        "bare_rps": round(best["bare"]["rps"]),
        "ceiling_rps": round(best["ceiling"]["rps"]),
        "doorward_rps": round(best["doorward"]["rps"]),
        "ratio_to_bare": ratio("doorward", "bare"),
        "ratio_to_ceiling": ratio("doorward", "ceiling"),
        "ratio_to_empty": ratio("doorward", "empty"),
        "cpu_us_check": round(best["doorward"]["check_us"], 1),
        "cpu_us_check_grpcio": round(best["grpcio"]["check_us"], 1),
        "cpu_ratio_to_grpcio": round(best["doorward"]["check_us"] / best["grpcio"]["check_us"], 3),
        "grpcio_rps": round(best["grpcio"]["rps"]),
        "mtls_rps": round(best["mtls"]["rps"]),
        "ratio_mtls_to_socket": ratio("mtls", "doorward"),
        "cpu_us_check_mtls": round(best["mtls"]["check_us"], 1),
        "cpu_us_ceiling": round(best["ceiling"]["check_us"], 1),
        "cpu_us_envoy": {name: round(row["envoy_us"], 1) for name, row in best.items()},
        "added_p50_ms": round(latency["doorward"]["p50_ms"] - latency["bare"]["p50_ms"], 3),
        "added_p99_ms": round(latency["doorward"]["p99_ms"] - latency["bare"]["p99_ms"], 3),
    }


def grpcio_checks(running: Running, run_dir: Path, log: Path) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """Another authorizer of the same deployment, on grpcio."""
    script = str(Path(__file__).with_name("grpcio_checks.py"))
    command = [sys.executable, script, str(running.data / "demo.yaml"), str(running.data), str(run_dir)]
    return another_authorizer(command, run_dir / "check.grpcio.9.sock", log)


@contextmanager
def second_worker(running: Running, run_dir: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A second authorizer as ``doorward run`` starts it with `authorize.workers: 2`, ready to decide."""
    command = [sys.executable, "-m", "doorward.cli.app", "serve", "authorize", "--worker", "1"]
    command += ["--config", str(running.data / "demo.yaml"), "--data", str(running.data), "--run-dir", str(run_dir)]
    probes = LocalEndpoints(run_dir).probes(Plane.AUTHORIZE, 1)  # the last that it opens
    transport = httpx.HTTPTransport(uds=str(probes))
    with another_authorizer(command, probes, log) as process, httpx.Client(transport=transport) as http:
        # Until it has its snapshot it hands checks on.
        wait_for(lambda: http.get("http://authorize/readyz").is_success, 20, what="the second authorizer")
        yield process


@contextmanager
def another_authorizer(command: list[str], socket: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that answers checks on ``socket``."""
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        wait_for(lambda: socket.exists() or process.poll() is not None, 120, what=f"an authorizer at {socket.name}")
        if not socket.exists():
            raise SystemExit(f"an authorizer ended:\n{log.read_text()}")
        yield process
    finally:
        process.terminate()
        process.wait()


@contextmanager
def authorizer_apart(running: Running, run_dir: Path, folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """An authorizer that answers at a TCP address with mutual TLS, as it does where the planes are apart; its records come as before."""
    master = running.data
    folder.mkdir()
    with redirect_stdout(sys.stderr):
        init_keys(master, planes=True, life="30d")
        for plane in ("authorize", "proxy"):
            export_plane(plane, master, folder / plane)
    document = yaml.safe_load((master / "demo.yaml").read_text())
    document["planes"] = {"authorize": [f"127.0.0.1:{port}"]}
    document["decision_log"] = {"file": str(folder / "decisions.jsonl")}
    config = master / "apart.yaml"  # beside the files that it names
    config.write_text(yaml.safe_dump(document))
    command = [sys.executable, "-m", "doorward.cli.app", "serve", "authorize", "--worker", "7"]
    command += ["--config", str(config), "--data", str(folder / "authorize"), "--run-dir", str(run_dir)]
    with another_authorizer(command, run_dir / "authorize.7.sock", folder / "log") as process:
        yield process


def between_planes(folder: Path) -> dict[str, Json]:
    """How Envoy proves that it is a proxy, and finds out that it speaks with an authorizer."""
    own = folder / "planes" / "proxy"
    name = {"san_type": "URI", "matcher": {"exact": plane_uri("authorize")}}
    return {
        "name": "tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": plane_host("authorize"),
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
                "tls_certificates": [
                    {
                        "certificate_chain": {"filename": str(own / CERTIFICATE_FILE)},
                        "private_key": {"filename": str(own / KEY_FILE)},
                    }
                ],
                "validation_context": {
                    "trusted_ca": {"filename": str(own / AUTHORITIES_FILE)},
                    "match_typed_subject_alt_names": [name],
                },
            },
        },
    }


def sign_in(running: Running) -> tuple[str, dict[str, str]]:
    """Alice's cookie for the route `verify`, and what Envoy tells the authorizer about that route."""
    client = BrowserlessClient(running.ca_file)
    url = running.ready["urls"]["verify"]
    person = running.ready["users"][0]
    client.sign_in(f"{url}/", person["email"], person["password"])
    route = next(item.route for item in load_settings(running.data / "demo.yaml").routes if item.route.id == "verify")
    cookie = f"__Host-doorward={client.cookie(route.host, '__Host-doorward')}"
    return cookie, {"route": route.id, "digest": route.digest, "host": route.host}


def sockets_of(running: Running) -> list[Json]:
    """The Unix sockets on which the authorizer listens."""
    return [c for c in running.member("authorize").net_connections("unix") if c.laddr]


def check_request(cookie: str, context: dict[str, str]) -> bytes:
    """What Envoy asks about the request that is measured."""
    request = CheckRequest()
    http = request.attributes.request.http
    http.method, http.path = "GET", "/"
    http.header_map.headers.add(key="cookie", raw_value=cookie.encode())
    http.header_map.headers.add(key=CLIENT_ADDRESS_HEADER, raw_value=b"127.0.0.1")
    request.attributes.context_extensions.update(context)
    return request.SerializeToString()


def our_answer(check_socket: Path, cookie: str, context: dict[str, str]) -> bytes:
    """What our authorizer says to it: the ceiling says the same, and decides nothing."""
    options = [("grpc.default_authority", "localhost")]
    with grpc.insecure_channel(f"unix:{check_socket}", options=options) as channel:
        answer: bytes = channel.unary_unary("/" + CHECK_PATH)(check_request(cookie, context), timeout=5)
    assert CheckResponse.FromString(answer).HasField("ok_response")
    return answer


if __name__ == "__main__":
    main()
