import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from doorward.errors import ConfigurationError
from doorward.keys.secret import Secret
from doorward_databroker.store.servers import Credentials, Servers


@pytest.mark.parametrize(
    ("url", "kind", "nodes", "service", "tls"),
    [
        ("redis://a:1", "node", (("a", 1),), "", False),
        ("redis://a", "node", (("a", 6379),), "", False),
        ("rediss://a:1", "node", (("a", 1),), "", True),
        ("redis://[::1]:1", "node", (("::1", 1),), "", False),
        ("redis+sentinel://a:1,b/main", "sentinel", (("a", 1), ("b", 26379)), "main", False),
        ("rediss+cluster://a:1,b:2", "cluster", (("a", 1), ("b", 2)), "", True),
    ],
)
def test_addresses(url: str, kind: str, nodes: tuple[tuple[str, int], ...], service: str, tls: bool):
    servers = Servers.parse(url)
    assert (servers.kind, servers.nodes, servers.service, servers.tls) == (kind, nodes, service, tls)


def test_a_socket_and_a_database():
    assert Servers.parse("unix:///run/redis.sock").socket == Path("/run/redis.sock")
    assert Servers.parse("redis://a:1/3").database == 3


@pytest.mark.parametrize(
    "url",
    ["", "a:1", "http://a", "redis+other://a", "redis://", "redis://a:x", "redis://a:1,b:1", "redis://a/x",
     "redis+sentinel://a:1"],
)  # fmt: skip
def test_what_is_no_address_is_refused(url: str):
    with pytest.raises(ConfigurationError):
        Servers.parse(url)


def test_a_password_is_not_shown():
    servers = Servers.parse("redis://joe:hunter2@a:1", Credentials(username="x", password=Secret("other")))
    assert servers.credentials.username == "joe"
    assert servers.credentials.password == Secret("hunter2")
    assert "hunter2" not in repr(servers)


@asynccontextmanager
async def sentinel(*states: tuple[int, int]) -> AsyncIterator[int]:
    """The port of one that names the primary by port, with an epoch; each question finds the next state, and the last one stays."""
    left = list(states)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readline():
            words = []
            for _ in range(int(head[1:])):
                await reader.readline()
                words.append((await reader.readline()).strip().upper())
            port, epoch = left[0]
            if words[0] != b"SENTINEL":
                writer.write(b"%1\r\n+proto\r\n:3\r\n" if words[0] == b"HELLO" else b"+OK\r\n")
                continue
            del left[: len(left) > 1]
            if words[1] == b"MASTER":
                writer.write(b"%%1\r\n+config-epoch\r\n+%d\r\n" % epoch)
            else:
                writer.write(b"*2\r\n+127.0.0.1\r\n+%d\r\n" % port)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_who_learns_of_a_failover_while_it_is_asked_does_not_name_the_old_primary_with_the_new_epoch():
    async with AsyncExitStack() as stack:
        ports = [
            await stack.enter_async_context(sentinel(*states)) for states in ([(1, 1), (2, 2)], [(2, 2)], [(1, 1)])
        ]
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        assert await Servers.parse(f"redis+sentinel://{hosts}/records").primary() == ("127.0.0.1", 2)
