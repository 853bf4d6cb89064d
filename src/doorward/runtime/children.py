"""Child processes that cannot outlive us.

Each child runs in a session of its own, so that Ctrl-C in a terminal reaches only the parent, which then ends the
children in order. If the parent is killed, the kernel ends them (``doorward.runtime.child``).

Concurrency: all methods belong to the event loop's thread.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from doorward.errors import UnavailableError


@dataclass(slots=True)
class Child:
    """A running child process."""

    name: str
    process: asyncio.subprocess.Process

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.returncode is None

    async def wait(self) -> int:
        """The exit status, once it has ended; negative for a signal."""
        return await self.process.wait()

    async def stop(self, number: int, grace_seconds: float) -> int:
        """Send signal ``number``, wait, and kill it when it is still there after the grace. Idempotent."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)
        try:
            return await asyncio.wait_for(self.process.wait(), grace_seconds)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            return await self.process.wait()


async def spawn(
    name: str,
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    log_file: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> Child:
    """Start ``command`` bound to our life.

    Its standard output and error go to ``log_file``, or to ours when there is none; it reads nothing.
    """
    output = None
    try:
        if log_file is not None:
            output = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "doorward.runtime.child",
            str(os.getpid()),
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )
    finally:
        if output is not None:
            os.close(output)
    return Child(name, process)


async def spawn_ready(
    name: str,
    command: Sequence[str],
    *,
    timeout_seconds: float,
    log_file: Path | None = None,
) -> Child:
    """Start ``command --ready-fd N`` and return once it has written to that descriptor.

    Raises:
        UnavailableError: it ended, or was not ready in time; it is not running then.
    """
    reading, writing = os.pipe()
    try:
        child = await spawn(name, [*command, "--ready-fd", str(writing)], log_file=log_file, pass_fds=[writing])
    finally:
        os.close(writing)
    try:
        ready = await asyncio.wait_for(_read_line(reading), timeout_seconds)
    except TimeoutError:
        ready = False
    if not ready:
        status = await child.stop(15, 1.0)
        raise UnavailableError(f"{name} did not start (exit status {status})")
    return child


async def _read_line(descriptor: int) -> bool:
    """Whether anything was written before the other end was closed; closes ``descriptor``."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
    )
    try:
        return bool(await reader.readline())
    finally:
        transport.close()
