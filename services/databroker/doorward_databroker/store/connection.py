"""The way to the one server that takes writes; the library's errors become ours.

Concurrency: safe for any number of tasks. After a failure the primary is looked for again before the next use.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import structlog
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)

from doorward.errors import DataCorruptedError, DoorwardError, OutcomeUnknownError, UnavailableError
from doorward_databroker.store.servers import ANSWER_SECONDS, CONNECTIONS, Servers
from doorward_databroker.store.wire import Wire

BLOCK_SECONDS = 5.0
TURN_SECONDS = 2.0
"""How long a call waits for a connection while all are in use."""
_REFUSED = (
    BusyLoadingError, ReadOnlyError, OutOfMemoryError, MovedError, AskError, TryAgainError, ClusterDownError,
    MasterDownError, AuthenticationError, NoPermissionError,
)  # fmt: skip
_NO_REPLICAS = "NOREPLICAS"
_REFUSED_TEXTS = (
    _NO_REPLICAS,
    "MISCONF",
    "NOPERM",
    "NOAUTH",
    "WRONGPASS",
    "BUSY ",
    "LOADING",
    "CLUSTERDOWN",
    "READONLY",
    "OOM",
)
_CONNECTION = (RedisConnectionError, RedisTimeoutError, OSError)
_WRONG_SERVER = (MovedError, ReadOnlyError, MasterDownError, ClusterDownError, RedisConnectionError)
"""Answers for which the primary is looked for anew; the last kind are refusals such as `LOADING`. Another one is `NOREPLICAS`: without its
replicas it may have been replaced."""

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Script:
    """One of our scripts, called by its hash."""

    text: str
    sha: str

    @classmethod
    def load(cls, name: str) -> "Script":
        """The script in ``scripts/<name>.lua``."""
        text = resources.files(__package__).joinpath("scripts", f"{name}.lua").read_text()
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a script."""

    script: Script
    keys: Sequence[str]
    arguments: Sequence[Any] = field(default=())

    @property
    def command(self) -> tuple[Any, ...]:
        """As a command."""
        return ("EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.arguments)


class Link:
    """The store's server.

    ``replicas`` is how many replicas must hold a write before it counts as done, within ``replica_seconds``.
    """

    def __init__(
        self,
        servers: Servers,
        *,
        replicas: int = 0,
        replica_seconds: float = 1.0,
        turn_seconds: float = TURN_SECONDS,
    ) -> None:
        self._servers = servers
        self._replicas = replicas
        self._replica_ms = int(replica_seconds * 1000)
        self._turn_seconds = turn_seconds
        # When all are in use that must not look like a server that is away.
        self._turns = asyncio.Semaphore(CONNECTIONS)
        self._blocking_turns = asyncio.Semaphore(CONNECTIONS)
        self._server: _Server | None = None
        self._finding = asyncio.Lock()
        self._left = 0
        """How many primaries were found and left again."""
        self.address = ""
        """Whom we talk to, for people to read."""

    @property
    def replicas(self) -> int:
        """How many replicas must hold a write before it counts."""
        return self._replicas

    async def close(self) -> None:
        """Close every connection."""
        server, self._server = self._server, None
        if server is not None:
            server.leave()
            await asyncio.sleep(0)  # connections close in the next turn

    async def run(self, *commands: Sequence[Any]) -> list[Any]:
        """The answers to commands that only read, all sent at once.

        Raises:
            UnavailableError: no answer.
        """
        return [_good(answer) for answer in await self._send(commands, writing=False)]

    async def read(self, call: Call) -> Any:
        """The answer of a script that only reads; one answer costs less than the hundreds that it stands for.

        Raises:
            UnavailableError: no answer.
        """
        answer = (await self._send([call.command], writing=False))[0]
        if isinstance(answer, NoScriptError):
            answer = (await self._send([("SCRIPT", "LOAD", call.script.text), call.command], writing=False))[1]
        return _good(answer)

    async def block(self, *command: Any) -> Any:
        """The answer to a command that waits up to ``BLOCK_SECONDS``, on a connection of its own.

        Raises:
            UnavailableError: no answer.
        """
        return _good((await self._send([command], writing=False, blocking=True))[0])

    async def write(self, call: Call) -> Any:
        """The answer of a script that may write, once the replicas that are demanded have it.

        Raises:
            UnavailableError: nothing was done.
            OutcomeUnknownError: no answer, or too few replicas.
        """
        answer = (await self.write_all([call]))[0]
        if isinstance(answer, NoScriptError):
            answer = (await self.write_all([call]))[0]
        return _good(answer)

    async def write_all(self, calls: Sequence[Call]) -> list[Any]:
        """The answers of several scripts, run in order on one connection; each may be an error of the server's.

        A script that the server did not know (``NoScriptError``) has been loaded when this returns, and did nothing.

        Raises:
            UnavailableError: nothing was done.
            OutcomeUnknownError: no answer, or too few replicas.
        """
        commands = [call.command for call in calls]
        if self._replicas:
            commands.append(("WAIT", self._replicas, self._replica_ms))
        answers = await self._send(commands, writing=True)
        if self._replicas:
            answer = answers.pop()
            reached = (
                0 if isinstance(answer, Exception) else int(answer)
            )  # one that has become a replica refuses to wait
            if reached < self._replicas:
                # A primary without its replicas may be one that has been replaced without knowing it.
                self._drop(self._server)
                raise OutcomeUnknownError(f"{reached} of {self._replicas} replicas have confirmed the write")
        if any(isinstance(answer, NoScriptError) for answer in answers):
            await self._send([("SCRIPT", "LOAD", text) for text in {call.script.text for call in calls}], writing=False)
        return answers

    async def _send(self, commands: Sequence[Sequence[Any]], *, writing: bool, blocking: bool = False) -> list[Any]:
        if not commands:
            return []
        turns = self._blocking_turns if blocking else self._turns
        await self._take(turns)
        try:
            if not writing:
                try:
                    answers = await self._try(commands, writing=False, blocking=blocking)
                    if not any(isinstance(answer, MovedError) for answer in answers):
                        return answers
                except UnavailableError:
                    # A connection that was kept may have died meanwhile, and a slot may have moved; reading twice does no harm.
                    pass
            return await self._try(commands, writing=writing, blocking=blocking)
        finally:
            turns.release()

    async def _take(self, turns: asyncio.Semaphore) -> None:
        """Take one of the connections, for which is waited only so long."""
        if not turns.locked():
            await turns.acquire()  # at once
            return
        try:
            async with asyncio.timeout(self._turn_seconds):
                await turns.acquire()
        except TimeoutError:
            raise UnavailableError(f"the store is busy: all {CONNECTIONS} connections are in use") from None

    async def _try(self, commands: Sequence[Sequence[Any]], *, writing: bool, blocking: bool) -> list[Any]:
        server = self._server or await self._find()
        try:
            # Taken beforehand: a server that cannot be reached has certainly done nothing.
            wire = server.kept() or await self._servers.connect(server.address)
        except (RedisError, OSError) as error:
            self._drop(server)
            raise UnavailableError(f"the store cannot be reached: {_named(error)}") from error
        try:
            answers = await wire.exchange(commands, ANSWER_SECONDS + BLOCK_SECONDS if blocking else ANSWER_SECONDS)
        except _CONNECTION as error:
            self._drop(server)
            if writing:
                raise OutcomeUnknownError(f"no answer from the store: {type(error).__name__}") from error
            raise UnavailableError(f"the store does not answer: {type(error).__name__}") from error
        server.keep(wire)
        if any(map(_is_of_wrong_server, answers)):
            self._drop(server)
        return answers

    async def _find(self) -> "_Server":
        async with self._finding:
            if self._server is None:
                address = await self._servers.primary(self._left)
                self._server = _Server(address)
                name = f"{address[0]}:{address[1]}" if address else str(self._servers.socket)
                if name != self.address:
                    _log.info("records are kept at", address=name)
                self.address = name
            return self._server

    def _drop(self, server: "_Server | None") -> None:
        """Look for the primary anew before the next use."""
        if server is not None and server is self._server and self._servers.kind != "node":
            self._server = None
            self._left += 1
            server.leave()


class _Server:
    """A server that was found, and the connections to it that nobody uses."""

    def __init__(self, address: tuple[str, int] | None) -> None:
        self.address = address
        self._idle: list[Wire] = []
        self._left = False

    def kept(self) -> Wire | None:
        """One of them that is open; the one that was used last, so that the others may be closed by the server."""
        while self._idle:
            wire = self._idle.pop()
            if wire.is_open:
                return wire
        return None

    def keep(self, wire: Wire) -> None:
        """Give one back."""
        if self._left:
            wire.abort()
        elif wire.is_open:
            self._idle.append(wire)

    def leave(self) -> None:
        """Close them, and those that are in use once they are given back."""
        self._left = True
        for wire in self._idle:
            wire.abort()
        self._idle.clear()


def _is_of_wrong_server(answer: Any) -> bool:
    return isinstance(answer, _WRONG_SERVER) or (
        isinstance(answer, ResponseError) and str(answer).startswith(_NO_REPLICAS)
    )


def refusal(error: Exception) -> DoorwardError:
    """Our error for one that the server answered with."""
    if isinstance(error, _REFUSED) or str(error).startswith(_REFUSED_TEXTS):
        return UnavailableError(f"the store refuses: {_named(error)}")
    if isinstance(error, NoScriptError):
        return UnavailableError("the store has forgotten a script")
    if isinstance(error, ResponseError):
        # A script that stopped half way met keys of another shape: something else lives under our prefix.
        return DataCorruptedError(f"the store holds something else under our keys: {_named(error)}")
    return UnavailableError(f"the store refuses: {_named(error)}")


def _good(answer: Any) -> Any:
    if isinstance(answer, Exception):
        raise refusal(answer) from answer
    return answer


def _named(error: Exception) -> str:
    text = str(error).splitlines()[0][:160] if str(error) else ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
