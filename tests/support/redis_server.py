"""Real servers for the record store: Valkey from its wheel, and Debian's Redis; alone, behind a sentinel, as a cluster, with TLS."""

import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.deployment import free_port, short_folder, wait_for
from tests.support.wires import Wire, Wires

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
NEVER_MS = 60_000
"""A sentinel that waits so long for an answer replaces nobody within a test."""


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


class Sentinel(RedisServer):
    """A sentinel that watches the service ``records``; it can be asked, and not be started again."""

    def names(self, server: RedisServer) -> bool:
        """Whether ``server`` is the primary, and the failover that made it so has ended."""
        return self._records().get(b"port") == b"%d" % server.port

    def hold_to(self, server: RedisServer) -> bool:
        """Have it keep ``server`` as the primary from now on, however long that is silent; false as long as another one may still come.

        By itself it may replace a new primary at once. It tries no connection twice in a second: where it has just tried the dead
        primary, it reaches out to the new one a second after the failover. It counts that as silence, and ``down_after_ms`` is over.
        """
        if not self._is_content_with(server):
            return False
        assert self.ask(f"SENTINEL SET records down-after-milliseconds {NEVER_MS}").startswith(b"+OK")
        return self._is_content_with(server)  # it may have given it up in between

    def _is_content_with(self, server: RedisServer) -> bool:
        """Else there are flags for a connection that is lost, a primary that is down, and a failover that has begun."""
        records = self._records()
        return (records.get(b"port"), records.get(b"flags")) == (b"%d" % server.port, b"master")

    def _records(self) -> dict[bytes, bytes]:
        words = self.ask("SENTINEL MASTER records").split(b"\r\n")[2::2]
        return dict(zip(words[::2], words[1::2], strict=False))


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
def topology(name: str, *, down_after_ms: int = NEVER_MS) -> Iterator[Topology]:
    """``valkey``, ``redis``, or one of ``sentinel``, ``cluster``, ``acl`` and ``tls``: of Redis, and as ``sentinel-valkey`` of Valkey.

    A sentinel replaces a primary that is silent for ``down_after_ms``.

    There is no ``tls-valkey``: the wheel's server is built without TLS.
    """
    kind, _, program_name = name.partition("-")
    with ExitStack() as stack:
        if kind in {"valkey", "redis"}:
            server = stack.enter_context(redis_server(kind))
            yield Topology(server.url, server)
        elif kind == "sentinel":
            yield _sentinel(stack, program_name or "redis", down_after_ms)
        elif kind == "cluster":
            yield cluster(stack, program_name or "redis").topology
        elif kind == "acl":
            server = stack.enter_context(redis_server(program_name or "redis"))
            yield Topology(server.url, server, credentials=_user_of(server))
        else:
            assert name == "tls", name
            yield _tls(stack)


def replicated(stack: ExitStack, name: str = "redis", *options: str) -> tuple[RedisServer, RedisServer]:
    """A primary and its replica, in step."""
    primary = stack.enter_context(redis_server(name, *options, port=free_port()))
    replica = stack.enter_context(
        redis_server(name, "--replicaof", f"127.0.0.1 {primary.port}", *options, port=free_port())
    )
    wait_for(lambda: b"master_link_status:up" in replica.ask("INFO replication"), 20, what="the replica")
    return primary, replica


def _sentinel(stack: ExitStack, name: str, down_after_ms: int) -> Topology:
    primary, replica = replicated(stack, name, "--repl-diskless-sync-delay", "0")
    port = sentinel(stack, primary.port, name=name, down_after_ms=down_after_ms).port
    return Topology(f"redis+sentinel://127.0.0.1:{port}/records", primary, [replica])


def sentinel(
    stack: ExitStack, primary_port: int, replicas: int = 1, *, name: str = "redis", down_after_ms: int = NEVER_MS
) -> Sentinel:
    """A sentinel that has found the replicas of the primary at ``primary_port``; see ``topology`` for ``down_after_ms``."""
    folder = stack.enter_context(short_folder())
    port = free_port()
    settings = folder / "sentinel.conf"
    settings.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\nunixsocket {folder}/s\n"
        f"sentinel monitor records 127.0.0.1 {primary_port} 1\n"
        f"sentinel down-after-milliseconds records {down_after_ms}\nsentinel failover-timeout records 2000\n"
    )
    with (folder / "log").open("a") as log:
        process = subprocess.Popen([program(name), str(settings), "--sentinel"], stdout=log, stderr=log)
    stack.callback(process.wait)
    stack.callback(process.kill)
    view = Sentinel("", folder, port=port)
    found = b"num-slaves\r\n$1\r\n%d" % replicas
    wait_for(lambda: found in view.ask("SENTINEL MASTER records"), 20, what="the sentinel")
    # By itself it makes a replica of a primary that comes back only after 8 to 18 seconds.
    assert view.ask("SENTINEL DEBUG info-period 250 publish-period 250").startswith(b"+OK")
    return view


@dataclass
class Cluster:
    """Primaries that share the slots out, and the replicas of some."""

    primaries: list[RedisServer]
    replicas: dict[int, RedisServer]
    """By the number of their primary."""
    laid: Wires | None
    reached: list[tuple[Wire, Wire]]
    """How each node is reached by everybody, at its port and at its bus; empty without wires."""

    def cut_off(self, number: int) -> None:
        """Let node ``number`` and the others hear nothing more of each other; whoever writes still reaches all."""
        self._each(number, lambda laid: laid.cut)

    def mend(self, number: int) -> None:
        """Let them hear of each other again."""
        self._each(number, lambda laid: laid.mend)

    def _each(self, number: int, act: Callable[[Wires], Callable[..., None]]) -> None:
        assert self.laid is not None
        do = act(self.laid)
        for other, wires in enumerate(self.reached):
            if other != number:
                do(*wires, source=_source(number))
                do(*self.reached[number], source=_source(other))

    @property
    def topology(self) -> Topology:
        """As a deployment sees it: our slot is on the second primary, and only the first one is named in the address."""
        return Topology(
            f"redis+cluster://127.0.0.1:{self.primaries[0].port}", self.primaries[1], list(self.replicas.values())
        )


def _source(number: int) -> str:
    """The address from which a node of a wired cluster connects to the others."""
    return f"127.0.0.{2 + number}"


def cluster(
    stack: ExitStack,
    name: str,
    *options: str,
    primaries: int = 2,
    replicated: Sequence[int] = (1,),
    laid: Wires | None = None,
) -> Cluster:
    """A cluster whose ``replicated`` primaries have a replica each. With three primaries it can elect a new one by itself.

    With ``laid`` everybody reaches its nodes over wires.
    """
    count = primaries + len(replicated)
    ports, buses = ([free_port() for _ in range(count)] for _ in range(2))
    reached: list[tuple[Wire, Wire]] = []
    nodes: list[RedisServer] = []
    for number, (port, bus) in enumerate(zip(ports, buses, strict=True)):
        own = ["--cluster-enabled", "yes", "--cluster-port", str(bus), "--cluster-node-timeout", "2000"]
        own += ["--repl-diskless-sync-delay", "0", *options]
        if laid is not None:
            reached.append((laid.lay(port), laid.lay(bus)))
            own += ["--cluster-announce-ip", "127.0.0.1", "--cluster-announce-port", str(reached[number][0].port)]
            own += ["--cluster-announce-bus-port", str(reached[number][1].port), "--bind-source-addr", _source(number)]
        nodes.append(stack.enter_context(redis_server(name, *own, port=port)))
    shown = [(port.port, bus.port) for port, bus in reached] or list(zip(ports, buses, strict=True))
    share = 16384 // primaries
    for number, node in enumerate(nodes):
        if number < primaries:
            # The hash tag's slot is 2462: it is in the first share, which the second one has.
            part = (number - 1) % primaries
            last = 16383 if part == primaries - 1 else (part + 1) * share - 1
            node.ask(f"CLUSTER ADDSLOTSRANGE {part * share} {last}")
        node.ask(f"CLUSTER SET-CONFIG-EPOCH {number + 1}")
        for port, bus in shown[:number]:
            node.ask(f"CLUSTER MEET 127.0.0.1 {port} {bus}")
    known = b"cluster_known_nodes:%d\r" % count
    wait_for(lambda: all(known in node.ask("CLUSTER INFO") for node in nodes), 20, what="the cluster")
    replicas = dict(zip(replicated, nodes[primaries:], strict=True))
    for number, replica in replicas.items():
        ours = _bulk(nodes[number].ask("CLUSTER MYID"))
        ask = f"CLUSTER REPLICATE {ours}"
        wait_for(lambda replica=replica, ask=ask: replica.ask(ask).startswith(b"+OK"), 20, what="a cluster's replica")  # type: ignore[misc]
    wait_for(lambda: all(b"cluster_state:ok" in node.ask("CLUSTER INFO") for node in nodes), 20, what="the cluster")
    for replica in replicas.values():
        wait_for(lambda node=replica: b"master_link_status:up" in node.ask("INFO replication"), 20, what="a replica")  # type: ignore[misc]
    return Cluster(nodes[:primaries], replicas, laid, reached)


def _tls(stack: ExitStack) -> Topology:
    """TLS, and a user as ``_user_of`` makes it."""
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
    return Topology(f"rediss://localhost:{port}", server, credentials=_user_of(server, authority.ca_file))


def _user_of(server: RedisServer, ca_file: Path | None = None) -> Credentials:
    """A user of the server that may do what the store needs and nothing else."""
    answer = server.ask(f'ACL SETUSER doorward on ">{PASSWORD}" ~{{dw}}:* resetchannels -@all {ACL_COMMANDS}')
    assert answer.startswith(b"+OK"), answer
    return Credentials(username="doorward", password=Secret(PASSWORD), ca_file=ca_file)


def _bulk(answer: bytes) -> str:
    return answer.split(b"\r\n")[1].decode()
