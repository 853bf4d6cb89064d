"""What is found under by its payload: an index that came later than the records, and that older versions beside us do not know."""

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from tests.support.fake_clock import FakeClock
from tests.support.key_material import keyring
from tests.support.redis_server import RedisServer, redis_server

from doorward.errors import DataCorruptedError, InvalidArgumentError
from doorward.identity.directory import DirectoryGroup, DirectoryUser
from doorward.identity.user import User
from doorward.keys.store import Purpose
from doorward.records.record import Record, Write
from doorward_databroker.group_sessions import users_of_group
from doorward_databroker.store import indexing
from doorward_databroker.store.codec import SealedCodec
from doorward_databroker.store.connection import Link
from doorward_databroker.store.keyspace import Keyspace
from doorward_databroker.store.maintenance import Maintenance
from doorward_databroker.store.redis import RedisStore
from doorward_databroker.store.servers import Servers
from doorward_databroker.store.types import RECORD_TYPES
from doorward_databroker.sweeper import Resealer


class Part:
    """One databroker's store."""

    def __init__(self, server: RedisServer, *keys: str) -> None:
        self.keyring = keyring(Purpose.RECORDS, *keys)
        codec = SealedCodec(self.keyring)
        link = Link(Servers.parse(server.url))
        self.store = RedisStore(link, codec, FakeClock())
        self.maintenance = Maintenance(link, Keyspace(), codec)
        self.resealer = Resealer(self.store, self.maintenance, self.keyring, list)
        self.puts = 0

    async def put(self, *records: Record) -> None:
        self.puts += 1
        await self.store.put([Write(record=record) for record in records], f"{id(self)}-{self.puts}")

    async def under(self, *groups: str) -> list[str]:
        """Who is found in any of these groups, a few at a time."""
        names = []
        async with aclosing(self.store.found("DirectoryUser", "group", groups, 7)) as pages:
            async for page in pages:
                assert not page.damaged
                names += [record.id for record in page.records]
        assert len(groups) > 1 or names == [
            record.id for record in (await self.store.query("DirectoryUser", "group", groups[0], "", 1000)).records
        ]
        return sorted(set(names))


@asynccontextmanager
async def part(server: RedisServer, *keys: str) -> AsyncIterator[Part]:
    made = Part(server, *(keys or ("key",)))
    try:
        yield made
    finally:
        await made.store.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisServer]:
    with redis_server("valkey") as running:
        yield running


@pytest.fixture
def server(shared: RedisServer) -> RedisServer:
    shared.ask("FLUSHALL")
    return shared


@pytest.fixture
def older(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a databroker one of an older version: it knows nothing of what payloads say."""

    def make(one: Part) -> None:
        names = {name: replace(kind, read_indexes={}) for name, kind in RECORD_TYPES.items()}

        class Older(indexing.Indexing):
            def entries(self, record: Record, room: int = 0) -> list[str]:
                with monkeypatch.context() as patch:
                    patch.setattr(indexing, "type_of", names.__getitem__)
                    return super().entries(record, room)

        one.store._writer._indexing = Older(one.store._link, Keyspace(), one.store._codec)

    return make


def entry(name: str, *groups: int) -> Record:
    person = DirectoryUser(directory_id="corp", entry_id=name, join_value=name, group_numbers=groups)
    return Record(type="DirectoryUser", id=f"corp/{name}", data=person.to_bytes())


def test_entries_of_each_index_are_made_by_one_type_only_and_never_named():
    for kind in RECORD_TYPES.values():
        assert kind.in_feed or not kind.read_indexes
        assert not set(kind.indexes) & set(kind.read_indexes)


async def test_entries_follow_the_payload(server: RedisServer):
    async with part(server) as one:
        await one.put(*(entry(f"p{n:02}", 1, 2 + n % 2) for n in range(20)))
        assert len(await one.under("corp/1")) == 20
        assert await one.under("corp/2") == [f"corp/p{n:02}" for n in range(0, 20, 2)]
        assert len(await one.under("corp/2", "corp/3", "corp/9")) == 20
        assert await one.under("") == await one.under("other/1") == []
        await one.put(entry("p00", 3, 3, 9), Record(type="DirectoryUser", id="corp/p02", deleted=True))
        assert await one.under("corp/9") == ["corp/p00"]
        assert "corp/p00" not in await one.under("corp/1", "corp/2")
        assert len(await one.under("corp/1")) == 18
        assert await one.maintenance.has_complete_indexes()


async def test_nobody_may_name_such_an_entry(server: RedisServer):
    """A plane that could would hide somebody from a revoke, or end the sessions of another one."""
    async with part(server) as one:
        with pytest.raises(InvalidArgumentError, match="no index `group`"):
            await one.put(replace(entry("p", 1), indexes={"group": ("corp/2",)}))


async def test_what_an_older_version_writes_beside_us_is_found_all_the_same(server: RedisServer, older: Any):
    async with part(server) as new, part(server) as old:
        older(old)
        await old.put(entry("before", 1), entry("stays", 1))
        assert await new.under("corp/1") == ["corp/before", "corp/stays"]
        assert not await new.maintenance.has_complete_indexes()
        await new.put(entry("before", 1, 2), entry("ours", 1))
        await new.resealer.reseal_all()
        assert await new.maintenance.has_complete_indexes()
        assert len(await new.under("corp/1")) == 3
        # The older one writes it anew: it leaves the entries that it does not know, and the record is not lost.
        await old.put(entry("before", 2, 3))
        assert not await new.maintenance.has_complete_indexes()
        assert [await new.under(f"corp/{n}") for n in (1, 2, 3)] == [
            ["corp/ours", "corp/stays"], ["corp/before"], ["corp/before"],
        ]  # fmt: skip
        await old.put(Record(type="DirectoryUser", id="corp/before", deleted=True))
        assert await new.maintenance.has_complete_indexes()
        assert await new.under("corp/2") == []


async def test_a_deletion_does_not_make_up_for_a_record_that_is_missing(server: RedisServer, older: Any):
    async with part(server) as new, part(server) as old:
        older(old)
        await old.put(entry("missing", 1))
        await new.put(entry("gone", 1))
        await new.put(Record(type="DirectoryUser", id="corp/gone", deleted=True))
        assert await new.under("corp/1") == ["corp/missing"]


async def test_a_rotation_keeps_everybody_in_the_index(server: RedisServer):
    async with part(server, "old") as before:
        await before.put(entry("a", 1), entry("b", 1))
    async with part(server, "new", "old") as during:
        await during.put(entry("a", 1))
        assert await during.maintenance.has_complete_indexes()
        assert await during.under("corp/1") == ["corp/a", "corp/b"]
        await during.resealer.reseal_all()
    async with part(server, "new") as after:
        assert await after.maintenance.has_complete_indexes()
        assert await after.under("corp/1") == ["corp/a", "corp/b"]


async def test_members_are_found_whether_or_not_the_index_has_them(server: RedisServer, older: Any):
    group = DirectoryGroup(directory_id="corp", group_id="g1", number=1, name="staff")
    user = User(id="alice", issuer="i", subject="alice", directory_user_id="corp/alice")
    named = User(id="bob", issuer="i", subject="bob", groups=frozenset({"staff"}))
    records = [
        Record(type="DirectoryGroup", id="corp/1", data=group.to_bytes()),
        entry("alice", 1),
        entry("carol", 2),
        Record(type="User", id="alice", data=user.to_bytes(), indexes={"directory_user": ("corp/alice",)}),
        Record(type="User", id="bob", data=named.to_bytes()),
    ]
    async with part(server) as new, part(server) as old:
        older(old)
        await old.put(*records)
        assert await users_of_group(new.store, "staff") == ["alice", "bob"]
        await new.resealer.reseal_all()
        assert await new.maintenance.has_complete_indexes()
        assert await users_of_group(new.store, "staff") == await users_of_group(new.store, "g1") + ["bob"]


async def test_a_payload_that_cannot_be_read_is_passed_over_in_no_silence(server: RedisServer):
    async with part(server) as one:
        await one.put(Record(type="DirectoryGroup", id="corp/9", data=b"\xff"))
        assert not await one.maintenance.has_complete_indexes()
        with pytest.raises(DataCorruptedError):
            await users_of_group(one.store, "staff")


async def test_a_batch_with_more_entries_than_one_put_takes_is_stored_and_entered_later(server: RedisServer):
    async with part(server) as one:
        await one.put(*(entry(f"p{n}", *range(4000)) for n in range(3)))
        assert not await one.maintenance.has_complete_indexes()
        assert await one.under("corp/3999") == ["corp/p0", "corp/p1", "corp/p2"]
        await one.resealer.reseal_all()
        assert await one.maintenance.has_complete_indexes()
        assert await one.under("corp/3999") == ["corp/p0", "corp/p1", "corp/p2"]


async def test_only_entries_that_change_are_written(server: RedisServer):
    """Not those of an unchanged group: a person in a thousand would otherwise cost a thousand each time."""

    def writes() -> int:
        lines = server.ask("INFO commandstats").decode().splitlines()
        return sum(int(line.split("calls=")[1].split(",")[0]) for line in lines if line.startswith("cmdstat_zadd:"))

    async with part(server) as one:
        await one.put(entry("p", *range(1000)))
        began = writes()
        await one.put(entry("p", *range(1, 1001)))
        assert writes() - began <= 4
        assert await one.under("corp/0") == []
        assert await one.under("corp/1000") == ["corp/p"]
