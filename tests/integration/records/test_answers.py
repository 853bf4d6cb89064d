"""What the servers and the library answer, as the store relies on it: shapes under RESP3, and what the library never does by itself."""

import hashlib
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.exceptions import NoScriptError, ResponseError
from tests.support.deployment import free_port
from tests.support.redis_server import RedisServer, redis_server

from doorward.errors import DataCorruptedError
from doorward_databroker.store.connection import Call, Link, Script
from doorward_databroker.store.servers import ANSWER_SECONDS, CONNECT_SECONDS, Servers


@pytest.fixture(scope="module", params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with redis_server(request.param, port=free_port()) as running:
        yield running


@pytest.fixture
async def link(server: RedisServer) -> AsyncIterator[Link]:
    server.ask("FLUSHALL")
    made = Link(Servers.parse(server.url))
    try:
        yield made
    finally:
        await made.close()


def script(text: str) -> Script:
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


async def test_the_shapes_of_answers(server: RedisServer, link: Link):
    for number in range(600):
        server.ask(f"SET {{dw}}:k{number} {number}")
    server.ask("HSET {dw}:h a 1 b 2")
    server.ask("ZADD {dw}:z 0 b 0 a 5 c")
    server.ask("XADD {dw}:s 1-1 f x g y")
    ((cursor, keys),) = await link.run(("SCAN", "0", "MATCH", "{dw}:k*", "COUNT", 100))
    assert int(cursor) > 0
    assert all(isinstance(key, bytes) for key in keys)
    whole, values, none, ids, members, entries, missing, count = await link.run(
        ("HGETALL", "{dw}:h"),
        ("HMGET", "{dw}:h", "a", "nothing"),
        ("HMGET", "{dw}:nothing", "a"),
        ("ZRANGE", "{dw}:z", "-", "+", "BYLEX", "LIMIT", 0, 2),
        ("ZRANGEBYSCORE", "{dw}:z", "-inf", "(1", "LIMIT", 0, 9),
        ("XRANGE", "{dw}:s", "-", "+"),
        ("GET", "{dw}:nothing"),
        ("ZCARD", "{dw}:z"),
    )
    assert whole == {b"a": b"1", b"b": b"2"}
    assert (values, none) == ([b"1", None], [None])
    assert ids == members == [b"a", b"b"]
    assert entries == [[b"1-1", [b"f", b"x", b"g", b"y"]]]
    assert (missing, count) == (None, 3)
    assert await link.block("XREAD", "BLOCK", 1, "STREAMS", "{dw}:s", "0-1") == {b"{dw}:s": entries}
    assert await link.block("XREAD", "BLOCK", 1, "STREAMS", "{dw}:s", "1-1") is None
    (role, info) = await link.run(("ROLE",), ("INFO", "memory"))
    assert role[0] == b"master"
    assert b"maxmemory_policy:noeviction" in info


async def test_what_scripts_answer(link: Link):
    call = Call(script("return {1, 'two', false, {'ok', 3.7}, redis.call('HGETALL', KEYS[1])}"), ["{dw}:h"])
    await link.run(("HSET", "{dw}:h", "a", "1"))
    # In a script the server speaks the older protocol: flat lists, whole numbers, and nothing for `false`.
    assert await link.write(call) == [1, b"two", None, [b"ok", 3], [b"a", b"1"]]
    await link.run(("SCRIPT", "FLUSH"))
    assert isinstance((await link.write_all([call]))[0], NoScriptError)
    assert await link.write(call) == [1, b"two", None, [b"ok", 3], [b"a", b"1"]]
    wrong = Call(script("return redis.call('GET', KEYS[1])"), ["{dw}:h"])
    await link.write_all([wrong])
    assert isinstance((await link.write_all([wrong]))[0], ResponseError)
    with pytest.raises(DataCorruptedError, match="WRONGTYPE"):
        await link.run(("GET", "{dw}:h"))


async def test_the_library_neither_repeats_nor_probes_and_gives_up_in_time(server: RedisServer):
    """It is asked where the primary is; by default it would ask ten times, for five seconds each."""
    client = Servers.parse(f"redis://127.0.0.1:{server.port}").client(("127.0.0.1", server.port))
    try:
        options = client.connection_pool.connection_kwargs
        assert options["retry"].get_retries() == 0
        assert options["retry_on_error"] == []
        assert options["health_check_interval"] == 0
        assert (options["socket_timeout"], options["socket_connect_timeout"]) == (ANSWER_SECONDS, CONNECT_SECONDS)
        assert options["protocol"] == 3
        server.ask("CONFIG RESETSTAT")
        assert (await client.execute_command("ROLE"))[0] in {b"master", "master"}
        said = server.ask("INFO commandstats")
        told = {
            line.split(b":")[0].removeprefix(b"cmdstat_") for line in said.splitlines() if line.startswith(b"cmdstat_")
        }
        assert told - {b"info", b"config", b"config|resetstat"} == {b"hello", b"role"}
    finally:
        await client.aclose()
