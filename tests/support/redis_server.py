"""Real servers for the record store: Valkey from its wheel, and Debian's Redis."""

import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.deployment import short_folder, wait_for

from doorward.runtime.valkey import valkey_binary


class RedisServer:
    """A server on a Unix socket that can be killed and started again on its files."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self.socket = folder / "s"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        command = [
            self._program, "--port", "0", "--unixsocket", str(self.socket), "--dir", str(self._folder),
            "--appendonly", "yes", "--appendfsync", "always", "--save", "", "--daemonize", "no",
        ]  # fmt: skip
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for(lambda: self.ask("PING").startswith(b"+PONG"), 10, what="the server")

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def ask(self, command: str) -> bytes:
        """The first bytes of the answer to an inline command; empty when nobody answers."""
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(str(self.socket))
                connection.sendall(command.encode() + b"\r\n")
                return connection.recv(1 << 20)
            except OSError:
                return b""


def program(name: str) -> str:
    """Path of ``valkey`` or ``redis``; a missing one fails, it is never skipped."""
    if name == "valkey":
        return str(valkey_binary())
    found = shutil.which("redis-server")
    assert found is not None, "the tests need Debian's redis-server; `make test` installs it"
    return found


@contextmanager
def redis_server(name: str) -> Iterator[RedisServer]:
    with short_folder() as folder:
        server = RedisServer(program(name), folder)
        server.start()
        try:
            yield server
        finally:
            server.stop(signal.SIGKILL)
