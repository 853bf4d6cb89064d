"""What a real server does to us, and what we make of it: lost answers, lost scripts, no room, no right, other people's data."""

import asyncio
import resource
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.support.deployment import wait_for
from tests.support.fake_clock import FakeClock
from tests.support.key_material import keyring
from tests.support.lossy_proxy import lossy_proxy
from tests.support.redis_server import PASSWORD, RedisServer, redis_server, topology

from doorward.clock import SystemClock
from doorward.errors import (
    ConflictError,
    DataCorruptedError,
    DoorwardError,
    KeyMissingError,
    NotFoundError,
    OutcomeUnknownError,
    UnavailableError,
)
from doorward.keys.local_authority import LocalAuthority
from doorward.keys.secret import Secret
from doorward.keys.store import Purpose
from doorward.records.record import Record, RecordVersion, Write
from doorward_databroker.store.codec import SealedCodec
from doorward_databroker.store.connection import Link
from doorward_databroker.store.redis import RedisStore
from doorward_databroker.store.servers import CONNECTIONS, Credentials, Servers


def session(name: str, data: bytes = b"x") -> Record:
    return Record(type="Session", id=name, data=data, indexes={"user_id": ("u",)})


@asynccontextmanager
async def store_at(url: str, *, keys: tuple[str, ...] = (), replicas: int = 0) -> AsyncIterator[RedisStore]:
    link = Link(Servers.parse(url), replicas=replicas, replica_seconds=0.3)
    store = RedisStore(link, SealedCodec(keyring(Purpose.RECORDS, *keys)), FakeClock())
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest):
    with redis_server(request.param) as running:
        yield running


async def test_a_put_whose_answer_was_lost_happens_once_and_succeeds(server: RedisServer):
    """The library repeats it on its own when it may: two entries, or a conflict with oneself."""
    async with lossy_proxy(server.socket) as proxy, store_at(proxy.url) as store:
        (first,) = await store.put([Write(record=session("a"))], "r0")
        proxy.lose = 1
        assert await store.put([Write(record=session("a", b"2"), expected=first)], "r1") == (RecordVersion(1, 2),)
        proxy.lose = 1
        assert await store.put([Write(record=session("b"), absent=True)], "r2") == (RecordVersion(1, 3),)
        proxy.lose = 1
        deletion = Write(record=Record(type="Session", id="a", deleted=True))
        assert await store.put([deletion], "r3") == (RecordVersion(1, 4),)
        assert proxy.lost == 3
        assert (await store.head()).version == RecordVersion(1, 4)


async def test_a_put_that_is_never_answered_is_unknown_and_can_be_asked_for(server: RedisServer):
    async with lossy_proxy(server.socket) as proxy, store_at(proxy.url) as store:
        await store.head()
        proxy.lose = 2
        with pytest.raises(OutcomeUnknownError):
            await store.put([Write(record=session("a"), absent=True)], "r1")
        assert await store.put([Write(record=session("a"), absent=True)], "r1") == (RecordVersion(1, 1),)
        with pytest.raises(ConflictError):
            await store.put([Write(record=session("a"), absent=True)], "r2")


async def test_a_lease_whose_answer_was_lost_belongs_to_who_asked(server: RedisServer):
    async with lossy_proxy(server.socket) as proxy, store_at(proxy.url) as store:
        await store.acquire_lease("another", "me", 30)
        proxy.lose = 1
        with pytest.raises(OutcomeUnknownError):
            await store.acquire_lease("l", "me", 30)
        assert await store.acquire_lease("l", "you", 30) is None
        number = await store.acquire_lease("l", "me", 30)
        assert number is not None
        proxy.lose = 1
        with pytest.raises(OutcomeUnknownError):
            await store.renew_lease("l", "me", 30)
        assert await store.renew_lease("l", "me", 30)


async def test_an_answer_that_the_feed_overtakes_is_no_loss(server: RedisServer, monkeypatch: pytest.MonkeyPatch):
    """Heartbeat and feed have connections of their own: the feed may tell of a change while an older answer is on its way."""
    async with store_at(server.url) as store:
        start = await store.head()
        asking = (("run", store.head), ("write", lambda: store.beat("one", b"report")))
        for name, ask in asking:
            send = getattr(Link, name)

            async def late(self: Link, *commands: Any, name: str = name, send: Any = send) -> Any:
                answer = await send(self, *commands)
                monkeypatch.setattr(Link, name, send)
                await store.put([Write(record=session("a"))], secrets.token_hex(8))
                while await store.changes(start, 100, 0.01) == []:
                    pass
                return answer

            monkeypatch.setattr(Link, name, late)
            await ask()
            assert not store.lost.is_set()
        assert (await store.head()).version == RecordVersion(1, 2)


async def test_more_calls_than_connections_wait_for_their_turn(server: RedisServer):
    async with store_at(server.url) as store:
        await store.put([Write(record=session("a"))], "r1")
        reads = [store.get("Session", "a") for _ in range(6 * CONNECTIONS)]
        leases = [store.acquire_lease(f"l{n}", "me", 30) for n in range(3 * CONNECTIONS)]
        found, taken = await asyncio.gather(asyncio.gather(*reads), asyncio.gather(*leases))
        assert {record.id for record in found} == {"a"}
        assert None not in taken
        assert int(server.ask("INFO clients").split(b"connected_clients:")[1].split()[0]) <= CONNECTIONS + 1


async def test_a_store_that_is_busy_says_so_in_time(server: RedisServer):
    """Whoever waits for a connection behind calls that hang gets a clear error, and nothing of theirs was done."""
    link = Link(Servers.parse(server.url), turn_seconds=0.1)
    store = RedisStore(link, SealedCodec(keyring(Purpose.RECORDS)), FakeClock())
    try:
        await store.put([Write(record=session("a"))], "r1")
        server.pause()
        hanging = [asyncio.create_task(store.get("Session", "a")) for _ in range(CONNECTIONS)]
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError, match="busy: all 64 connections are in use"):
            await store.acquire_lease("l", "me", 30)
        server.resume()
        assert {record.id for record in await asyncio.gather(*hanging)} == {"a"}
        assert await store.acquire_lease("l", "you", 30) is not None
    finally:
        server.resume()
        await store.close()


async def test_nothing_to_ask_costs_no_connection(server: RedisServer):
    link = Link(Servers.parse(server.url))
    try:
        for _ in range(2 * CONNECTIONS):
            assert await link.run() == []
        assert await link.run(("GET", "{dw}:none")) == [None]
    finally:
        await link.close()


async def test_forgotten_scripts_are_brought_again(server: RedisServer):
    async with store_at(server.url) as store:
        await store.put([Write(record=session("a"))], "r1")
        server.ask("SCRIPT FLUSH")
        puts = [store.put([Write(record=session(f"s{n}"))], f"n{n}") for n in range(5)]
        assert len(await asyncio.gather(*puts)) == 5
        server.ask("SCRIPT FLUSH")
        assert await store.acquire_lease("l", "me", 30) is not None


async def test_a_full_store_takes_nothing_and_loses_nothing(server: RedisServer):
    async with store_at(server.url) as store:
        await store.put([Write(record=session("a"))], "r1")
        server.ask("CONFIG SET maxmemory 1mb")
        server.ask("CONFIG SET maxmemory-policy noeviction")
        with pytest.raises(UnavailableError, match=r"OOM|OutOfMemory"):
            await store.put([Write(record=session("b"))], "r2")
        with pytest.raises(NotFoundError):
            await store.get("Session", "b")
        assert (await store.get("Session", "a")).data == b"x"
        server.ask("CONFIG SET maxmemory 0")
        assert await store.put([Write(record=session("b"))], "r2") == (RecordVersion(1, 2),)


async def test_a_full_disk_acknowledges_nothing_and_loses_nothing(server: RedisServer):
    """With `appendfsync always` a server that cannot write its log ends, rather than answer for what it may lose."""
    async with store_at(server.url) as store:
        kept = [name for name in ("a", "b") if await store.put([Write(record=session(name))], name)]
        size = max(path.stat().st_size for path in server.folder.rglob("*.aof*"))
        psutil.Process(server.pid).rlimit(resource.RLIMIT_FSIZE, (size + 200, size + 200))
        with pytest.raises(DoorwardError) as refused:
            await store.put([Write(record=session("c", bytes(5000)))], "c")
        assert isinstance(refused.value, OutcomeUnknownError | UnavailableError)
        server.stop(signal.SIGKILL)
        server.start()
        assert [(await store.get("Session", name)).id for name in kept] == kept
        assert (await store.put([Write(record=session("d"))], "d"))[0] > RecordVersion(1, 2)


async def test_a_replica_takes_no_writes(server: RedisServer):
    server.ask("REPLICAOF 127.0.0.1 1")
    async with store_at(server.url) as store:
        with pytest.raises(UnavailableError, match=r"ReadOnly|READONLY|read only"):
            await store.put([Write(record=session("a"))], "r1")
        server.ask("REPLICAOF NO ONE")
        assert await store.put([Write(record=session("a"))], "r1") == (RecordVersion(1, 1),)


async def test_too_few_replicas_leave_the_outcome_unknown(server: RedisServer):
    async with store_at(server.url, replicas=1) as store:
        with pytest.raises(OutcomeUnknownError, match="0 of 1 replicas"):
            await store.put([Write(record=session("a"))], "r1")
        with pytest.raises(OutcomeUnknownError):
            await store.beat("me", b"alive")


async def test_a_server_that_refuses_without_replicas_has_done_nothing(server: RedisServer):
    async with store_at(server.url) as store:
        await store.head()
        server.ask("CONFIG SET min-replicas-to-write 1")
        with pytest.raises(UnavailableError, match="NOREPLICAS"):
            await store.put([Write(record=session("a"))], "r1")
        server.ask("CONFIG SET min-replicas-to-write 0")
        assert (await store.head()).version == RecordVersion(1, 0)


async def test_a_server_that_is_away_has_done_nothing_and_is_found_again(server: RedisServer):
    async with store_at(server.url) as store:
        await store.put([Write(record=session("a"))], "r1")
        server.stop(signal.SIGKILL)
        with pytest.raises((UnavailableError, OutcomeUnknownError)):
            await store.put([Write(record=session("b"))], "r2")
        server.start()
        assert await store.put([Write(record=session("b"))], "r2") == (RecordVersion(1, 2),)


async def test_s77_the_store_is_used_neither_unverified_nor_with_a_wrong_word(tmp_path: Path):
    """Over TLS its certificate must be of the authority that was named; and no password is tried that nobody gave."""
    with topology("tls") as servers:
        foreign = LocalAuthority(tmp_path, SystemClock())
        foreign.certificate_for(["localhost"])
        given = servers.credentials
        for credentials, said in (
            (replace(given, ca_file=foreign.ca_file), "CERTIFICATE_VERIFY_FAILED"),
            (replace(given, password=Secret("wrong")), "WRONGPASS|invalid username-password|AuthenticationError"),
            (Credentials(ca_file=given.ca_file), "NOAUTH|Authentication"),
        ):
            servers.credentials = credentials
            servers.primary.ask("ACL SETUSER default off")
            link = servers.link()
            try:
                with pytest.raises(UnavailableError, match=said) as refused:
                    await link.run(("GET", "{dw}:meta"))
                assert PASSWORD not in str(refused.value)
            finally:
                await link.close()


async def test_a_foreign_database_is_told_from_ours(server: RedisServer):
    server.ask("SET {dw}:meta theirs")
    async with store_at(server.url) as store:
        with pytest.raises(DataCorruptedError, match="something else"):
            await store.put([Write(record=session("a"))], "r1")
    server.ask("DEL {dw}:meta")
    server.ask("SET {dw}:feed theirs")
    async with store_at(server.url) as store:
        with pytest.raises(DataCorruptedError, match="something else"):
            await store.put([Write(record=session("a"))], "r1")


async def test_a_lost_key_is_told_from_no_record(server: RedisServer):
    """A databroker with another key must not report everybody as signed out."""
    async with store_at(server.url, keys=("one",)) as store:
        await store.put([Write(record=session("a"))], "r1")
    async with store_at(server.url, keys=("two",)) as store:
        with pytest.raises(KeyMissingError, match="not held"):
            await store.get("Session", "a")
        with pytest.raises(KeyMissingError, match="not held"):
            await store.put([Write(record=session("b"))], "r2")
        with pytest.raises(KeyMissingError, match="the store is sealed under the key"):
            await store.beat("me", b"alive")
        with pytest.raises(KeyMissingError, match="not held"):
            await store.page("Session", "", 10)
    async with store_at(server.url, keys=("two", "one")) as store:
        assert (await store.get("Session", "a")).data == b"x"


async def test_a_newer_schema_is_left_alone(server: RedisServer):
    async with store_at(server.url) as store:
        await store.head()
    server.ask("HSET {dw}:meta schema 99")
    async with store_at(server.url) as store:
        with pytest.raises(UnavailableError, match="schema 99"):
            await store.put([Write(record=session("a"))], "r1")


async def test_a_feed_entry_that_does_not_open_costs_only_its_record(server: RedisServer):
    async with store_at(server.url) as store:
        start = await store.head()
        await store.put([Write(record=session("a"))], "r1")
    async with store_at(server.url, keys=("other", Purpose.RECORDS.value)) as store:
        await store.put([Write(record=session("b"))], "r2")
    async with store_at(server.url) as store:
        store._writer.newest = None
        entries = await store.changes(start, 10, 0.1)
    assert [[r.id for r in entry.records] for entry in entries] == [["a"], []]
    assert [[d.id for d in entry.damaged] for entry in entries] == [[], ["b"]]


async def test_truncated_seals_are_reported(server: RedisServer):
    async with store_at(server.url) as store:
        await store.put([Write(record=session("a"))], "r1")
        server.ask("EVAL \"local b = redis.call('HGET', KEYS[1], 'b') "
                   "redis.call('HSET', KEYS[1], 'b', string.sub(b, 1, #b - 7))\" 1 {dw}:r:Session:a")  # fmt: skip
        with pytest.raises(DataCorruptedError):
            await store.get("Session", "a")
        server.ask("HDEL {dw}:r:Session:a b")
        with pytest.raises(DataCorruptedError, match="lost its bytes"):
            await store.get("Session", "a")


async def test_acknowledged_puts_survive_kill_9_under_load(server: RedisServer):
    async with store_at(server.url) as store:
        acknowledged: list[str] = []

        async def write() -> None:
            for number in range(100_000):
                await store.put([Write(record=session(f"s{number}"))], f"r{number}")
                acknowledged.append(f"s{number}")

        writing = asyncio.create_task(write())
        while len(acknowledged) < 200:
            await asyncio.sleep(0.005)
        server.stop(signal.SIGKILL)
        with pytest.raises(DoorwardError):
            await writing
        server.start()
        wait_for(lambda: server.ask("PING"), 5)
        found: list[str] = []
        after = ""
        while True:
            page = await store.page("Session", after, 500)
            found += [record.id for record in page.records]
            after = page.next_id
            if not after:
                break
        assert set(acknowledged) <= set(found)
        assert (await store.head()).version.epoch == 1
