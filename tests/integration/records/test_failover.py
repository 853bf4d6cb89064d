"""A primary that dies, hangs, is cut off or comes back with less: what was acknowledged, and who learns of what was lost."""

import asyncio
import contextlib
import itertools
import secrets
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import pytest
from tests.support.broker import broker, session_ids, until, watching
from tests.support.deployment import free_port, wait_for
from tests.support.key_material import keyring
from tests.support.redis_server import RedisServer, Topology, redis_server, replicated, topology
from tests.support.redis_server import sentinel as sentinel_of

from doorward.clock import SystemClock
from doorward.errors import DoorwardError, OutcomeUnknownError, UnavailableError, WatchExpiredError
from doorward.keys.store import Purpose
from doorward.records.record import Record, RecordVersion, Write
from doorward_databroker.store.codec import SealedCodec
from doorward_databroker.store.redis import RedisStore
from doorward_databroker.store.servers import ANSWER_SECONDS, Servers

pytestmark = pytest.mark.timeout(30)


def session(name: str, data: bytes = b"x") -> Record:
    return Record(type="Session", id=name, data=data)


@asynccontextmanager
async def store_on(servers: Topology, *, replicas: int = 0) -> AsyncIterator[RedisStore]:
    store = RedisStore(servers.link(replicas=replicas), SealedCodec(keyring(Purpose.RECORDS)), SystemClock())
    try:
        yield store
    finally:
        await store.close()


async def put(store: RedisStore, *records: Record) -> RecordVersion:
    return (await store.put([Write(record=record) for record in records], secrets.token_hex(16)))[-1]


async def put_at_last(store: RedisStore, *records: Record) -> RecordVersion:
    """As a patient caller does it: again and again, with the same request id."""
    request = secrets.token_hex(16)
    async with asyncio.timeout(30):
        while True:
            try:
                return (await store.put([Write(record=record) for record in records], request))[-1]
            except DoorwardError:
                await asyncio.sleep(0.1)


def cut_off(servers: Topology) -> None:
    """Let nothing more reach the replica; what a stopped process has in its socket it would still read."""
    servers.others[0].pause()
    servers.primary.ask("CLIENT KILL TYPE replica")


@pytest.fixture
def sentinel() -> Topology:
    """It replaces a primary that dies."""
    with topology("sentinel", down_after_ms=300) as servers:
        yield servers


@pytest.fixture
def patient() -> Topology:
    """A sentinel that replaces nobody."""
    with topology("sentinel") as servers:
        yield servers


async def test_what_replicas_confirmed_survives_the_death_of_the_primary(sentinel: Topology):
    async with store_on(sentinel, replicas=1) as store:
        acknowledged = []
        for number in range(20):
            await put(store, session(f"s{number}"))
            acknowledged.append(f"s{number}")
        sentinel.primary.stop(signal.SIGKILL)
        with pytest.raises(DoorwardError):
            await put(store, session("during"))
    async with store_on(sentinel) as store:
        await put_at_last(store, session("after"))
        page = await store.page("Session", "", 500)
        assert set(acknowledged) <= {record.id for record in page.records}
        assert (await store.head()).version.epoch == 1


async def test_s43_a_lossy_failover_begins_a_new_epoch_and_the_lost_sign_out_is_put_back(sentinel: Topology):
    """The replica never heard of the sign-out. Without the window, the session would be back."""
    replica = sentinel.others[0]
    async with store_on(sentinel) as store, broker(store, SystemClock()) as one:
        await put(store, session("kept"), session("signed-out"))
        async with watching(one.watcher("w")) as watcher:
            await watcher.consistent.wait()
            wait_for(lambda: replica.ask("EXISTS {dw}:r:Session:signed-out") == b":1\r\n", 5)
            cut_off(sentinel)
            await put(store, session("new"))
            lost = await put(store, Record(type="Session", id="signed-out", deleted=True))
            await until(lambda: watcher.position is not None and watcher.position.version == lost)
            sentinel.primary.stop(signal.SIGKILL)
            replica.resume()
            await put_at_last(store, session("after"))
            await watcher.ended.wait()
        await until(lambda: one.hub.mended.is_set() and one.hub.position is not None and one.hub.position.epoch == 2)
        page = await store.page("Session", "", 100)
        assert {record.id for record in page.records} == {"kept", "new", "after"}
        assert (await store.head()).version.epoch == 2
        async with watching(one.watcher("w"), watcher.position) as again:
            await again.ended.wait()
        assert isinstance(again.failure, WatchExpiredError)
        async with watching(one.watcher("w")) as fresh:
            await fresh.consistent.wait()
            assert fresh.live() == {"kept", "new", "after"}


async def test_a_databroker_that_was_away_learns_of_the_loss_from_its_watcher(sentinel: Topology):
    """It has nothing to compare with; one of the lost writes may have been a sign-out, so sessions end."""
    replica = sentinel.others[0]
    async with store_on(sentinel) as store, broker(store, SystemClock()) as one:
        await put(store, session("a"), Record(type="User", id="u"))
        async with watching(one.watcher("w")) as watcher:
            await watcher.consistent.wait()
            wait_for(lambda: replica.ask("EXISTS {dw}:r:Session:a") == b":1\r\n", 5)
            cut_off(sentinel)
            lost = await put(store, Record(type="Session", id="a", deleted=True))
            await until(lambda: watcher.position is not None and watcher.position.version == lost)
            position = watcher.position
    sentinel.primary.stop(signal.SIGKILL)
    replica.resume()
    assert position is not None
    async with store_on(sentinel) as store:
        await put_at_last(store, session("b"))
        assert {record.id for record in (await store.page("Session", "", 9)).records} == {"a", "b"}
        async with broker(store, SystemClock()) as two:
            await two.caught_up()
            async with watching(two.watcher("w"), position) as back:
                await back.ended.wait()
            assert isinstance(back.failure, WatchExpiredError)
            await two.hub.report_loss(position)  # as the service does
            await until(lambda: two.hub.position is not None and two.hub.position.epoch == 2)
            assert (await store.page("Session", "", 9)).records == ()
            assert (await store.get("User", "u")).id == "u"


async def test_a_primary_without_its_replicas_acknowledges_nothing_and_extends_no_lease(patient: Topology):
    async with store_on(patient, replicas=1) as store, broker(store, SystemClock()) as one:
        async with watching(one.watcher("w")) as watcher:
            await watcher.consistent.wait()
            watcher.ping(1)
            await one.heartbeat.beat()
            await until(lambda: watcher.leases == [1])
            patient.others[0].pause()
            watcher.ping(2)
            with pytest.raises(OutcomeUnknownError):
                await one.heartbeat.beat()
            with pytest.raises(OutcomeUnknownError):
                await put(store, session("a"))
            assert watcher.leases == [1]
            patient.others[0].resume()
            await put_at_last(store, session("b"))


async def test_a_hung_primary_is_replaced(sentinel: Topology):
    async with store_on(sentinel) as store:
        await put(store, session("a"))
        wait_for(lambda: sentinel.others[0].ask("EXISTS {dw}:r:Session:a") == b":1\r\n", 5)
        sentinel.primary.pause()
        try:
            await put_at_last(store, session("b"))
            assert {record.id for record in (await store.page("Session", "", 9)).records} == {"a", "b"}
        finally:
            sentinel.primary.resume()


@pytest.mark.parametrize("replicas", [0, 1])
async def test_another_sentinel_is_asked_when_the_first_one_names_a_primary_that_has_been_replaced(replicas: int):
    """One that was cut off together with the old primary, and both can be reached: they would keep us for as long as that lasts."""
    demanded = ("--repl-diskless-sync-delay", "0", "--min-replicas-to-write", "1", "--min-replicas-max-lag", "2")
    with ExitStack() as stack:
        old = stack.enter_context(redis_server("redis", *demanded, port=free_port()))
        new, _ = replicated(stack, "redis", *demanded)
        asked = ",".join(
            f"127.0.0.1:{sentinel_of(stack, port, replicas=count).port}"
            for port, count in ((old.port, 0), (new.port, 1))
        )
        async with store_on(Topology(f"redis+sentinel://{asked}/records", old), replicas=replicas) as store:
            async with asyncio.timeout(10):
                await put_at_last(store, session("a"))
            assert new.ask("EXISTS {dw}:r:Session:a") == b":1\r\n"


@pytest.mark.parametrize("name", ["redis", "valkey"])
async def test_of_what_sentinels_say_the_newest_counts(name: str):
    """One that was cut off when the others replaced the primary still names the old one, which may still take writes."""
    with ExitStack() as stack, socket.create_server(("127.0.0.1", 0)) as silent:
        old = stack.enter_context(redis_server(name, port=free_port()))
        primary, replica = replicated(stack, name, "--repl-diskless-sync-delay", "0")
        late = [sentinel_of(stack, old.port, replicas=0, name=name) for _ in range(2)]
        knows = sentinel_of(stack, primary.port, name=name)
        wait_for(
            lambda: knows.ask("SENTINEL FAILOVER records").startswith(b"+OK"), 20, what="a replica that may be promoted"
        )
        wait_for(lambda: b"role:master" in replica.ask("INFO replication"), 20)
        wait_for(lambda: b"%d" % replica.port in knows.ask("SENTINEL GET-MASTER-ADDR-BY-NAME records"), 20)
        ports = [*(server.port for server in (*late, knows)), silent.getsockname()[1], free_port()]
        for order in itertools.permutations(ports[:3]):
            servers = Servers.parse(
                "redis+sentinel://" + ",".join(f"127.0.0.1:{port}" for port in (*order, *ports[3:])) + "/records"
            )
            async with asyncio.timeout(ANSWER_SECONDS):  # nobody waits for one that hangs
                assert await servers.primary(len(order)) == ("127.0.0.1", replica.port)
        only_late = Servers.parse(f"redis+sentinel://127.0.0.1:{late[0].port},127.0.0.1:{free_port()}/records")
        assert await only_late.primary() == ("127.0.0.1", old.port)
        unknown = Servers.parse(f"redis+sentinel://127.0.0.1:{knows.port}/others")
        with pytest.raises(UnavailableError, match="knows no primary"):
            await unknown.primary()


async def test_a_slot_that_moves_to_its_replica_is_followed():
    with topology("cluster") as servers:
        async with store_on(servers) as store:
            await put(store, session("a"))
            wait_for(lambda: servers.others[0].ask("DBSIZE") == servers.primary.ask("DBSIZE"), 5)
            assert servers.others[0].ask("CLUSTER FAILOVER TAKEOVER").startswith(b"+OK")
            # What the old primary accepts before it has heard of it would be lost.
            wait_for(lambda: b"role:slave" in servers.primary.ask("INFO replication"), 10)
            await put_at_last(store, session("b"))
            assert {record.id for record in (await store.page("Session", "", 9)).records} == {"a", "b"}
            assert (await store.head()).version == RecordVersion(1, 2)


async def test_a_file_that_lost_its_end_is_noticed_on_one_node():
    """Redis reads a truncated log without a word (`aof-load-truncated`)."""
    with redis_server("redis") as server:
        servers = Topology(server.url, server)
        async with store_on(servers) as store, broker(store, SystemClock()) as one:
            await put(store, session("a"))
            await put(store, session("b"))
            await put(store, Record(type="Session", id="a", deleted=True))
            await one.caught_up()
            server.stop(signal.SIGKILL)
            _cut_last_put(server)
            server.start()
            with contextlib.suppress(DoorwardError):  # over a connection that died with the server
                await store.beat("one", b"alive")
            await store.beat("one", b"alive")
            await until(lambda: one.hub.position is not None and one.hub.position.epoch == 2)
            assert {record.id for record in (await store.page("Session", "", 9)).records} == {"b"}


def _cut_last_put(server: RedisServer) -> None:
    """Cut the server's log before its last transaction, as a lost page of the disk would."""
    (log,) = server.folder.rglob("*.incr.aof")
    data = log.read_bytes()
    log.write_bytes(data[: data.rindex(b"*1\r\n$5\r\nMULTI")])


async def test_nothing_acknowledged_is_lost_when_redis_is_killed_among_concurrent_writes():
    """The process dies, not the machine: the page cache survives, so this says nothing about the disk."""
    with ExitStack() as stack:
        server = stack.enter_context(redis_server("redis"))
        async with store_on(Topology(server.url, server)) as store:
            await put(store, session("warm"))
            acknowledged: list[str] = []

            async def write(name: str) -> None:
                for number in range(1000):
                    await put(store, session(f"{name}-{number}"))
                    acknowledged.append(f"{name}-{number}")

            writers = [asyncio.create_task(write(f"w{n}")) for n in range(8)]
            await until(lambda: len(acknowledged) > 100)
            server.stop(signal.SIGKILL)
            await asyncio.gather(*writers, return_exceptions=True)
            server.start()
            assert set(acknowledged) <= await session_ids(store)
