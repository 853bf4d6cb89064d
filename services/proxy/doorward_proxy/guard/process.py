"""The guard's life, seen from the proxy plane: started before Envoy, started again when it ends, ended after Envoy.

While it is away Envoy answers 503 on guarded routes and has reset their streams: closed, never open.
"""

import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog

from doorward.config.endpoints import Address, LocalEndpoints
from doorward.errors import UnavailableError
from doorward.runtime.children import Child, spawn_ready
from doorward.runtime.service import ServeOptions
from doorward_proxy.guard.authorizers import write_authorizers

PLANE = "guard"
_START_SECONDS = 20.0
_END_SECONDS = 2.0
_PAUSE_SECONDS = 0.1

_log = structlog.stdlib.get_logger(__name__)


class GuardProcess:
    """Keeps one guard running until it is stopped. Concurrency: belongs to one event loop; ``run`` is one task."""

    def __init__(self, options: ServeOptions, authorizers: Sequence[Address | Path]) -> None:
        self._command = [
            sys.executable, "-m", "doorward.cli.app", "serve", PLANE,
            "--config", str(options.config_path),
            "--data", str(options.data_dir),
            "--run-dir", str(options.run_dir),
        ]  # fmt: skip
        self._file = LocalEndpoints(options.run_dir).guard_authorizers
        self._authorizers = tuple(authorizers)
        self._child: Child | None = None
        self._stopping = False

    def replace_authorizers(self, authorizers: Sequence[Address | Path]) -> None:
        """Authorizers are elsewhere from now on; the guard goes on, and so do its streams."""
        if tuple(authorizers) != self._authorizers:
            self._authorizers = tuple(authorizers)
            write_authorizers(self._file, authorizers)

    async def start(self) -> None:
        """Return once it takes Envoy's calls.

        Raises:
            UnavailableError: it does not start.
        """
        write_authorizers(self._file, self._authorizers)
        self._child = await spawn_ready("guard", self._command, timeout_seconds=_START_SECONDS)

    async def run(self) -> None:
        """Start it again whenever it ends, until ``stop``."""
        while True:
            if self._child is not None:
                status = await self._child.wait()
                if self._stopping:
                    return
                _log.error("the guard ended, and with it every guarded stream; starting it again", status=status)
                self._child = None
            await asyncio.sleep(_PAUSE_SECONDS)
            try:
                await self.start()
            except UnavailableError as error:
                _log.error("the guard does not start", error=str(error))

    async def stop(self) -> None:
        """End it. Idempotent."""
        self._stopping = True
        if self._child is not None:
            await self._child.stop(signal.SIGTERM, _END_SECONDS)
