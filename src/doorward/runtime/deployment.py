"""All planes, the embedded store and Envoy on one machine, started together and stopped in order.

    run()   valkey ─► databroker, authenticate, authorize, proxy (which owns Envoy) ─► ready
    stop    proxy (drains and ends Envoy) ─► authenticate, authorize ─► databroker ─► valkey

A member that ends on its own is started again, with growing pauses; the others go on and fail closed meanwhile.
"""

import asyncio
import functools
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from doorward.config.endpoints import LocalEndpoints, default_run_folder
from doorward.config.settings import Settings
from doorward.errors import UnavailableError
from doorward.keys.store import create_missing_keys
from doorward.runtime.children import Child, spawn_ready
from doorward.runtime.folder import private_folder
from doorward.runtime.valkey import start_valkey

PLANES = ("databroker", "authenticate", "authorize", "proxy")
_STOP_ORDER = (("proxy",), ("authenticate", "authorize", "directory"), ("databroker",), ("valkey",))
"""By plane; all workers of one together."""
_START_SECONDS = 120.0
_STOP_SECONDS = 9.0
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
_HEALTHY_SECONDS = 10.0

_log = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True)
class _Member:
    name: str
    start: Callable[[], Awaitable[Child]]
    child: Child | None = None
    keeper: asyncio.Task[None] | None = None


class Deployment:
    """One deployment on one machine. The caller holds the data folder (``HeldFolder``)."""

    def __init__(self, config_path: Path, settings: Settings, data_dir: Path, *, log_dir: Path | None) -> None:
        self._config_path = config_path.resolve()
        self._data_dir = data_dir.resolve()
        self._log_dir = log_dir
        self.run_dir = default_run_folder(self._data_dir)
        self._members: dict[str, _Member] = {}
        self._stopping = False
        if settings.redis is None:
            self._members["valkey"] = _Member("valkey", self._start_valkey)
        # Directories need a process only where there are some.
        planes = (*PLANES, "directory") if settings.directories else PLANES
        workers = {"authorize": settings.authorize_workers}
        for plane in planes:
            for worker in range(workers.get(plane, 1)):
                name = f"{plane}.{worker}" if worker else plane
                self._members[name] = _Member(name, functools.partial(self._start_plane, plane, worker))

    @property
    def processes(self) -> dict[str, int]:
        """Process id of each member that runs."""
        return {
            name: member.child.process.pid
            for name, member in self._members.items()
            if member.child and member.child.running
        }

    async def start(self, progress: Callable[[str], None]) -> None:
        """Start every member and return when all are ready; ``progress`` hears of each.

        Raises:
            UnavailableError: a member does not start; what had started has been stopped again.
        """
        private_folder(self.run_dir)
        create_missing_keys(self._data_dir / "keys")
        if self._log_dir is not None:
            private_folder(self._log_dir)
        try:
            if "valkey" in self._members:
                await self._bring_up(self._members["valkey"], progress)
            planes = [member for name, member in self._members.items() if name != "valkey"]
            async with asyncio.TaskGroup() as group:
                for member in planes:
                    group.create_task(self._bring_up(member, progress))
        except BaseException as error:
            await self.stop()
            if isinstance(error, BaseExceptionGroup):
                raise UnavailableError("; ".join(str(cause) for cause in error.exceptions)) from error
            raise
        for member in self._members.values():
            member.keeper = asyncio.create_task(self._keep(member), name=f"keep {member.name}")

    async def stop(self) -> None:
        """End every member in order. Idempotent."""
        self._stopping = True
        for group in _STOP_ORDER:
            members = [member for name, member in self._members.items() if name.partition(".")[0] in group]
            await asyncio.gather(*(self._end(member) for member in members))

    async def _bring_up(self, member: _Member, progress: Callable[[str], None]) -> None:
        member.child = await member.start()
        progress(member.name)

    async def _end(self, member: _Member) -> None:
        if member.child is not None:
            status = await member.child.stop(signal.SIGTERM, _STOP_SECONDS)
            if status not in {0, -signal.SIGTERM}:
                _log.warning("ended with an error", member=member.name, status=status)
        if member.keeper is not None:
            member.keeper.cancel()
            await asyncio.gather(member.keeper, return_exceptions=True)

    async def _keep(self, member: _Member) -> None:
        """Start ``member`` again whenever it ends and nobody asked it to."""
        pause = _FIRST_PAUSE_SECONDS
        clock = asyncio.get_running_loop().time
        while True:
            started = clock()
            child = member.child
            if child is not None:
                status = await child.wait()
                if self._stopping:
                    return
                _log.error("ended unexpectedly and is started again", member=member.name, status=status)
            if clock() - started > _HEALTHY_SECONDS:
                pause = _FIRST_PAUSE_SECONDS
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            member.child = None
            try:
                member.child = await member.start()
            except Exception as error:
                # Whatever it was, out of processes perhaps: nobody else would ever try again.
                known = isinstance(error, UnavailableError)
                _log.error("does not start", member=member.name, error=str(error), exc_info=not known)

    async def _start_valkey(self) -> Child:
        return await start_valkey(self._data_dir, LocalEndpoints(self.run_dir).redis, self._log_file("valkey"))

    async def _start_plane(self, plane: str, worker: int) -> Child:
        command = [
            sys.executable, "-m", "doorward.cli.app", "serve", plane,
            "--config", str(self._config_path),
            "--data", str(self._data_dir),
            "--run-dir", str(self.run_dir),
            "--worker", str(worker),
        ]  # fmt: skip
        log_file = self._log_file(f"{plane}.{worker}" if worker else plane) if self._log_dir is not None else None
        return await spawn_ready(plane, command, timeout_seconds=_START_SECONDS, log_file=log_file)

    def _log_file(self, name: str) -> Path:
        folder = self._log_dir if self._log_dir is not None else private_folder(self._data_dir / "logs")
        return folder / f"{name}.log"
