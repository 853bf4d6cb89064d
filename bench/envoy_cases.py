"""One Envoy with a listener for each case that is compared, and the load on it: what `ext_authz.py`, `open_loop.py` and `kills.py` share."""

import json
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any as Json

import psutil
from google.protobuf.any_pb2 import Any
from google.protobuf.json_format import MessageToDict
from tests.support.deployment import Running

from doorward.clock import SystemClock
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


class Front:
    """What the client speaks, and the certificate for it."""

    def __init__(self, name: str, running: Running) -> None:
        self.name = name
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
    clusters: list[dict[str, Json]],
    context: dict[str, str],
    front: Front,
) -> Iterator[psutil.Process]:
    """One Envoy with one thread and a listener for each case."""

    config = {
        "static_resources": {
            "listeners": [listener(case, context, front) for case in cases],
            "clusters": clusters,
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


def loopback(port: int) -> dict[str, Json]:
    """An endpoint's address."""
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def pipe(socket: Path) -> dict[str, Json]:
    """An endpoint's address."""
    return {"pipe": {"path": str(socket)}}


def cluster(name: str, addresses: list[dict[str, Json]], tls: dict[str, Json] | None = None) -> dict[str, Json]:
    """A cluster whose endpoints speak HTTP/2, in clear text or within ``tls``."""
    thresholds = {"max_requests": 100000, "max_pending_requests": 100000, "max_retries": 1000}
    return {
        **({"transport_socket": tls} if tls is not None else {}),
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
