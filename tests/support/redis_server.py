"""Real servers for the record store: Valkey from its wheel, and Debian's Redis; alone, behind a sentinel, as a cluster, with TLS."""

import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.deployment import free_port, short_folder, wait_for

from doorward.clock import SystemClock
from doorward.keys.local_authority import LocalAuthority
from doorward.keys.secret import Secret
from doorward.runtime.valkey import valkey_binary
from doorward_databroker.store.connection import Link
from doorward_databroker.store.servers import Credentials, Servers

PASSWORD = "correct horse"
ACL_COMMANDS = (
    "+evalsha +script|load +wait +hello +ping +role +cluster|slots +info "
    "+hget +hmget +hset +hsetnx +hdel +hgetall +get +set +del +exists +type +time +pexpire +pexpireat +persist "
    "+zadd +zrem +zrange +zrangebyscore +xadd +xlen +xread +xrange +xrevrange +xtrim +scan +zcard"
)
"""What the store needs; ``docs/operations/databroker.md`` shows it to operators."""


class RedisServer:
    """A server on a Unix socket (and a port) that can be killed and started again on its files."""

    def __init__(self, program: str, folder: Path, *options: str, port: int = 0) -> None:
        self._program = program
        self._options = options
        self.folder = folder
        self.port = port
        self.socket = folder / "s"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        command = [
            self._program, "--port", str(self.port), "--unixsocket", str(self.socket), "--dir", str(self.folder),
            "--bind", "127.0.0.1",
            "--appendonly", "yes", "--appendfsync", "always", "--save", "", "--daemonize", "no", *self._options,
        ]  # fmt: skip
        with (self.folder / "log").open("a") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for(lambda: self.ask("PING").startswith(b"+PONG"), 10, what="the server")

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Stop it from running, as a machine that hangs."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def ask(self, command: str) -> bytes:
        """The first bytes of the answer to an inline command; empty when nobody answers."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            try:
                connection.connect(str(self.socket))
                connection.sendall(command.encode() + b"\r\n")
                return connection.recv(1 << 20)
            except OSError:
                return b""


@dataclass
class Topology:
    """Servers as a deployment would see them."""

    url: str
    primary: RedisServer
    """The server that takes writes at first."""
    others: list[RedisServer] = field(default_factory=list)
    credentials: Credentials = field(default_factory=Credentials)

    def link(self, *, replicas: int = 0) -> Link:
        return Link(Servers.parse(self.url, self.credentials), replicas=replicas)

    def forget_everything(self) -> None:
        """Empty whatever takes writes now."""
        for server in (self.primary, *self.others):
            server.ask("FLUSHALL")


def program(name: str) -> str:
    """Path of ``valkey`` or ``redis``; a missing one fails, it is never skipped."""
    if name == "valkey":
        return str(valkey_binary())
    found = shutil.which("redis-server")
    assert found is not None, "the tests need Debian's redis-server; `make test` installs it"
    return found


@contextmanager
def redis_server(name: str, *options: str, port: int = 0) -> Iterator[RedisServer]:
    with short_folder() as folder:
        server = RedisServer(program(name), folder, *options, port=port)
        try:
            server.start()
        except AssertionError:
            # Somebody else was given the same free port.
            server.stop(signal.SIGKILL)
            server.port = free_port() if port else 0
            server.start()
        try:
            yield server
        finally:
            server.stop(signal.SIGKILL)


@contextmanager
def topology(name: str) -> Iterator[Topology]:
    """One of ``valkey``, ``redis``, ``sentinel``, ``cluster`` and ``tls``."""
    with ExitStack() as stack:
        if name in {"valkey", "redis"}:
            server = stack.enter_context(redis_server(name))
            yield Topology(server.url, server)
        elif name == "sentinel":
            yield _sentinel(stack)
        elif name == "cluster":
            yield _cluster(stack)
        else:
            yield _tls(stack)


def replicated(stack: ExitStack, name: str = "redis", *options: str) -> tuple[RedisServer, RedisServer]:
    """A primary and its replica, in step."""
    primary = stack.enter_context(redis_server(name, *options, port=free_port()))
    replica = stack.enter_context(
        redis_server(name, "--replicaof", f"127.0.0.1 {primary.port}", *options, port=free_port())
    )
    wait_for(lambda: b"master_link_status:up" in replica.ask("INFO replication"), 20, what="the replica")
    return primary, replica


def _sentinel(stack: ExitStack) -> Topology:
    primary, replica = replicated(stack, "redis", "--repl-diskless-sync-delay", "0")
    port = sentinel(stack, primary.port).port
    return Topology(f"redis+sentinel://127.0.0.1:{port}/records", primary, [replica])


def sentinel(stack: ExitStack, primary_port: int, replicas: int = 1) -> RedisServer:
    """A sentinel that has found the replicas of the primary at ``primary_port``; it can be asked, and not be started again."""
    folder = stack.enter_context(short_folder())
    port = free_port()
    settings = folder / "sentinel.conf"
    settings.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\nunixsocket {folder}/s\n"
        f"sentinel monitor records 127.0.0.1 {primary_port} 1\n"
        "sentinel down-after-milliseconds records 300\nsentinel failover-timeout records 2000\n"
    )
    with (folder / "log").open("a") as log:
        process = subprocess.Popen([program("redis"), str(settings), "--sentinel"], stdout=log, stderr=log)
    stack.callback(process.wait)
    stack.callback(process.kill)
    view = RedisServer("", folder, port=port)
    found = b"num-slaves\r\n$1\r\n%d" % replicas
    wait_for(lambda: found in view.ask("SENTINEL MASTER records"), 20, what="the sentinel")
    return view


def _cluster(stack: ExitStack) -> Topology:
    """Our slot on the second of two primaries, which has a replica; only the first one is named in the address."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--repl-diskless-sync-delay", "0")
    buses = [free_port() for _ in range(3)]
    nodes = [
        stack.enter_context(redis_server("redis", *options, "--cluster-port", str(bus), port=free_port()))
        for bus in buses
    ]
    first, second, replica = nodes
    # The hash tag's slot is 2462.
    first.ask("CLUSTER ADDSLOTSRANGE 8192 16383")
    second.ask("CLUSTER ADDSLOTSRANGE 0 8191")
    for number, node in enumerate(nodes):
        node.ask(f"CLUSTER SET-CONFIG-EPOCH {number + 1}")
    for node in nodes[1:]:
        node.ask(f"CLUSTER MEET 127.0.0.1 {first.port} {buses[0]}")
    wait_for(
        lambda: all(b"cluster_known_nodes:3" in node.ask("CLUSTER INFO") for node in nodes), 20, what="the cluster"
    )
    name = _bulk(second.ask("CLUSTER MYID"))
    wait_for(lambda: replica.ask(f"CLUSTER REPLICATE {name}").startswith(b"+OK"), 20, what="the cluster's replica")
    wait_for(lambda: all(b"cluster_state:ok" in node.ask("CLUSTER INFO") for node in nodes), 20, what="the cluster")
    wait_for(lambda: b"master_link_status:up" in replica.ask("INFO replication"), 20, what="the replica")
    return Topology(f"redis+cluster://127.0.0.1:{first.port}", second, [replica])


def _tls(stack: ExitStack) -> Topology:
    """TLS with client certificates, and an ACL user that may do what the store needs and nothing else."""
    folder = stack.enter_context(short_folder())
    authority = LocalAuthority(folder / "ca", SystemClock())
    certified = authority.certificate_for(["localhost"])
    (folder / "tls.crt").write_bytes(certified.certificate_pem)
    (folder / "tls.key").write_bytes(certified.key_pem)
    port = free_port()
    options: Sequence[str] = (
        "--tls-port", str(port), "--tls-cert-file", str(folder / "tls.crt"), "--tls-key-file", str(folder / "tls.key"),
        "--tls-ca-cert-file", str(authority.ca_file), "--tls-auth-clients", "no",
    )  # fmt: skip
    server = stack.enter_context(redis_server("redis", *options))
    answer = server.ask(f'ACL SETUSER doorward on ">{PASSWORD}" ~{{dw}}:* resetchannels -@all {ACL_COMMANDS}')
    assert answer.startswith(b"+OK"), answer
    return Topology(
        f"rediss://localhost:{port}",
        server,
        credentials=Credentials(username="doorward", password=Secret(PASSWORD), ca_file=authority.ca_file),
    )


def _bulk(answer: bytes) -> str:
    return answer.split(b"\r\n")[1].decode()
