"""TCP between two processes of a test, over a port of ours that can be cut: what is sent into a cut wire waits, as on a real one.

A cut wire takes connections and bytes and passes nothing on, so that either end sees silence and never a reset. Once it is whole
again everything that waited arrives late, which is the unkinder half of a partition.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tests.support.deployment import free_port

_PIECE = 65536


@dataclass(eq=False)
class Wire:
    """One port in front of another. ``rewrite`` is applied to what comes back: addresses that lead round the wires."""

    port: int
    target: int
    rewrite: Mapping[bytes, bytes] = field(default_factory=dict)
    whole: asyncio.Event = field(default_factory=asyncio.Event)
    _whole_for: dict[str, asyncio.Event] = field(default_factory=dict)

    def whole_for(self, source: str | None) -> asyncio.Event:
        """Whether it is whole for whoever connects from the address ``source``; for everybody, when that is ``None``."""
        if source is None:
            return self.whole
        if source not in self._whole_for:
            self._whole_for[source] = asyncio.Event()
            self._whole_for[source].set()
        return self._whole_for[source]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = None
        gates = (self.whole, self.whole_for(writer.get_extra_info("peername")[0]))
        try:
            await _all_whole(gates)
            answers, there = await asyncio.open_connection("127.0.0.1", self.target)
            passing = [
                asyncio.ensure_future(self._pass(reader, there, {}, gates)),
                asyncio.ensure_future(self._pass(answers, writer, self.rewrite, gates)),
            ]
            try:
                await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in passing:
                    task.cancel()
                await asyncio.gather(*passing, return_exceptions=True)
        except OSError:
            pass  # nobody listens there: the connection ends, as it would without a wire
        finally:
            for end in (writer, there):
                if end is not None:
                    end.close()

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        rewrite: Mapping[bytes, bytes],
        gates: Sequence[asyncio.Event],
    ) -> None:
        while data := await reader.read(_PIECE):
            await _all_whole(gates)
            for old, new in rewrite.items():
                data = data.replace(old, new)
            writer.write(data)
            await writer.drain()


async def _all_whole(gates: Sequence[asyncio.Event]) -> None:
    while not all(gate.is_set() for gate in gates):
        for gate in gates:
            await gate.wait()


class Wires:
    """All wires of a test, served by a thread of their own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []

    def lay(self, target: int, rewrite: Mapping[int, int] | None = None, port: int | None = None) -> Wire:
        """A new wire to ``target``; ports of equal length in ``rewrite`` are exchanged in what comes back."""
        texts = {str(old).encode(): str(new).encode() for old, new in (rewrite or {}).items()}
        assert all(len(old) == len(new) for old, new in texts.items())
        return self._do(self._lay(port or free_port(), target, texts))

    async def _lay(self, port: int, target: int, rewrite: Mapping[bytes, bytes]) -> Wire:
        wire = Wire(port, target, rewrite)
        wire.whole.set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            with suppress(asyncio.CancelledError):
                await wire.serve(reader, writer)

        self._servers.append(await asyncio.start_server(serve, "127.0.0.1", port))
        return wire

    def cut(self, *wires: Wire, source: str | None = None) -> None:
        """Let nothing more through; of what comes from the address ``source`` and goes back to it, if one is given."""
        self._call(lambda: [wire.whole_for(source).clear() for wire in wires])

    def mend(self, *wires: Wire, source: str | None = None) -> None:
        """Let everything through, what waited first."""
        self._call(lambda: [wire.whole_for(source).set() for wire in wires])

    def close(self) -> None:
        async def end() -> None:
            for server in self._servers:
                server.close()
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        self._do(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _call(self, act: Callable[[], object]) -> None:
        async def do() -> None:
            act()

        self._do(do())


@contextmanager
def wires() -> Iterator[Wires]:
    made = Wires()
    try:
        yield made
    finally:
        made.close()
