"""A store of an older version is migrated, wherever that was cut off before; one of a newer version is left alone."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from tests.support.fake_clock import FakeClock
from tests.support.key_material import keyring
from tests.support.redis_server import RedisServer, redis_server

from doorward.errors import DataCorruptedError, DoorwardError, UnavailableError
from doorward.keys.store import Purpose
from doorward.records.record import Record, Write
from doorward_databroker.metrics import DatabrokerMetrics
from doorward_databroker.store import migration
from doorward_databroker.store.codec import SealedCodec
from doorward_databroker.store.connection import Link
from doorward_databroker.store.migration import SCHEMA
from doorward_databroker.store.redis import RedisStore
from doorward_databroker.store.servers import Servers
from doorward_databroker.sweeper import Sweeper

ENDING, ENDLESS = 600, 20


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisServer]:
    with redis_server("redis") as running:
        yield running


@pytest.fixture
async def old(shared: RedisServer) -> RedisServer:
    """A store as the first schema was: no number, no list of ends."""
    shared.ask("FLUSHALL")
    async with store_on(shared) as store:
        ends = store._clock.now() + 10
        records = [Record(type="Session", id=f"s{n}", data=b"x", expires_at=ends) for n in range(ENDING)]
        records += [Record(type="User", id=f"u{n}", data=b"x") for n in range(ENDLESS)]
        for start in range(0, len(records), 400):
            await store.put([Write(record=record) for record in records[start : start + 400]], f"r{start}")
        await store.put([Write(record=Record(type="Session", id="s0", deleted=True))], "gone")
    assert shared.ask("DEL {dw}:e:Session") == b":1\r\n"
    assert shared.ask("HDEL {dw}:meta schema") == b":1\r\n"
    return shared


@asynccontextmanager
async def store_on(server: RedisServer, link: Link | None = None) -> AsyncIterator[RedisStore]:
    store = RedisStore(link or Link(Servers.parse(server.url)), SealedCodec(keyring(Purpose.RECORDS)), FakeClock())
    try:
        yield store
    finally:
        await store.close()


async def check_migrated(server: RedisServer) -> None:
    async with store_on(server) as store:
        assert len([name async for name in _sessions(store)]) == ENDING - 1
        assert server.ask("HGET {dw}:meta schema").split(b"\r\n")[1] == str(SCHEMA).encode()
        assert isinstance(store._clock, FakeClock)
        store._clock.advance(3600)
        sweeper = Sweeper(store, ["Session", "User"], store._clock, "me", DatabrokerMetrics(CollectorRegistry()))
        assert await sweeper.sweep() == ENDING - 1
        assert len((await store.page("User", "", 100)).records) == ENDLESS


async def _sessions(store: RedisStore) -> AsyncIterator[str]:
    after = ""
    while True:
        page = await store.page("Session", after, 500)
        for record in page.records:
            yield record.id
        after = page.next_id
        if not after:
            return


async def test_an_older_store_is_migrated_before_anything_of_it_is_told(old: RedisServer):
    async with store_on(old) as store:
        assert (await store.get("Session", "s1")).data == b"x"
        assert len(await store.expired("Session", store._clock.now() + 100, 2 * ENDING)) == ENDING - 1
        assert (await store.head()).version.number == ENDING + ENDLESS + 1
    await check_migrated(old)


class Dying(Link):
    """Dies after so many calls that write, as a process does that is killed: before or after the server has carried one out."""

    def __init__(self, servers: Servers, calls: int, *, answers: bool) -> None:
        super().__init__(servers)
        self.left = calls
        self._answers = answers

    async def write_all(self, calls: Any) -> list[Any]:
        self.left -= 1
        if self.left < 0 and not self._answers:
            raise UnavailableError("killed")
        answers = await super().write_all(calls)
        if self.left < 0:
            raise UnavailableError("killed")
        return answers


@pytest.mark.parametrize("carried_out", [False, True])
async def test_a_migration_that_was_cut_off_anywhere_is_done_by_the_next(old: RedisServer, carried_out: bool):
    for calls in range(100):
        link = Dying(Servers.parse(old.url), calls, answers=carried_out)
        async with store_on(old, link) as store:
            try:
                await store.get("Session", "s1")
                break
            except UnavailableError:
                # Nobody is served before, and the dead one's lease runs out.
                old.ask("DEL {dw}:l:schema")
    assert calls > 5, "the migration was not cut off"
    await check_migrated(old)


async def test_two_databrokers_migrate_once_and_the_other_waits_its_turn(old: RedisServer):
    async with store_on(old) as one, store_on(old) as two:
        outcomes = await asyncio.gather(one.head(), two.head(), return_exceptions=True)
        refused = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        assert len(refused) <= 1
        for outcome in refused:
            assert "by another databroker" in str(outcome)
        assert (await one.head()) == (await two.head())
    await check_migrated(old)


async def test_a_databroker_beneath_which_a_newer_one_migrates_serves_nothing_more(shared: RedisServer):
    shared.ask("FLUSHALL")
    async with store_on(shared) as store:
        await store.put([Write(record=Record(type="User", id="u"))], "r1")
        shared.ask(f"HSET {{dw}}:meta schema {SCHEMA + 1}")
        with pytest.raises(UnavailableError, match=f"schema {SCHEMA + 1}, and this version of Doorward knows {SCHEMA}"):
            await store.beat("me", b"alive")
        for call in (
            store.get("User", "u"),
            store.put([Write(record=Record(type="User", id="v"))], "r2"),
            store.head(),
        ):
            with pytest.raises(UnavailableError, match="start the newer version again"):
                await call
        shared.ask(f"HSET {{dw}}:meta schema {SCHEMA}")
        assert (await store.get("User", "u")).id == "u"


async def test_a_snapshot_beneath_which_a_newer_one_migrates_ends(shared: RedisServer):
    shared.ask("FLUSHALL")
    async with store_on(shared) as store:
        await store.put([Write(record=Record(type="User", id=f"u{n}")) for n in range(5)], "r1")
        async with aclosing(store.snapshot("User", 1)) as pages:
            assert len((await anext(pages)).records) == 1
            shared.ask(f"HSET {{dw}}:meta schema {SCHEMA + 1}")
            with pytest.raises(UnavailableError):
                await store.beat("me", b"alive")
            with pytest.raises(UnavailableError, match="start the newer version again"):
                # What had been read ahead by then is still handed out.
                for _ in range(3):
                    await anext(pages)


async def test_an_older_store_that_is_put_back_beneath_us_is_migrated(old: RedisServer):
    async with store_on(old) as store:
        await store.head()
        old.ask("DEL {dw}:e:Session")
        old.ask("HSET {dw}:meta schema 1")
        await store.beat("me", b"alive")
        assert len(await store.expired("Session", store._clock.now() + 100, 2 * ENDING)) == ENDING - 1


@pytest.mark.parametrize("schema", ["x", "-1", "1.5"])
async def test_a_schema_that_is_no_number_is_not_ours(shared: RedisServer, schema: str):
    shared.ask("FLUSHALL")
    async with store_on(shared) as store:
        await store.head()
    shared.ask(f"HSET {{dw}}:meta schema {schema}")
    async with store_on(shared) as store:
        with pytest.raises(DataCorruptedError, match="no number"):
            await store.get("User", "u")


async def test_a_record_that_is_not_ours_ends_the_migration_with_a_clear_error(old: RedisServer):
    old.ask("DEL {dw}:r:Session:s7")
    old.ask("SET {dw}:r:Session:s7 theirs")
    async with store_on(old) as store:
        with pytest.raises(DoorwardError, match="something else"):
            await store.get("Session", "s1")
    assert b"schema" not in old.ask("HKEYS {dw}:meta")


def test_there_is_a_step_from_every_older_schema():
    assert sorted(migration.STEPS) == list(range(1, SCHEMA))
