"""The embedded store keeps what it acknowledged and is never adopted blindly."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.deployment import short_folder

from doorward.runtime.valkey import start_valkey


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as path:
        yield path


def ask(path: Path, command: str) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(command.encode() + b"\r\n")
        return connection.recv(200).decode()


async def test_what_was_acknowledged_survives_kill_9(folder: Path):
    address = folder / "s"
    store = await start_valkey(folder, address, folder / "log")
    assert ask(address, "SET a 1") == "+OK\r\n"
    await store.stop(signal.SIGKILL, 5)
    store = await start_valkey(folder, address, folder / "log")
    try:
        assert ask(address, "GET a") == "$1\r\n1\r\n"
        assert address.stat().st_mode & 0o077 == 0
    finally:
        await store.stop(signal.SIGTERM, 5)


async def test_an_orphan_on_the_socket_is_shut_down_first(folder: Path):
    """Two stores on one folder would corrupt it."""
    address = folder / "s"
    orphan = await start_valkey(folder, address, folder / "log")
    assert ask(address, "SET a 1") == "+OK\r\n"
    store = await start_valkey(folder, address, folder / "log")
    try:
        assert await orphan.wait() == 0
        assert ask(address, "GET a") == "$1\r\n1\r\n"
    finally:
        await store.stop(signal.SIGTERM, 5)
