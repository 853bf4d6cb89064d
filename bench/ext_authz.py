"""What a check costs: bare Envoy, Envoy with a fixed reply from C, with our authorizer, with the same behind grpcio, in one run.

One Envoy process with one thread and listeners that differ only in the check: none; an HTTP/2 server in C that answers every
call with the very CheckResponse that ours gives (the ceiling for any authorizer that says the same), or with an empty one; our authorizer with a real session behind a real
cookie; the same authorizer with grpcio's asynchronous server as its transport. `--front` says what the client speaks. Requests per second come from a closed loop (h2load), added latency from a fixed rate.
CPU is read per process over the closed loop. Run by ``make bench``.
"""

import argparse
import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any as Json

import grpc
import psutil
from google.protobuf.any_pb2 import Any
from google.protobuf.json_format import MessageToDict
from tests.support.deployment import Running, free_port, short_folder, start, wait_for
from tests.support.http_client import BrowserlessClient

from doorward.clock import SystemClock
from doorward.config.load import load_settings
from doorward.envoy_api.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse, OkHttpResponse
from doorward.keys.local_authority import LocalAuthority
from doorward.route.internal import CLIENT_ADDRESS_HEADER
from doorward_proxy.envoy.binary import find_envoy
from doorward_proxy.resources.http_filters import check

CHECK_PATH = "envoy.service.auth.v3.Authorization/Check"
CONNECTIONS = 32
FRONTS = {
    "h1": ("HTTP1", False, ["--h1"]),
    "h2": ("HTTP2", False, ["-m", "4"]),
    "h1-tls": ("HTTP1", True, ["--h1"]),
    "h2-tls": ("HTTP2", True, ["-m", "4"]),
}
"""Envoy's codec, TLS, and h2load's flags."""
HTTP2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}


@dataclass
class Case:
    """One listener and the processes whose CPU belongs to its check."""

    name: str
    port: int
    checker: list[psutil.Process]


def main() -> None:
    """Measure and print; the last line is JSON."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=int, default=8, help="closed loop, each case")
    arguments.add_argument("--rate", type=int, default=500, help="requests per second of the fixed-rate part")
    arguments.add_argument("--rounds", type=int, default=2, help="how often the cases take turns")
    arguments.add_argument(
        "--workers",
        type=int,
        choices=(1, 2),
        default=1,
        help="2: one more case, with a second authorizer beside the first",
    )
    arguments.add_argument(
        "--front", choices=sorted(FRONTS), default="h1", help="HTTP version and TLS in front of Envoy"
    )
    options = arguments.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(short_folder())
        running = start(["demo", "--port", "0"], folder / "data")
        stack.callback(running.stop)
        report = measure(stack, folder, running, options)
    print(json.dumps(report))


def measure(stack: ExitStack, folder: Path, running: Running, options: argparse.Namespace) -> dict[str, Json]:
    """Drive the cases in turn and return the figures."""
    seconds, rate, rounds = options.seconds, options.rate, options.rounds
    front = Front(options.front, running)
    cookie, context = sign_in(running)
    upstream_port, ceiling_port = free_port(), free_port()
    stack.enter_context(static_server(folder / "upstream", "/", b"ok\n", upstream_port))
    empty_port = free_port()
    check_socket = next(Path(c.laddr) for c in sockets_of(running) if Path(c.laddr).name == "check.0.sock")
    empty = stack.enter_context(
        fixed_reply(folder / "empty", CheckResponse(ok_response=OkHttpResponse()).SerializeToString(), empty_port)
    )
    ours = our_answer(check_socket, cookie, context)
    ceiling = stack.enter_context(fixed_reply(folder / "ceiling", ours, ceiling_port))
    grpcio = stack.enter_context(grpcio_checks(running, check_socket.parent, folder / "grpcio.log"))
    cases = [
        Case("bare", free_port(), []),
        Case("ceiling", free_port(), [psutil.Process(ceiling.pid)]),
        Case("empty", free_port(), [psutil.Process(empty.pid)]),
        Case("doorward", free_port(), [running.member("authorize")]),
        Case("grpcio", free_port(), [psutil.Process(grpcio.pid)]),
    ]
    if options.workers == 2:
        second = stack.enter_context(second_worker(running, check_socket.parent, folder / "second.log"))
        cases.append(Case("two", free_port(), [running.member("authorize"), psutil.Process(second.pid)]))
    envoy = stack.enter_context(
        envoy_process(folder, cases, (upstream_port, ceiling_port, empty_port), check_socket, context, front)
    )
    for case in cases:
        wait_for(lambda case=case: answers(case.port, cookie, front), 20, what=f"the listener `{case.name}`")
    figures: dict[str, list[dict[str, float]]] = {case.name: [] for case in cases}
    for _ in range(rounds):
        for case in cases:
            figures[case.name].append(closed_loop(case, envoy, cookie, seconds, front))
    best = {name: max(rows, key=lambda row: row["rps"]) for name, rows in figures.items()}
    latency = {case.name: fixed_rate(case, cookie, rate, seconds, front) for case in cases}
    print(f"{'case':10} {'req/s':>8} {'envoy µs':>9} {'check µs':>9} {'p50 ms':>8} {'p99 ms':>8}")
    for case in cases:
        row, times = best[case.name], latency[case.name]
        print(
            f"{case.name:10} {row['rps']:8.0f} {row['envoy_us']:9.0f} {row['check_us']:9.0f} "
            f"{times['p50_ms']:8.2f} {times['p99_ms']:8.2f}"
        )

    def ratio_to(name: str) -> float:
        """The median over the rounds: both took their turn in each."""
        pairs = zip(figures["doorward"], figures[name], strict=True)
        return round(statistics.median(ours["rps"] / other["rps"] for ours, other in pairs), 3)

    two = {"ratio_two_workers": round(best["two"]["rps"] / best["doorward"]["rps"], 3)} if "two" in best else {}
    return {
        **two,
        "bare_rps": round(best["bare"]["rps"]),
        "ceiling_rps": round(best["ceiling"]["rps"]),
        "doorward_rps": round(best["doorward"]["rps"]),
        "ratio_to_bare": ratio_to("bare"),
        "ratio_to_ceiling": ratio_to("ceiling"),
        "ratio_to_empty": ratio_to("empty"),
        "cpu_us_check": round(best["doorward"]["check_us"], 1),
        "cpu_us_check_grpcio": round(best["grpcio"]["check_us"], 1),
        "cpu_ratio_to_grpcio": round(best["doorward"]["check_us"] / best["grpcio"]["check_us"], 3),
        "grpcio_rps": round(best["grpcio"]["rps"]),
        "cpu_us_ceiling": round(best["ceiling"]["check_us"], 1),
        "cpu_us_envoy": {name: round(row["envoy_us"], 1) for name, row in best.items()},
        "added_p50_ms": round(latency["doorward"]["p50_ms"] - latency["bare"]["p50_ms"], 3),
        "added_p99_ms": round(latency["doorward"]["p99_ms"] - latency["bare"]["p99_ms"], 3),
        "rate": rate,
        "front": options.front,
    }


class Front:
    """What the client speaks, and the certificate for it."""

    def __init__(self, name: str, running: Running) -> None:
        self.codec, self.tls, self.flags = FRONTS[name]
        self.scheme = "https" if self.tls else "http"
        self.pair = LocalAuthority(running.data / "certificates", SystemClock()).certificate_for(["localhost"])

    def transport_socket(self) -> dict[str, Json]:
        """The listener's TLS, with the deployment's own certificate."""
        if not self.tls:
            return {}
        pair = {
            "certificate_chain": {"inline_string": self.pair.certificate_pem.decode()},
            "private_key": {"inline_string": self.pair.key_pem.decode()},
        }
        context = {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "tls_certificates": [pair],
                "alpn_protocols": ["http/1.1" if self.codec == "HTTP1" else "h2"],
            },
        }
        return {"transport_socket": {"name": "tls", "typed_config": context}}


def grpcio_checks(running: Running, run_dir: Path, log: Path) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """Another authorizer of the same deployment, on grpcio."""
    script = str(Path(__file__).with_name("grpcio_checks.py"))
    command = [sys.executable, script, str(running.data / "demo.yaml"), str(running.data), str(run_dir)]
    return another_authorizer(command, run_dir / "check.grpcio.9.sock", log)


def second_worker(running: Running, run_dir: Path, log: Path) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """A second authorizer as ``doorward run`` starts it with `authorize.workers: 2`."""
    command = [sys.executable, "-m", "doorward.cli.app", "serve", "authorize", "--worker", "1"]
    command += ["--config", str(running.data / "demo.yaml"), "--data", str(running.data), "--run-dir", str(run_dir)]
    return another_authorizer(command, run_dir / "check.1.sock", log)


@contextmanager
def another_authorizer(command: list[str], socket: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that answers checks on ``socket``."""
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        wait_for(lambda: socket.exists() or process.poll() is not None, 30, what=f"an authorizer at {socket.name}")
        if not socket.exists():
            raise SystemExit(f"an authorizer ended:\n{log.read_text()}")
        yield process
    finally:
        process.terminate()
        process.wait()


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


def fixed_reply(folder: Path, body: bytes, port: int) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """A server in C that answers every check with ``body``."""
    return static_server(folder, CHECK_PATH, b"\0" + len(body).to_bytes(4, "big") + body, port, grpc=True)


@contextmanager
def static_server(
    folder: Path, name: str, content: bytes, port: int, *, grpc: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """nghttpd serving one file in clear-text HTTP/2; with gRPC's trailer when asked for."""
    target = folder / ("index.html" if name == "/" else name)
    target.parent.mkdir(parents=True)
    target.write_bytes(content)
    program = shutil.which("nghttpd") or "/usr/sbin/nghttpd"
    command = [program, "--no-tls", "-d", str(folder), "-a", "127.0.0.1", str(port)]
    if grpc:
        command[1:1] = ["--trailer", "grpc-status: 0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@contextmanager
def envoy_process(
    folder: Path,
    cases: list[Case],
    ports: tuple[int, int, int],
    check_socket: Path,
    context: dict[str, str],
    front: Front,
) -> Iterator[psutil.Process]:
    """One Envoy with one thread and a listener for each case."""

    def pipe(name: str) -> dict[str, Json]:
        return {"pipe": {"path": str(check_socket.with_name(name))}}

    config = {
        "static_resources": {
            "listeners": [listener(case, context, front) for case in cases],
            "clusters": [
                *(
                    cluster(name, [{"socket_address": {"address": "127.0.0.1", "port_value": port}}])
                    for name, port in zip(("upstream", "ceiling", "empty"), ports, strict=True)
                ),
                cluster("doorward", [pipe("check.0.sock")]),
                cluster("two", [pipe("check.0.sock"), pipe("check.1.sock")]),
                cluster("grpcio", [pipe("check.grpcio.9.sock")]),
            ],
        }
    }
    path = folder / "envoy.json"
    path.write_text(json.dumps(config))
    command = [
        str(find_envoy(None)), "-c", str(path), "--concurrency", "1", "--log-level", "error",
        "--disable-hot-restart",
    ]  # fmt: skip
    with (folder / "envoy.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def cluster(name: str, addresses: list[dict[str, Json]]) -> dict[str, Json]:
    """A cluster whose endpoints speak HTTP/2 in clear text."""
    thresholds = {"max_requests": 100000, "max_pending_requests": 100000, "max_retries": 1000}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": {"thresholds": [thresholds]},
        "typed_extension_protocol_options": HTTP2,
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}} for address in addresses]}],
        },
    }


def listener(case: Case, context: dict[str, str], front: Front) -> dict[str, Json]:
    """A plaintext listener; the check goes to the cluster of the case's name."""
    prefix = "type.googleapis.com/envoy.extensions.filters"
    filters: list[dict[str, Json]] = [{"name": "router", "typed_config": {"@type": f"{prefix}.http.router.v3.Router"}}]
    address = {"key": CLIENT_ADDRESS_HEADER, "value": "127.0.0.1"}
    route: dict[str, Json] = {"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}
    if case.name != "bare":
        asked = Any()
        config = check()
        config.grpc_service.envoy_grpc.cluster_name = case.name
        asked.Pack(config)
        filters.insert(
            0,
            {
                "name": "check",
                # As the proxy plane configures it, but for where it asks.
                "typed_config": MessageToDict(asked, preserving_proto_field_name=True),
            },
        )
        route["typed_per_filter_config"] = {
            "check": {
                "@type": f"{prefix}.http.ext_authz.v3.ExtAuthzPerRoute",
                "check_settings": {"context_extensions": context},
            }
        }
    return {
        "name": case.name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": case.port}},
        "filter_chains": [
            {
                **front.transport_socket(),
                "filters": [
                    {
                        "name": "http",
                        "typed_config": {
                            "@type": f"{prefix}.network.http_connection_manager.v3.HttpConnectionManager",
                            "stat_prefix": case.name,
                            "codec_type": front.codec,
                            "early_header_mutation_extensions": [
                                {
                                    "name": "address",
                                    "typed_config": {
                                        "@type": "type.googleapis.com/envoy.extensions.http.early_header_mutation."
                                        "header_mutation.v3.HeaderMutation",
                                        "mutations": [{"append": {"header": address}}],
                                    },
                                }
                            ],
                            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
                            "http_filters": filters,
                        },
                    }
                ],
            }
        ],
    }


def answers(port: int, cookie: str, front: Front) -> bool:
    """Whether the listener lets a signed-in request through."""
    version = "--http2-prior-knowledge" if front.codec == "HTTP2" and not front.tls else "--compressed"
    command = ["curl", "-sk", version, "-o", "/dev/null", "-w", "%{http_code}", "-H", f"cookie: {cookie}"]
    result = subprocess.run(
        [*command, f"{front.scheme}://127.0.0.1:{port}/"], capture_output=True, text=True, check=False
    )
    return result.stdout == "200"


def closed_loop(case: Case, envoy: psutil.Process, cookie: str, seconds: int, front: Front) -> dict[str, float]:
    """Requests per second and CPU per request, with every connection always waiting for one answer."""
    before = cpu(envoy), sum(map(cpu, case.checker))
    output = load(case.port, cookie, front, ["-D", str(seconds), "--warm-up-time=1"])
    after = cpu(envoy), sum(map(cpu, case.checker))
    line = next(line for line in output.splitlines() if line.startswith("requests:"))
    total = int(line.split()[1])
    status = next(line for line in output.splitlines() if line.startswith("status codes:"))
    good = int(status.split()[2])
    if good < total * 0.999:  # h2load counts answers of 5xx as failed
        told = f"{case.name}: not every request passed: {line}; {status}"
        if case.name != "grpcio":  # which does not keep up with many requests at once; its figures are then too good
            raise SystemExit(told)
        print(told)
    # CPU was also spent in the warm-up second, whose requests h2load does not count.
    counted = total * (seconds + 1) / seconds
    return {
        "rps": total / seconds,
        "envoy_us": (after[0] - before[0]) / counted * 1e6,
        "check_us": (after[1] - before[1]) / counted * 1e6,
    }


def fixed_rate(case: Case, cookie: str, rate: int, seconds: int, front: Front) -> dict[str, float]:
    """Latency at a rate that nobody is busy at."""
    with tempfile.NamedTemporaryFile("r", suffix=".log") as log:
        clients = 8
        load(
            case.port,
            cookie,
            front,
            ["-n", str(rate * seconds), f"--rps={rate / clients}", f"--log-file={log.name}"],
            connections=clients,
        )
        times = sorted(int(line.split("\t")[2]) for line in log if "\t" in line)
    if not times:
        raise SystemExit(f"{case.name}: the load generator logged nothing")
    return {"p50_ms": times[len(times) // 2] / 1e3, "p99_ms": times[int(len(times) * 0.99)] / 1e3}


def load(port: int, cookie: str, front: Front, arguments: list[str], *, connections: int = CONNECTIONS) -> str:
    """Run h2load and return what it printed."""
    command = ["h2load", *front.flags, "-t", "1", "-c", str(connections), "-H", f"cookie: {cookie}", *arguments]
    result = subprocess.run(
        [*command, f"{front.scheme}://127.0.0.1:{port}/"], capture_output=True, text=True, check=True
    )
    return result.stdout


def cpu(process: psutil.Process) -> float:
    """Seconds of processor time so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
