"""Envoy's life: started, watched, started again, drained.

Concurrency: all methods belong to the event loop's thread; ``run`` is one task, ``drain`` is called once, at the end.
"""

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import structlog

from doorward.clock import Clock
from doorward.errors import UnavailableError
from doorward.runtime.children import Child, spawn
from doorward_proxy.envoy.admin import EnvoyAdmin
from doorward_proxy.metrics import ProxyMetrics

DRAIN_SECONDS = 5.0
_END_SECONDS = 1.5
_FIRST_BACK_OFF = 0.1
_LONGEST_BACK_OFF = 5.0
_STEADY_SECONDS = 30.0
"""An Envoy that lived this long did not end because of how it was started."""
_POLL_SECONDS = 0.05
_LOG_FORMAT = '{"timestamp":"%Y-%m-%dT%T.%fZ","level":"%l","logger":"envoy.%n","plane":"proxy","event":"%j"}'

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvoyCommand:
    """How Envoy is started."""

    binary: Path
    bootstrap_file: Path
    concurrency: int
    """Worker threads."""
    log_file: Path | None = None
    """``None`` means our own standard error."""

    def arguments(self) -> list[str]:
        """The command line."""
        return [
            str(self.binary),
            "--config-path",
            str(self.bootstrap_file),
            "--concurrency",
            str(self.concurrency),
            # Connections of a replaced listener are gone within half a minute (default: ten).
            "--drain-time-s",
            "20",
            "--disable-hot-restart",
            "--log-level",
            "warning",
            "--log-format",
            _LOG_FORMAT,
        ]


class EnvoyProcess:
    """Keeps one Envoy running until it is drained."""

    def __init__(self, command: EnvoyCommand, admin: EnvoyAdmin, clock: Clock, metrics: ProxyMetrics) -> None:
        self._command = command
        self._admin = admin
        self._clock = clock
        self._metrics = metrics
        self._child: Child | None = None
        self._ended = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """Process id of the running Envoy, if one runs."""
        return self._child.process.pid if self._child is not None and self._child.running else None

    async def run(self) -> None:
        """Start Envoy, and again whenever it ends, until ``drain``.

        Raises:
            OSError: it cannot be started at all.
        """
        back_off = _FIRST_BACK_OFF
        while not self._ended.is_set():
            started = self._clock.monotonic()
            self._child = await spawn("envoy", self._command.arguments(), log_file=self._command.log_file)
            self._metrics.envoy_starts.inc()
            status = await self._child.wait()
            if self._ended.is_set():
                return
            lived = self._clock.monotonic() - started
            back_off = _FIRST_BACK_OFF if lived >= _STEADY_SECONDS else min(back_off * 2, _LONGEST_BACK_OFF)
            _log.error("envoy ended; starting it again", status=status, lived=round(lived, 1), after=back_off)
            await asyncio.sleep(back_off)

    async def wait_healthy(self, cluster: str) -> None:
        """Return once Envoy has found a healthy endpoint of ``cluster``."""
        while not await self._healthy(cluster):  # noqa: ASYNC110  # another process's state
            await asyncio.sleep(_POLL_SECONDS)

    async def _healthy(self, cluster: str) -> bool:
        try:
            return await self._admin.healthy_members(cluster) > 0
        except UnavailableError:
            return False

    async def wait_live(self) -> None:
        """Return once Envoy serves."""
        while not await self._admin.is_live():  # noqa: ASYNC110  # another process's state
            await asyncio.sleep(_POLL_SECONDS)

    async def drain(self) -> None:
        """Stop accepting, give open requests a few seconds, then end Envoy. Idempotent."""
        self._ended.set()
        child = self._child
        if child is None or not child.running:
            return
        # What does not answer any more is ended without further courtesies.
        with contextlib.suppress(TimeoutError, UnavailableError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._admin.start_drain()
                while await self._admin.open_connections():  # noqa: ASYNC110  # another process's
                    await asyncio.sleep(_POLL_SECONDS)
        await child.stop(signal.SIGTERM, _END_SECONDS)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    scratch = path.with_suffix(".tmp")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    scratch.replace(path)
