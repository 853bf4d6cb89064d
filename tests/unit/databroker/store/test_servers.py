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
