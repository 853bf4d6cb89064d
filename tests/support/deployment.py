"""Whole deployments as the tests use them: the real command line, real processes, a data folder of their own."""

import itertools
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

START_SECONDS = 60.0
PLANES = ("databroker", "authenticate", "authorize", "proxy", "guard")


@dataclass
class Running:
    """A deployment that was started and has said that it is ready."""

    process: subprocess.Popen[bytes]
    ready: dict[str, Any]
    data: Path
    log: Path
    stopped: bool = field(default=False)

    @property
    def ca_file(self) -> Path:
        return self.data / "certificates" / "authority.crt"

    @property
    def decisions_file(self) -> Path:
        return self.data / "logs" / "decisions.jsonl"

    def member(self, name: str) -> psutil.Process:
        """The process of a plane (``authorize``), of ``envoy`` or of ``valkey``."""
        for child, command in self._commands():
            if name in PLANES and "serve" in command and command[command.index("serve") + 1] == name:
                return child
            if name == "envoy" and command and Path(command[0]).name == "envoy":
                return child
            if name == "valkey" and command and command[0].split(" ")[0].endswith("valkey-server"):
                return child
        raise LookupError(f"no process of `{name}` runs")

    def worker(self, plane: str, number: int) -> int | None:
        """The process id of a plane's worker; ``None`` while none runs."""
        wanted = {f"serve {plane} ", f" --worker {number} "}
        found = (
            child.pid for child, command in self._commands() if all(part in " ".join(command) + " " for part in wanted)
        )
        return next(found, None)

    def _commands(self) -> Iterator[tuple[psutil.Process, list[str]]]:
        for child in self.members():
            try:
                command = child.cmdline()
            except psutil.Error:
                continue
            if "doorward.runtime.child" not in command:
                yield child, command

    def members(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``doorward ARGUMENTS --data …`` against this deployment."""
        return subprocess.run(
            [sys.executable, "-m", "doorward.cli.app", *arguments, "--data", str(self.data)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def decisions(self) -> list[dict[str, Any]]:
        """The decision log so far; what is being written now is not."""
        if not self.decisions_file.exists():
            return []
        return [json.loads(line) for line in self.decisions_file.read_text().rpartition("\n")[0].splitlines()]

    def stop(self, number: int = signal.SIGINT) -> int:
        """End it as a person would, and return its exit status; kills what does not end."""
        if self.process.poll() is None and not self.stopped:
            self.process.send_signal(number)
        self.stopped = True
        if self.process.stdout is not None:
            self.process.stdout.close()
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        children = self.members() if self.process.poll() is None else []
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process.kill()
        self.process.wait()
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()


def start(arguments: Sequence[str], data: Path, *, wait: float = START_SECONDS) -> Running:
    """Start ``doorward ARGUMENTS --data DATA`` and return once it has printed its ready line.

    Raises:
        RuntimeError: it ended or was not ready in time; carries its log.
    """
    data.mkdir(parents=True, exist_ok=True)
    log = data / "console.log"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    with log.open("a") as console:
        process = subprocess.Popen(
            [sys.executable, "-m", "doorward.cli.app", *arguments, "--data", str(data)],
            stdout=subprocess.PIPE,
            stderr=console,
            env=environment,
            start_new_session=True,
        )
    running = Running(process=process, ready={}, data=data, log=log)
    try:
        running.ready = _ready_line(process, time.monotonic() + wait)
    except BaseException:
        with suppress(psutil.NoSuchProcess):
            running.kill()
        raise
    return running


def _ready_line(process: subprocess.Popen[bytes], deadline: float) -> dict[str, Any]:
    assert process.stdout is not None
    seen = b""
    while time.monotonic() < deadline:
        readable, _, _ = select.select([process.stdout], [], [], 0.2)
        if readable:
            chunk = os.read(process.stdout.fileno(), 65536)
            if not chunk:
                break
            seen += chunk
            *lines, _ = seen.split(b"\n")
            for line in lines:
                if line.startswith(b'{"ready": true'):
                    return dict(json.loads(line))
        elif process.poll() is not None:
            break
    with suppress(subprocess.TimeoutExpired):
        process.wait(5)  # its output ends a moment before it does
    raise RuntimeError(f"not ready (exit status {process.poll()}): {seen.decode()}")


_PORTS = range(10_000, 32_000)
"""Below those that the kernel hands out for outgoing connections, which could take a port before its server does."""
_ports = itertools.count(os.getpid() * 7_919)


def free_port() -> int:
    """A port on loopback that nobody uses now, not given twice by this process, and far from what other processes are given."""
    for number in itertools.islice(_ports, len(_PORTS)):
        port = _PORTS[number % len(_PORTS)]
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


def wait_for(condition: Callable[[], object], seconds: float = 15.0, *, what: str = "the condition") -> Any:
    """The first true value of ``condition``, looked at every 20 ms."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)  # between two looks at a condition
    raise AssertionError(f"{what} did not come about within {seconds} s")


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder with a short path, for sockets and data; removed at the end."""
    path = Path(tempfile.mkdtemp(prefix="dw-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
