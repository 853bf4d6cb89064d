"""Tells the databroker how this process is, and knows how the others are.

Concurrency: belongs to one event loop.
"""

import asyncio
import itertools
import secrets
from collections.abc import Callable, Iterable

import grpc.aio
import structlog

from doorward import __version__
from doorward.api.process.v1.process_pb2 import Process, ReportRequest
from doorward.api.process.v1.process_pb2_grpc import ProcessServiceStub
from doorward.errors import DoorwardError
from doorward.rpc.client import call

INTERVAL_SECONDS = 1.0
_TIMEOUT_SECONDS = 1.0

_log = structlog.stdlib.get_logger(__name__)


class Reporter:
    """One process's reports. ``describe`` fills in what is true at the moment."""

    def __init__(self, channel: grpc.aio.Channel, describe: Callable[[Process], None], process_id: str = "") -> None:
        self._stub = ProcessServiceStub(channel)
        self._describe = describe
        self._id = process_id or secrets.token_hex(4)
        self._sequence = itertools.count(1)
        self._soon = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []
        self.processes: tuple[Process, ...] = ()
        """Everybody, as of the last answer."""

    def soon(self) -> None:
        """Report at once: something has changed."""
        self._soon.set()

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after each answer."""
        self._listeners.append(listener)

    async def report(self) -> tuple[Process, ...]:
        """Report, and return everybody.

        Raises:
            DoorwardError: the databroker does not answer; nothing is known about the others.
        """
        answer = await call(self._stub.Report(ReportRequest(process=self._process()), timeout=_TIMEOUT_SECONDS))
        self.processes = tuple(answer.processes)
        for listener in self._listeners:
            listener()
        return self.processes

    async def run(self) -> None:
        """Report every second, and whenever something has changed, until cancelled; then say that we go."""
        failing = False
        try:
            while True:
                self._soon.clear()
                try:
                    await self.report()
                    failing = False
                except DoorwardError as error:
                    if not failing:
                        _log.warning("cannot report to the databroker", reason=str(error))
                    failing = True
                try:
                    async with asyncio.timeout(INTERVAL_SECONDS):
                        await self._soon.wait()
                except TimeoutError:
                    continue
        finally:
            await self._leave()

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS / 2):
                await self._stub.Report(ReportRequest(process=self._process(), leaving=True))
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, TimeoutError):
            pass  # silence says the same, a little later

    def _process(self) -> Process:
        process = Process(id=self._id, version=__version__, data_age_ms=-1, sequence=next(self._sequence))
        self._describe(process)
        return process


def behind(processes: Iterable[Process], planes: Iterable[str], generation: str) -> list[str]:
    """Names of the processes of ``planes`` that do not run ``generation``; the plane's own name where it has no process."""
    late = []
    found = tuple(processes)
    for plane in planes:
        members = [process for process in found if process.plane == plane]
        late += [f"{plane}/{process.id}" for process in members if process.generation != generation]
        if not members:
            late.append(str(plane))
    return late
