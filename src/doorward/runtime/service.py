"""One plane as a service: start, readiness, signals, ordered shutdown.

    run_service(options, main)
      └── main(options, stop)      builds everything, calls stop.ready(), awaits stop.wait(), tears down

A second signal ends the process at once. A plane that does not become idle within the grace period is ended too:
closing is the safe direction.
"""

import asyncio
import contextlib
import os
import resource
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from doorward.config.endpoints import Address
from doorward.errors import ConfigurationError
from doorward.telemetry.logging import configure_logging

GRACE_SECONDS = 8.0
_CANCEL_SECONDS = 1.0

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """What a plane is started with."""

    plane: str
    config_path: Path
    data_dir: Path
    """Keys, certificates and the store; mode 0700."""
    run_dir: Path
    """Sockets; mode 0700."""
    ready_fd: int | None = None
    """Where to write ``ready`` once the plane serves; for the process that started it."""
    worker: int = 0
    """Number of this worker among those of its plane."""
    listen: Mapping[str, Address] = field(default_factory=dict)
    """Where services listen instead of at the port that the configuration gives them, by service."""
    health: Address | None = None
    """Where to answer probes; nowhere by default."""

    @property
    def keys_dir(self) -> Path:
        """The key folder."""
        return self.data_dir / "keys"


class Stop:
    """Tells a plane when to end, and the world when it has started."""

    def __init__(self, ready_fd: int | None) -> None:
        self._event = asyncio.Event()
        self._is_ready = False
        self._ready_fd = ready_fd

    def request(self) -> None:
        """Ask the plane to end. Idempotent."""
        self._event.set()

    def ready(self) -> None:
        """Say that the plane serves. Idempotent."""
        self._is_ready = True
        if self._ready_fd is not None:
            with contextlib.suppress(OSError):  # whoever waited may be gone; that is no reason to fail
                os.write(self._ready_fd, b"ready\n")
                os.close(self._ready_fd)
            self._ready_fd = None

    @property
    def serving(self) -> bool:
        """Whether the plane has said that it serves and has not been asked to end."""
        return self._is_ready and not self._event.is_set()

    async def wait(self) -> None:
        """Return when the plane is to end."""
        await self._event.wait()


def run_service(
    options: ServeOptions,
    main: Callable[[ServeOptions, Stop], Awaitable[None]],
    make_loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> int:
    """Run ``main`` until it returns or a signal asks it to, and return the exit status; ``make_loop`` is for another loop than usual.

    ``SIGINT`` and ``SIGTERM`` request a stop; the second one ends the process at once.
    """
    configure_logging(options.plane)
    # A dump of our memory, or of a child's, would hold every key in it.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with asyncio.Runner(loop_factory=make_loop) as runner:
        return runner.run(_supervise(options, main))


async def _supervise(options: ServeOptions, main: Callable[[ServeOptions, Stop], Awaitable[None]]) -> int:
    stop = Stop(options.ready_fd)
    loop = asyncio.get_running_loop()
    signals = 0

    def on_signal() -> None:
        nonlocal signals
        signals += 1
        if signals > 1:
            os._exit(130)
        stop.request()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)

    async def body() -> None:
        await main(options, stop)

    task = asyncio.create_task(body())
    waiter = asyncio.create_task(stop.wait())
    await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    await asyncio.wait({task}, timeout=GRACE_SECONDS)
    if not task.done():
        _log.error("did not end within the grace period", seconds=GRACE_SECONDS)
        task.cancel()
        await asyncio.wait({task}, timeout=_CANCEL_SECONDS)
        if not task.done():
            os._exit(1)  # it ignores its cancellation, for which the event loop would wait for ever
        return 1
    try:
        await task
    except ConfigurationError:
        raise  # the operator's to mend: the command line words it, and a traceback would only hide it
    except Exception as error:
        _log.critical("the plane ended with an error", error=str(error), exc_info=True)
        return 1
    return 0
