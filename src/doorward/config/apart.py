"""Reads a configuration in a process of its own, so that reading ten thousand routes holds nobody up.

    we ──► python -m doorward.config.apart FILE …        waits to be asked, and ends with us
    we ──► a line                                        reads what has changed, and checks
    we ◄── what became of it, the routes that we have not been sent before, and the numbers of all of them in order

Whatever is sent is taken apart in small pieces, with a turn of the event loop between any two. A route that has not changed is the same
object as before, so that nobody need look at it again. The child runs our own code on the operator's file with our own rights; what
it sends is believed as much as what we read ourselves.
"""

import array
import asyncio
import contextlib
import dataclasses
import functools
import gc
import os
import pickle
import sys
import threading
from asyncio.subprocess import Process
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from doorward.config.references import SecretReader, no_secret, read_secret
from doorward.config.settings import Loaded, RoutePolicy, Settings
from doorward.errors import ConfigurationError
from doorward.priority import Priority

_SLICE = 10
"""Routes in one piece: well under a millisecond to take apart."""
_ORDER_SLICE = 2_000
_LENGTH_BYTES = 4
_PIECE_LIMIT = 256 * 1024 * 1024
_SECONDS = 120.0
_REST_SECONDS = 300.0
_NICE = 10
"""So much nicer than we are: every plane reads a change at the same moment, and checks must not wait behind all of that."""
_PATIENCE_SECONDS = 30.0
"""Then the change has waited long enough: what it forbids is still allowed meanwhile."""
_IMPATIENT_NICE = 5
"""Still behind checks: the readers of all planes together must not weigh more than who answers them."""
_AT_ONCE, _ASIDE = b"at once\n", b"aside\n"
_MANY_ROUTES = 1_000
"""A reader of fewer routes is ended when it has rested: it costs more memory than it saves time."""


class ReaderEndedError(ConfigurationError):
    """Says nothing about the files: another reader may read them."""


class ConfigurationReader:
    """Reads the configuration at ``path`` again and again, and each time only what has changed.

    ``secrets`` as in ``load.load``. ``in_brief`` is for planes without a use for routes: they are read and checked all the same, since a
    configuration is usable by all planes or by none, but not handed over. Concurrency: belongs to one event loop; one reading at a time.
    """

    def __init__(self, path: Path, *, secrets: SecretReader = read_secret, in_brief: bool = False) -> None:
        self.path = path
        self._arguments = [str(path), "secrets" if secrets is read_secret else "none", "brief" if in_brief else "whole"]
        self._routes = 0
        self._process: Process | None = None
        self._held: dict[int, RoutePolicy] = {}
        self._rest: asyncio.TimerHandle | None = None

    async def load(self) -> Loaded:
        """As ``load.load``, beside a plane that serves: the reader takes what cores others leave.

        Raises:
            ConfigurationError: it cannot be read, or is no YAML at all.
            ReaderEndedError: the reader ended without an answer.
        """
        return await self._loaded(_ASIDE)

    async def _loaded(self, question: bytes) -> Loaded:
        if self._rest is not None:
            self._rest.cancel()
        try:
            async with asyncio.timeout(_SECONDS):
                loaded = await self._ask(question)
        except BaseException as error:
            # Whatever has been sent and not been taken would be the answer to the next question.
            await self.close()
            if isinstance(error, asyncio.IncompleteReadError | OSError | pickle.UnpicklingError | EOFError | KeyError):
                # A TimeoutError is an OSError.
                raise ReaderEndedError(
                    [f"{self.path}: error: its reader ended without an answer ({type(error).__name__})"]
                ) from None
            raise
        if self._routes < _MANY_ROUTES:
            self._rest = asyncio.get_running_loop().call_later(_REST_SECONDS, self._end)
        if isinstance(loaded, list):
            raise ConfigurationError(loaded)
        return loaded

    async def settings(self) -> Settings:
        """As ``load.load_settings``, for a plane that waits for it to begin.

        Raises:
            ConfigurationError: the file cannot be used; carries every problem.
        """
        loaded = await self._loaded(_AT_ONCE)
        if loaded.settings is None:
            raise ConfigurationError([problem.render() for problem in loaded.problems if problem.severity == "error"])
        return loaded.settings

    async def close(self) -> None:
        """End the process; the next reading starts another one. Idempotent."""
        process = self._process
        self._end()
        if process is not None:
            await process.wait()

    def _end(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
        process, self._process, self._rest, self._held = self._process, None, None, {}
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    async def _ask(self, question: bytes) -> Loaded | list[str]:
        if self._process is None or self._process.returncode is not None:
            self._held = {}
            self._process = await asyncio.create_subprocess_exec(
                # Without us there is nobody to read for; by itself it would notice at the end, after a minute of a core.
                *(sys.executable, "-m", "doorward.runtime.child", str(os.getpid())),
                *(sys.executable, "-m", "doorward.config.apart", *self._arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_PIECE_LIMIT,
                start_new_session=True,
            )
        asking, answering = self._process.stdin, self._process.stdout
        if asking is None or answering is None:
            raise EOFError
        asking.write(question)
        await asking.drain()
        first: Loaded | list[str] = await _piece(answering)
        if isinstance(first, list) or first.settings is None:
            return first
        held = self._held
        while fresh := await _piece(answering):
            held.update(fresh)
            await asyncio.sleep(0)
        routes: list[RoutePolicy] = []
        order = array.array("L")
        order.frombytes(await _piece(answering))
        kept: dict[int, RoutePolicy] = {}
        for start in range(0, len(order), _ORDER_SLICE):
            some = order[start : start + _ORDER_SLICE]
            routes += map(held.__getitem__, some)
            kept.update((number, held[number]) for number in some)
            await asyncio.sleep(0)
        self._held = kept
        brief = first.settings.known_in_brief
        self._routes = len(routes) if brief is None else brief.count
        return dataclasses.replace(first, settings=dataclasses.replace(first.settings, routes=tuple(routes)))


async def _piece(stream: asyncio.StreamReader) -> Any:
    length = int.from_bytes(await stream.readexactly(_LENGTH_BYTES), "big")
    return pickle.loads(await stream.readexactly(length))  # noqa: S301  # our own child wrote it


class _Child:
    """Answers each line with what became of the configuration."""

    def __init__(self, path: Path, secrets: SecretReader, answers: BinaryIO, *, in_brief: bool) -> None:
        # For the child alone: a plane is given settings, and starts sooner without what makes them of files.
        from doorward.config.load import load  # noqa: PLC0415
        from doorward.config.remembered import Remembered  # noqa: PLC0415

        self._in_brief = in_brief
        self._answers = answers
        self._load = functools.partial(load, path, secrets=secrets, remembered=Remembered())
        self._sent: dict[int, tuple[int, RoutePolicy]] = {}
        """Number and route by the route's identity; the route is kept, so that no other object gets it."""
        self._next = 0

    def answer(self) -> None:
        try:
            loaded = self._load()
        except ConfigurationError as error:
            self._send(error.problems)
            return
        settings = loaded.settings
        if settings is None:
            self._send(loaded)
            return
        if self._in_brief:
            settings = settings.in_brief
        self._send(dataclasses.replace(loaded, settings=dataclasses.replace(settings, routes=())))
        fresh: list[tuple[int, RoutePolicy]] = []
        sent: dict[int, tuple[int, RoutePolicy]] = {}
        for item in settings.routes:
            known = self._sent.get(id(item))
            if known is None:
                known = (self._next, item)
                self._next += 1
                fresh.append(known)
            sent[id(item)] = known
        self._sent = sent
        for start in range(0, len(fresh), _SLICE):
            self._send(fresh[start : start + _SLICE])
        self._send(())
        self._send(array.array("L", (number for number, _ in sent.values())).tobytes())

    def _send(self, piece: object) -> None:
        data = pickle.dumps(piece, protocol=pickle.HIGHEST_PROTOCOL)
        self._answers.write(len(data).to_bytes(_LENGTH_BYTES, "big") + data)
        self._answers.flush()


@contextlib.contextmanager
def _giving_way(priority: Priority, patience_seconds: float = _PATIENCE_SECONDS) -> Iterator[None]:
    """Take what cores others leave, for as long as is bearable."""
    priority.lower()
    done = threading.Event()

    def give_way() -> None:
        priority.become(_NICE, done)
        if not done.wait(patience_seconds):
            priority.become(_IMPATIENT_NICE, done)

    thread = threading.Thread(target=give_way)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def main() -> None:
    """The child: reads when it is asked, until nobody is left to ask."""
    secrets = read_secret if sys.argv[2] == "secrets" else no_secret
    child = _Child(Path(sys.argv[1]), secrets, sys.stdout.buffer, in_brief=sys.argv[3] == "brief")
    gc.disable()  # trees are no cycles, and looking for some in ten thousand routes takes longer than reading one file
    priority = Priority()
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        while question := sys.stdin.buffer.readline():
            if question == _AT_ONCE:
                child.answer()
                continue
            with _giving_way(priority):
                child.answer()


if __name__ == "__main__":
    main()
