"""The split deployment as an operator runs it: every plane its own process, its own data folder and its own certificate."""

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
import yaml
from tests.support.deployment import free_port, wait_for
from tests.support.events import EVENTS
from tests.support.http_client import BrowserlessClient
from tests.support.redis_server import RedisServer, redis_server
from tests.support.site import SECRET

from doorward.cli.keys import export_plane
from doorward.clock import SystemClock
from doorward.keys.local_authority import LocalAuthority
from doorward.keys.plane_authority import open_authority

START_SECONDS = 60.0
PLANES = ("databroker", "authenticate", "authorize", "proxy")


@dataclass
class Process:
    """One plane's process."""

    name: str
    command: list[str]
    log: Path
    environment: dict[str, str]
    inside: Callable[[], AbstractContextManager[object]] = nullcontext
    """Where it runs."""
    popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and return once the process has said that it serves."""
        reading, writing = os.pipe()
        with self.log.open("a") as log, self.inside():
            self.popen = subprocess.Popen(
                [*self.command, "--ready-fd", str(writing)],
                stdout=log,
                stderr=log,
                pass_fds=[writing],
                env=self.environment,
                start_new_session=True,
            )
        os.close(writing)
        with os.fdopen(reading, "rb") as ready:
            line = ready.readline()
        if not line:
            raise RuntimeError(f"{self.name} did not start: {self.log.read_text()[-3000:]}")

    def kill(self) -> None:
        """End it without warning, Envoy beside it included."""
        self.end(signal.SIGKILL)

    def end(self, number: int = signal.SIGTERM) -> int | None:
        if self.popen is None:
            return None
        with suppress(ProcessLookupError):
            self.popen.send_signal(number)
        status = self.popen.wait(30)
        self.popen = None
        return status


@dataclass
class Split:
    """Two proxies, two authorizers, an authenticate plane and a databroker over one Redis."""

    folder: Path
    redis: RedisServer
    provider_port: int
    routes: list[dict[str, Any]]
    ports: dict[str, int]
    processes: dict[str, Process] = field(default_factory=dict)
    pythons: dict[str, str] = field(default_factory=dict)
    """Interpreters of processes of another version."""
    environment: dict[str, dict[str, str]] = field(default_factory=dict)
    """What is special in the environment of a process."""
    settings: dict[str, Any] = field(default_factory=dict)
    stores: dict[str, str] = field(default_factory=dict)
    """Where processes find the records, when not all at ``redis``."""

    @property
    def ca_file(self) -> Path:
        return self.folder / "public" / "authority.crt"

    @property
    def public_port(self) -> int:
        """The port in everybody's URLs: a balancer's, or the first proxy's."""
        return self.ports["public"]

    def url(self, name: str) -> str:
        return f"https://{name}.localhost:{self.public_port}"

    def config_of(self, process: str) -> Path:
        return self.folder / process / "doorward.yaml"

    def planes(self) -> dict[str, list[str]]:
        """Where each service answers."""
        ports = {
            "databroker": ["databroker"],
            "authorize": ["authorize-1", "authorize-2"],
            "authorize_services": ["services-1", "services-2"],
            "authenticate": ["authenticate"],
            "authenticate_pages": ["pages"],
        }
        return {service: [f"127.0.0.1:{self.ports[name]}" for name in names] for service, names in ports.items()}

    def listen(self, name: str) -> list[str]:
        """What the process ``name`` is told of where to listen, because several share an address here."""
        plane, _, number = name.partition("-")
        services = {
            "authorize": {"authorize": name, "authorize-services": f"services-{number}"},
            "proxy": {"public": name},
        }
        pairs = services.get(plane, {}).items()
        return [text for service, port in pairs for text in ("--listen", f"{service}=127.0.0.1:{self.ports[port]}")]

    def inside(self, name: str) -> AbstractContextManager[object]:
        """Where the process ``name`` runs."""
        del name
        return nullcontext()

    def document(self, process: str) -> dict[str, Any]:
        return {
            "version": 1,
            "listen": f"127.0.0.1:{self.public_port}",
            "authenticate_url": self.url("authenticate"),
            "tls": {"certificate": "../public/tls.crt", "key": "../public/tls.key"},
            "databroker": {"redis": self.stores.get(process, self.redis.url), **self.settings.get("databroker", {})},
            "planes": self.planes(),
            "identity_providers": [
                {
                    "id": "demo",
                    "issuer": f"http://localhost:{self.provider_port}",
                    "client_id": "site",
                    "client_secret": "file:../secret",
                    "scopes": ["openid", "email", "profile", "groups"],
                    "email_domains": ["example.com", "partner.example"],
                    "claims": {"groups": "groups"},
                }
            ],
            "decision_log": {"file": "decisions.jsonl"},
            "routes": [{**route, "from": self.url(route["from"])} for route in self.routes],
            **{name: value for name, value in self.settings.items() if name != "databroker"},
        }

    def write(self, *processes: str) -> None:
        """Write the configuration of these processes, or of all, whole or not at all."""
        for process in processes or self.names:
            path = self.config_of(process)
            path.parent.mkdir(exist_ok=True)
            scratch = path.with_suffix(".new")
            scratch.write_text(yaml.safe_dump(self.document(process)))
            scratch.replace(path)

    @property
    def names(self) -> Sequence[str]:
        return ("databroker", "authenticate", "authorize-1", "authorize-2", "proxy-1", "proxy-2", "operator")

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command of the operator."""
        command = [
            *(sys.executable, "-m", "doorward.cli.app", *arguments),
            *("--data", str(self.folder / "operator" / "data"), "--config", str(self.config_of("operator"))),
        ]
        with self.inside("operator"):
            return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def keys(self, *arguments: str) -> str:
        """A command on the folder that holds the authority."""
        return subprocess.run(
            [sys.executable, "-m", "doorward.cli.app", "keys", *arguments, "--data", str(self.folder / "master")],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout

    def give_out(self) -> None:
        """What an operator's secret store does: each plane's folder gets what that plane is entitled to."""
        with open_authority(self.folder / "master" / "planes", SystemClock()):
            for name in self.names:
                export_plane(name.split("-")[0], self.folder / "master", self.folder / name / "data")

    def rotate(self, purpose: str) -> str:
        """Do the next step of a rotation as soon as the planes have followed the last one, and give its files out."""
        command = [
            *(sys.executable, "-m", "doorward.cli.app", "keys", "rotate", purpose),
            *("--data", str(self.folder / "master"), "--config", str(self.config_of("operator"))),
        ]

        def step() -> str:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode in {0, 3}, done.stderr + done.stdout
            if done.returncode == 3:
                time.sleep(0.5)  # between two looks: each is a process, and what is measured meanwhile wants the cores
            return done.stdout if done.returncode == 0 else ""

        said = wait_for(step, 20, what=f"the next step of {purpose}")
        self.give_out()
        return said

    def keep_certificates(self, life: str) -> subprocess.Popen[bytes]:
        """Renew certificates as they become due, each in its plane's own folder."""
        planes = ",".join(f"{self.folder / name / 'data'}={name.split('-')[0]}" for name in self.names)
        command = [sys.executable, "-m", "tests.support.keeper", str(self.folder / "master"), life, planes]
        with (self.folder / "keeper.log").open("w") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, cwd=Path(__file__).parents[2])

    def make(self, name: str) -> Process:
        """The process ``name``, not started."""
        plane = name.split("-", maxsplit=1)[0]
        folder = self.folder / name
        command = [
            *(self.pythons.get(name, sys.executable), "-m", "doorward.cli.app", "serve", plane),
            *("--config", str(self.config_of(name)), "--data", str(folder / "data"), "--run-dir", str(folder / "run")),
            *self.listen(name),
        ]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        environment.update(self.environment.get(name, {}))
        inside = functools.partial(self.inside, name)
        self.processes[name] = Process(name, command, folder / "log", environment, inside)
        return self.processes[name]

    def start(self, *names: str) -> None:
        """Start these processes, or all, at once, and return when each has said that it serves."""
        processes = [self.processes.get(name) or self.make(name) for name in names or self.names if name != "operator"]
        with ThreadPoolExecutor(len(processes)) as pool:
            for started in [pool.submit(process.start) for process in processes]:
                started.result(START_SECONDS)

    def wait_until_both_serve(self) -> None:
        """Return once each Envoy takes two authorizers for healthy: one of them may be lost then."""
        healthy = "cluster.doorward-authorize.membership_healthy"
        for name in (name for name in self.names if name.startswith("proxy")):
            wait_for(lambda name=name: self.envoy_stat(name, healthy) == 2, 20, what=f"two authorizers at {name}")  # type: ignore[misc]

    def envoy_stat(self, proxy: str, name: str) -> int:
        """A number that the Envoy of ``proxy`` keeps."""
        transport = httpx.HTTPTransport(uds=str(self.folder / proxy / "run" / "envoy.admin.sock"))
        with httpx.Client(transport=transport) as admin:
            shown = admin.get(f"http://envoy/stats?filter=^{name}$").text
        return int(shown.rpartition(": ")[2] or 0)

    def client(self, proxy: int = 1) -> "SplitClient":
        return SplitClient(self, proxy)

    def stop(self) -> None:
        for process in self.processes.values():
            if process.popen is not None:
                with suppress(ProcessLookupError):
                    process.popen.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.end()
            except subprocess.TimeoutExpired:
                process.kill()


class SplitClient(BrowserlessClient):
    """A browser that a balancer has sent to one of the proxies."""

    def __init__(self, split: Split, proxy: int) -> None:
        super().__init__(split.ca_file)
        self._public = split.public_port
        self.port = split.ports[f"proxy-{proxy}"]

    def address(self, port: int) -> str:
        return f"127.0.0.1:{self.port if port == self._public else port}"


@dataclass
class Seen:
    """What a checking client saw."""

    answers: list[tuple[float, int, bool]] = field(default_factory=list)
    """When, which status, and whether that was an answer that must never be."""

    def between(self, start: float, end: float) -> Counter[int]:
        return Counter(status for moment, status, _ in self.answers if start <= moment <= end)

    @property
    def all(self) -> Counter[int]:
        return Counter(status for _, status, _ in self.answers)

    @property
    def wrong(self) -> list[tuple[float, int, bool]]:
        return [item for item in self.answers if item[2]]


LOST_SOCKETS = pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
"""For tests with a `Checker`: its HTTP client loses a socket whose peer is killed during the handshake."""


class Checker:
    """Asks all the time, through every proxy, as somebody who may and as somebody who may not, and checks every answer.

    A refusal where an allow belongs is counted; an allow where a refusal belongs is wrong, whatever else happens.
    """

    def __init__(self, split: Split, cookie: str, route: str = "closed") -> None:
        self.allowed = Seen()
        self.refused = Seen()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(split, proxy, route, value, seen), daemon=True)
            for proxy in (1, 2)
            for value, seen in ((cookie, self.allowed), ("", self.refused))
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for_load(self, answers: int = 50) -> float:
        """Return the time once so many more requests of each kind have been answered, or have failed, through every proxy."""
        wanted = [(seen, len(seen.answers) + 2 * answers) for seen in (self.allowed, self.refused)]
        wait_for(lambda: all(len(seen.answers) >= number for seen, number in wanted), 60, what="the load")
        return time.monotonic()

    def _ask(self, split: Split, proxy: int, route: str, cookie: str, seen: Seen) -> None:
        with ExitStack() as stack:
            clients = [stack.enter_context(split.client(number)) for number in (proxy, 3 - proxy)]
            while not self._stop.is_set():
                began = time.monotonic()
                status = 0
                for client in clients:
                    # What a balancer does: a proxy that does not take the connection is not asked.
                    try:
                        status = client.request("GET", split.url(route) + "/", cookie_header=cookie).status_code
                        break
                    except httpx.TransportError:
                        continue
                wrong = status == 200 and not cookie
                seen.answers.append((began, status, wrong))


def failed(counted: Counter[int]) -> float:
    """The share of requests that failed."""
    assert counted.total() > 20, "there was no load"
    return 1 - counted[200] / counted.total()


def report(what: str, checker: Checker, since: float = 0.0) -> Counter[int]:
    """Note what people saw around ``what``, demand that nobody was let in who may not be, and return it."""
    counted = checker.allowed.between(since, time.monotonic())
    EVENTS.append(
        f"{what}: {counted.total()} requests, {counted.total() - counted[200]} failed {dict(counted)}; "
        f"{checker.refused.all.total()} without a session, {len(checker.refused.wrong)} let in"
    )
    assert checker.refused.wrong == [], "an anonymous request was let in"
    return counted


@contextmanager
def split_deployment(
    folder: Path,
    routes: list[dict[str, Any]],
    *,
    life: str = "30d",
    prepare: Callable[[Split], None] | None = None,
    kind: type[Split] = Split,
    **settings: Any,
) -> Iterator[Split]:
    """Everything of a split deployment on loopback; ``from`` of a route is a bare name."""
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server("valkey"))
        names = (
            *("databroker", "authorize-1", "authorize-2", "services-1", "services-2", "authenticate", "pages"),
            *("proxy-1", "proxy-2", "provider", "databroker-2"),
        )
        ports = {name: free_port() for name in names}
        ports["public"] = ports["proxy-1"]
        made = kind(folder, redis, ports["provider"], routes, ports, settings=settings)
        stack.enter_context(bring_up(made, life=life, prepare=prepare))
        yield made


@contextmanager
def bring_up(made: Split, *, life: str = "30d", prepare: Callable[[Split], None] | None = None) -> Iterator[None]:
    """Keys, certificates, configurations and an identity provider for ``made``, and all its processes."""
    with ExitStack() as stack:
        (made.folder / "secret").write_text(SECRET)
        _public_certificate(made)
        made.keys("init", "--planes", "--life", life)
        made.give_out()
        made.write()
        with made.inside("authenticate"):
            stack.enter_context(_identity_provider(made))
        if prepare is not None:
            prepare(made)
        stack.callback(made.stop)
        made.start()
        yield


def _public_certificate(made: Split) -> None:
    authority = LocalAuthority(made.folder / "public", SystemClock())
    hosts = [f"{route['from']}.localhost" for route in made.routes]
    certified = authority.certificate_for(sorted({*hosts, "authenticate.localhost"}))
    (made.folder / "public" / "tls.crt").write_bytes(certified.certificate_pem)
    (made.folder / "public" / "tls.key").write_bytes(certified.key_pem)


@contextmanager
def _identity_provider(made: Split) -> Iterator[None]:
    command = [
        sys.executable, "-m", "doorward.demo.identity_provider", "--port", str(made.provider_port),
        "--data", str(made.folder / "provider"), "--client-id", "site",
        "--client-secret-file", str(made.folder / "secret"),
        "--redirect-uri", f"{made.url('authenticate')}/.doorward/callback/demo", "--faults",
    ]  # fmt: skip
    with (made.folder / "provider.log").open("w") as log:
        provider = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for(lambda: _answers(made.provider_port), what="the identity provider")
        yield
    finally:
        provider.terminate()
        provider.wait()


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/jwks", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def status(made: Split) -> dict[str, Any]:
    """What ``doorward status`` reports."""
    result = made.command("status", "--json")
    assert result.stdout, result.stderr
    return dict(json.loads(result.stdout))
