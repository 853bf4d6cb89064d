"""Deployments that a history is driven through, and the ways in which they break.

OneMachine   ``doorward run`` with its embedded store: planes and store are killed or stopped for a while
Apart        two databrokers, two authorizers, two proxies, over a primary, two replicas and a sentinel, with wires between
             them that are cut: planes and stores are killed and stopped, databrokers and primaries cut off
"""

import asyncio
import random
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import psutil
from tests.support.deployment import free_port, wait_for
from tests.support.redis_server import RedisServer, redis_server, sentinel
from tests.support.site import Site
from tests.support.split import Split, split_deployment
from tests.support.wires import Wire, Wires, wires

from doorward.clock import SystemClock
from doorward.config.endpoints import Address, LocalEndpoints, default_run_folder
from doorward.rpc.client import open_channel
from doorward.rpc.credentials import PlaneIdentity
from doorward.rpc.planes import Plane

PAUSES = (0.2, 1.0, 3.0, 6.5)
REPLICAS = 2
CONFIRMING = 1
"""With both, nothing could be written while one is away; so the one that is promoted may be the one that has not confirmed."""
_MEMBERS = ("authorize", "databroker", "valkey")


class OneMachine:
    """One machine with everything on it."""

    def __init__(self, made: Site) -> None:
        self._site = made
        self._stopped: list[psutil.Process] = []
        self.issuer = f"http://localhost:{made.provider_port}"
        self.ports = [made.port]
        self.ca_file = made.ca_file
        self.keys = made.data / "keys"

    def channel(self, plane: Plane) -> grpc.aio.Channel:
        """See ``Stage.channel``."""
        return open_channel(LocalEndpoints(default_run_folder(self._site.data)).databroker(plane), Plane.DATABROKER)

    async def fault(self, chance: random.Random, note: Callable[[str], None]) -> None:
        """See ``Stage.fault``."""
        name = chance.choice(_MEMBERS)
        try:
            process = self._site.run.member(name)
            if chance.random() < 0.4:
                note(f"kill {name}")
                process.kill()
                return
            pause = chance.choice(PAUSES)
            note(f"stop {name} for {pause} s")
            process.send_signal(signal.SIGSTOP)
            self._stopped.append(process)
            await asyncio.sleep(pause)
        except (LookupError, psutil.Error):
            pass
        finally:
            self.let_go()

    def let_go(self) -> None:
        """See ``Stage.let_go``."""
        while self._stopped:
            with suppress(psutil.Error):
                self._stopped.pop().send_signal(signal.SIGCONT)


class TwoDatabrokers(Split):
    """A split deployment with a second databroker; each finds the store at an address of its own."""

    confirming = CONFIRMING

    @property
    def names(self) -> Sequence[str]:
        return (*super().names, "databroker-2")

    def listen(self, name: str) -> list[str]:
        if name.startswith("databroker"):
            return ["--listen", f"databroker=127.0.0.1:{self.ports[name]}"]
        return super().listen(name)

    def document(self, process: str) -> dict[str, Any]:
        made = super().document(process)
        made["planes"]["databroker"].append(f"127.0.0.1:{self.ports['databroker-2']}")
        made["databroker"]["redis_replicas"] = self.confirming
        return made


@dataclass
class Store:
    """A primary and its replicas with a sentinel, each reached over wires: between each other, and by each databroker."""

    nodes: list[RedisServer]
    watching: RedisServer
    """The sentinel."""
    wires: Wires
    among: list[Wire]
    """To each node, for the others and for the sentinel."""
    from_broker: dict[str, list[Wire]]
    """To each node, by databroker."""
    to_sentinel: dict[str, Wire]
    """By databroker."""
    confirming: int = CONFIRMING
    """How many replicas it takes for a write."""

    @property
    def primary(self) -> int:
        """Number of the node that the sentinel names."""
        answer = self.watching.ask("SENTINEL GET-MASTER-ADDR-BY-NAME records")
        return [wire.port for wire in self.among].index(int(answer.split(b"\r\n")[4]))

    @property
    def is_whole(self) -> bool:
        """Whether the primary may take writes, and they can be confirmed."""
        found = re.search(rb"connected_slaves:(\d+)", self.nodes[self.primary].ask("INFO replication"))
        return found is not None and int(found[1]) >= self.confirming


@contextmanager
def store(brokers: Sequence[str]) -> Iterator[Store]:
    """Three nodes, a sentinel and the wires for ``brokers``."""
    with wires() as laid, ExitStack() as stack:
        ports = [free_port() for _ in range(1 + REPLICAS)]
        among = [laid.lay(port) for port in ports]
        options = (
            "--repl-diskless-sync-delay", "0", "--min-replicas-to-write", str(CONFIRMING), "--min-replicas-max-lag", "2",
        )  # fmt: skip
        nodes = []
        for number, port in enumerate(ports):
            own = (*options, "--replica-announce-port", str(among[number].port))
            if number:
                own = (*own, "--replicaof", f"127.0.0.1 {among[0].port}")
            nodes.append(stack.enter_context(redis_server("redis", *own, port=port)))
        for node in nodes[1:]:
            wait_for(lambda node=node: b"master_link_status:up" in node.ask("INFO replication"), 20, what="a replica")
        watching = sentinel(stack, among[0].port, replicas=REPLICAS, down_after_ms=300)
        from_broker = {name: [laid.lay(port) for port in ports] for name in brokers}
        to_sentinel = {
            name: laid.lay(watching.port, {shown.port: led.port for shown, led in zip(among, own_wires, strict=True)})
            for name, own_wires in from_broker.items()
        }
        yield Store(nodes, watching, laid, among, from_broker, to_sentinel)


@dataclass
class Apart:
    """Everything twice, over a store that fails over and can be cut."""

    split: TwoDatabrokers
    store: Store
    only_partitions: bool = False
    """Whether nothing is killed or stopped."""
    longest: float = 8.0
    """Seconds; no partition lasts longer."""
    _stopped: list[int] = field(default_factory=list)

    @property
    def issuer(self) -> str:
        """See ``Stage``."""
        return f"http://localhost:{self.split.provider_port}"

    @property
    def ports(self) -> Sequence[int]:
        """See ``Stage``."""
        return [self.split.ports["proxy-1"], self.split.ports["proxy-2"]]

    @property
    def ca_file(self) -> Path:
        """See ``Stage``."""
        return self.split.ca_file

    @property
    def keys(self) -> Path:
        """See ``Stage``."""
        return self.split.folder / "authenticate" / "data" / "keys"

    def channel(self, plane: Plane) -> grpc.aio.Channel:
        """See ``Stage.channel``."""
        places = tuple(
            Address(host="127.0.0.1", port=self.split.ports[name]) for name in ("databroker", "databroker-2")
        )
        identity = PlaneIdentity(self.split.folder / str(plane) / "data" / "planes" / str(plane), plane, SystemClock())
        return open_channel(places, Plane.DATABROKER, identity)

    def confirm_by_all(self) -> None:
        """From now on a write counts when every replica has it; databrokers are told so by starting again."""
        self.store.confirming = self.split.confirming = REPLICAS
        for node in self.store.nodes:
            assert node.ask(f"CONFIG SET min-replicas-to-write {REPLICAS}").startswith(b"+OK")
        self.split.write()
        for name in self.store.to_sentinel:
            self.split.processes[name].end()
        self.split.start(*self.store.to_sentinel)

    async def fault(self, chance: random.Random, note: Callable[[str], None]) -> None:
        """See ``Stage.fault``."""
        acts = (self._cut, self._cut)
        if not self.only_partitions:
            acts = (self._kill, self._stop, self._kill_node, self._stop_node, *acts)
        try:
            await chance.choice(acts)(chance, note)
        finally:
            self.let_go()

    async def _kill(self, chance: random.Random, note: Callable[[str], None]) -> None:
        name = chance.choice(("authorize-1", "authorize-2", "databroker", "databroker-2"))
        note(f"kill {name}")
        process = self.split.processes[name]
        process.kill()
        await asyncio.sleep(chance.choice((0.0, 1.0)))
        await asyncio.to_thread(process.start)

    async def _stop(self, chance: random.Random, note: Callable[[str], None]) -> None:
        name = chance.choice(("authorize-1", "authorize-2", "databroker", "databroker-2"))
        popen = self.split.processes[name].popen
        if popen is not None:
            await self._pause(popen.pid, chance.choice(PAUSES), name, note)

    async def _kill_node(self, chance: random.Random, note: Callable[[str], None]) -> None:
        number = chance.choice((self.store.primary, *range(len(self.store.nodes))))
        note(f"kill node {number} ({'primary' if number == self.store.primary else 'replica'})")
        node = self.store.nodes[number]
        node.stop(signal.SIGKILL)
        await asyncio.sleep(chance.choice((0.0, 2.0)))
        await asyncio.to_thread(node.start)
        await self._whole()

    async def _stop_node(self, chance: random.Random, note: Callable[[str], None]) -> None:
        number = chance.choice((self.store.primary, *range(len(self.store.nodes))))
        is_primary = number == self.store.primary
        name = f"node {number} ({'primary' if is_primary else 'replica'})"
        await self._pause(self.store.nodes[number].pid, chance.choice(PAUSES), name, note)
        await self._whole()

    async def _cut(self, chance: random.Random, note: Callable[[str], None]) -> None:
        """A primary alone, a primary with a databroker that still believes in it, both databrokers with it, or a databroker alone."""
        number = self.store.primary
        one, two = chance.sample(("databroker", "databroker-2"), 2)
        reached, sentinels = self.store.from_broker, self.store.to_sentinel
        others = [node for node in range(len(self.store.nodes)) if node != number]
        alone = self.store.among[number]
        ways: dict[str, list[Wire]] = {
            "the primary": [alone, reached[one][number], reached[two][number]],
            f"the primary and {one}": [
                alone, reached[two][number], sentinels[one], *(reached[one][node] for node in others),
            ],
            "the primary and both databrokers": [
                alone, *sentinels.values(), *(reached[name][node] for name in reached for node in others),
            ],
            one: [*reached[one], sentinels[one]],
        }  # fmt: skip
        name = chance.choice(sorted(ways))
        pause = min(chance.choice((1.0, 3.0, 8.0)), self.longest)
        note(f"cut off {name} for {pause} s")
        self.store.wires.cut(*ways[name])
        await asyncio.sleep(pause)
        self.let_go()
        await self._whole()

    async def _pause(self, pid: int, seconds: float, name: str, note: Callable[[str], None]) -> None:
        note(f"stop {name} for {seconds} s")
        psutil.Process(pid).send_signal(signal.SIGSTOP)
        self._stopped.append(pid)
        await asyncio.sleep(seconds)
        self.let_go()

    async def _whole(self) -> None:
        """Wait until the primary has a replica again: before that it takes no writes, and there is nothing to see."""
        for _ in range(200):
            if self.store.is_whole:
                return
            await asyncio.sleep(0.1)

    def let_go(self) -> None:
        """See ``Stage.let_go``."""
        while self._stopped:
            with suppress(psutil.Error):
                psutil.Process(self._stopped.pop()).send_signal(signal.SIGCONT)
        every = [wire for pair in self.store.from_broker.values() for wire in pair]
        self.store.wires.mend(*self.store.among, *every, *self.store.to_sentinel.values())


@contextmanager
def apart(folder: Path, routes: list[dict[str, Any]]) -> Iterator[Apart]:
    """Everything of it, on loopback."""
    brokers = ("databroker", "databroker-2")
    with store(brokers) as laid:

        def tell(made: Split) -> None:
            for name in brokers:
                made.stores[name] = f"redis+sentinel://127.0.0.1:{laid.to_sentinel[name].port}/records"
            made.write()

        with split_deployment(folder, routes, kind=TwoDatabrokers, prepare=tell) as made:
            assert isinstance(made, TwoDatabrokers)
            yield Apart(made, laid)
