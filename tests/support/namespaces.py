"""A split deployment whose processes have addresses of their own: each in a network namespace, all on one bridge.

    store  databroker-1  databroker-2  authenticate  authorize-1  authorize-2  proxy-1  proxy-2  client
      └────────────┴─────────────┴────────── bridge ──────┴─────────────┴──────────┴────────┴──────┘

Two of them are cut off from each other by sending what one has for the other to a hardware address that nobody has: packets vanish
without a word, as they do behind a switch that has failed. Namespaces need root's rights; without them the tests say so and do not run.
"""

import ctypes
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
from tests.support.deployment import free_port
from tests.support.echo import echo_server
from tests.support.redis_server import redis_server
from tests.support.split import Split, SplitClient, bring_up

PUBLIC_PORT = 8443
_NEW_NETWORK = 0x40000000
_NOBODY = "02:00:00:00:00:ff"
_PORTS = {"databroker": 7701, "authorize": 7711, "authorize_services": 7712, "authenticate": 7721}
_PAGES_PORT = 7722
NODES = (
    *("store", "databroker-1", "databroker-2", "authenticate", "authorize-1", "authorize-2", "proxy-1", "proxy-2"),
    "client",
)

_libc = ctypes.CDLL(None, use_errno=True)


class Network:
    """The namespaces and the bridge between them."""

    def __init__(self) -> None:
        self._prefix = f"dw{os.getpid()}"
        self.addresses = {name: f"10.99.0.{number}" for number, name in enumerate(NODES, 1)}

    def namespace(self, node: str) -> str:
        return f"{self._prefix}-{node}"

    def make(self) -> None:
        hub = self.namespace("hub")
        added = _ip("netns", "add", hub)
        if added.returncode:
            pytest.skip(
                f"this machine makes no network namespaces ({added.stderr.strip()}): the test needs iproute2, and root "
                "or CAP_SYS_ADMIN and CAP_NET_ADMIN"
            )
        _done(f"-n {hub} link add bridge type bridge", f"-n {hub} link set bridge up")
        for number, node in enumerate(NODES):
            name = self.namespace(node)
            _done(
                f"netns add {name}",
                f"-n {hub} link add port{number} type veth peer name eth0 netns {name}",
                f"-n {hub} link set port{number} master bridge up",
                f"-n {name} link set lo up",
                f"-n {name} link set eth0 up",
                f"-n {name} address add {self.addresses[node]}/24 dev eth0",
            )

    def remove(self) -> None:
        for node in (*NODES, "hub"):
            _ip("netns", "del", self.namespace(node))

    def cut(self, one: str, *others: str) -> None:
        """Let nothing through between ``one`` and each of ``others``, either way, and nobody hear of it."""
        for other in others:
            for here, there in ((one, other), (other, one)):
                name = self.namespace(here)
                _done(f"-n {name} neigh replace {self.addresses[there]} lladdr {_NOBODY} dev eth0 nud permanent")

    def heal(self, one: str, *others: str) -> None:
        for other in others:
            for here, there in ((one, other), (other, one)):
                _done(f"-n {self.namespace(here)} neigh del {self.addresses[there]} dev eth0")

    @contextmanager
    def inside(self, node: str) -> Iterator[None]:
        """This thread, and the processes that it starts, are on ``node``."""
        with (
            Path("/proc/thread-self/ns/net").open() as before,
            Path(f"/run/netns/{self.namespace(node)}").open() as there,
        ):
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(before.fileno())


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "setns")


def _ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)


def _done(*commands: str) -> None:
    for command in commands:
        done = _ip(*command.split())
        assert done.returncode == 0, f"ip {command}: {done.stderr}"


@dataclass
class Nodes(Split):
    """Every process on a node of its own, two databrokers too."""

    network: Network = field(default_factory=Network)

    @property
    def names(self) -> Sequence[str]:
        return (*NODES[1:-1], "operator")

    def planes(self) -> dict[str, list[str]]:
        at = {
            service: [
                f"{self.network.addresses[name]}:{port}" for name in NODES if name.startswith(service.split("_")[0])
            ]
            for service, port in _PORTS.items()
        }
        return {**at, "authenticate_pages": [f"{self.network.addresses['authenticate']}:{_PAGES_PORT}"]}

    def document(self, process: str) -> dict[str, Any]:
        return {**super().document(process), "listen": f"0.0.0.0:{PUBLIC_PORT}"}

    def listen(self, name: str) -> list[str]:
        del name
        return []  # at the ports that the file names, on every address of their node

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        with self.network.inside("client" if name == "operator" else name):
            yield

    def client(self, proxy: int = 1) -> "NodesClient":
        return NodesClient(self, proxy)


class NodesClient(SplitClient):
    """On the node `client`; to sign in, on the one where the identity provider answers as `localhost`."""

    def __init__(self, split: Nodes, proxy: int) -> None:
        super().__init__(split, proxy)
        self._split = split
        self._proxy = split.network.addresses[f"proxy-{proxy}"]
        self._place = ExitStack()

    def __enter__(self) -> Self:
        self._place.enter_context(self._split.network.inside("client"))
        return super().__enter__()

    def __exit__(self, *arguments: object) -> None:
        super().__exit__(*arguments)
        self._place.close()

    def address(self, port: int) -> str:
        return f"{self._proxy}:{port}" if port == PUBLIC_PORT else f"127.0.0.1:{port}"

    def sign_in(self, url: str, email: str, password: str) -> Any:
        with self._split.network.inside("authenticate"):
            return super().sign_in(url, email, password)


@contextmanager
def on_nodes(folder: Path, routes: Sequence[dict[str, Any]], staleness_seconds: int) -> Iterator[Nodes]:
    """The deployment, running. Each of ``routes`` goes to an upstream on the node `client`."""
    with ExitStack() as stack:
        network = Network()
        stack.callback(network.remove)
        network.make()
        with network.inside("client"):
            upstream = stack.enter_context(echo_server("up", network.addresses["client"]))
        with network.inside("store"):
            options = ("--bind", network.addresses["store"], "--protected-mode", "no")
            redis = stack.enter_context(redis_server("valkey", *options, port=6379))
        to = f"http://{network.addresses['client']}:{upstream.port}"
        made = Nodes(
            folder,
            redis,
            free_port(),
            [{**route, "to": to} for route in routes],
            {"public": PUBLIC_PORT, "proxy-1": PUBLIC_PORT, "proxy-2": PUBLIC_PORT},
            settings={
                "databroker": {
                    "redis": f"redis://{network.addresses['store']}:6379",
                    "staleness_limit": f"{staleness_seconds}s",
                }
            },
            network=network,
        )
        stack.enter_context(bring_up(made))
        yield made
