"""One connection to a store: what it makes of answers that are cut, late, malformed or of somebody else."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError
from redis.exceptions import TimeoutError as RedisTimeoutError
from tests.support.broker import until
from tests.support.deployment import short_folder

from doorward.errors import UnavailableError
from doorward.keys.secret import Secret
from doorward_databroker.store.connection import Link
from doorward_databroker.store.servers import Credentials, Servers
from doorward_databroker.store.wire import Wire

ASKED = [("GET", "a"), ("GET", "b")]


class Server:
    """Answers what it is told to, and hears what it is sent."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heard = b""
        self.answers: list[bytes] = []
        self.streams: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.streams.append(writer)
        while data := await reader.read(65_536):
            self.heard += data
            if data.startswith(b"*2\r\n$5\r\nHELLO"):
                writer.write(b"%1\r\n+proto\r\n:3\r\n")
            elif self.answers:
                writer.write(self.answers.pop(0))
        writer.close()

    async def wire(self) -> Wire:
        _, wire = await asyncio.get_running_loop().create_unix_connection(Wire, str(self.path))
        return wire


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    with short_folder() as folder:
        made = Server(folder / "s")
        listening = await asyncio.start_unix_server(made.serve, str(made.path))
        yield made
        listening.close()
        for stream in made.streams:
            stream.close()


async def test_answers_come_in_order_in_any_pieces_and_errors_are_answers(server: Server):
    wire = await server.wire()
    asked = asyncio.create_task(wire.exchange([*ASKED, ("EVALSHA", "x", 0)], 5))
    await until(lambda: b"EVALSHA" in server.heard)
    for byte in b"$1\r\n1\r\n>2\r\n$4\r\npush\r\n:1\r\n_\r\n-NOSCRIPT No matching script\r\n":
        server.streams[0].write(bytes([byte]))
        await asyncio.sleep(0)
    first, second, third = await asked
    assert (first, second) == (b"1", None)
    assert isinstance(third, NoScriptError)
    assert server.heard.startswith(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*2\r\n")
    assert wire.is_open
    wire.abort()


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"$1\r\n1\r\n$x\r\n", b"+1\r\n+2\r\n+3\r\n", b"\0" * 100],
    ids=["another protocol", "a malformed length", "one too many", "zeros"],
)
async def test_what_is_no_answer_ends_the_connection(server: Server, answer: bytes):
    wire = await server.wire()
    server.answers = [answer]
    with pytest.raises(RedisConnectionError):
        await wire.exchange(ASKED, 5)
    assert not wire.is_open
    with pytest.raises(RedisConnectionError, match="closed"):
        await wire.exchange(ASKED, 5)


async def test_an_answer_that_nobody_asked_for_is_nobodys(server: Server):
    wire = await server.wire()
    server.answers = [b"+1\r\n+2\r\n"]
    assert await wire.exchange(ASKED, 5) == [b"1", b"2"]
    server.streams[0].write(b"+3\r\n")
    await until(lambda: not wire.is_open)


async def test_a_connection_that_ends_in_the_middle_of_an_answer(server: Server):
    wire = await server.wire()
    server.answers = [b"$1\r\n1\r\n$5\r\nab"]
    asked = asyncio.create_task(wire.exchange(ASKED, 5))
    await until(lambda: bool(server.heard))
    server.streams[0].close()
    with pytest.raises(RedisConnectionError):
        await asked
    assert not wire.is_open


async def test_connections_that_ended_while_nobody_looked_are_not_used_one_after_the_other(server: Server):
    """A server that dies ends them all at once; after the first failure the next call must find the server that came after it."""
    link = Link(Servers.parse(f"unix://{server.path}"))
    server.answers = [b"+1\r\n"] * 3
    assert await asyncio.gather(*(link.run(("GET", "a")) for _ in range(3))) == [[b"1"]] * 3
    for stream in server.streams:
        stream.close()
    server.answers = [b"+2\r\n"]
    assert await link.run(("GET", "a")) == [b"2"], "one is found to be closed, and then none is left to try"
    await link.close()


async def test_a_silent_server_is_given_up_and_a_slow_one_is_not(server: Server):
    wire = await server.wire()
    asked = asyncio.create_task(wire.exchange(ASKED, 0.2))
    await until(lambda: bool(server.heard))
    for piece in (b"$4\r\n", b"12", b"34\r\n", b"$1\r\n1\r\n"):
        await asyncio.sleep(0.08)
        server.streams[0].write(piece)
    assert await asked == [b"1234", b"1"]
    with pytest.raises(RedisTimeoutError):
        await wire.exchange(ASKED, 0.05)
    assert not wire.is_open


async def test_an_exchange_that_is_given_up_leaves_no_answer_to_the_next_one(server: Server):
    wire = await server.wire()
    asked = asyncio.create_task(wire.exchange(ASKED, 5))
    await until(lambda: bool(server.heard))
    with pytest.raises(RedisConnectionError, match="in use"):
        await wire.exchange(ASKED, 5)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert not wire.is_open


async def test_a_server_that_does_not_let_us_in_has_done_nothing(server: Server):
    servers = Servers.parse(f"unix://{server.path}", Credentials(username="me", password=Secret("hunter2")))
    link = Link(servers)
    server.answers = [b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"] * 2
    with pytest.raises(UnavailableError, match="cannot be reached: AuthenticationError") as refused:
        await link.run(("GET", "a"))
    assert "hunter2" not in str(refused.value)
    assert b"HELLO\r\n$1\r\n3\r\n$4\r\nAUTH\r\n$2\r\nme\r\n" in server.heard
    assert b"GET" not in server.heard
    await link.close()
