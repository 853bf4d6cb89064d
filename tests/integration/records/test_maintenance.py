"""Keys that change, backups and what comes back of them; on a real server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import pytest
from tests.support.broker import broker, until
from tests.support.fake_clock import FakeClock
from tests.support.key_material import keyring
from tests.support.redis_server import RedisServer, redis_server, replicated

from doorward.api.databroker.v1 import operations_pb2 as pb
from doorward.errors import (
    ConflictError,
    DataCorruptedError,
    InvalidArgumentError,
    KeyMissingError,
    NotFoundError,
    PermissionDeniedError,
)
from doorward.keys.store import Purpose
from doorward.records.record import Damaged, Record, RecordVersion, Write
from doorward.rpc.planes import Plane
from doorward.rpc.server import caller
from doorward_databroker.operations import OperationsServicer
from doorward_databroker.store.codec import SealedCodec
from doorward_databroker.store.connection import Link
from doorward_databroker.store.keyspace import Keyspace
from doorward_databroker.store.maintenance import Maintenance
from doorward_databroker.store.redis import RedisStore
from doorward_databroker.store.servers import Servers
from doorward_databroker.sweeper import Resealer


class Part:
    def __init__(self, url: str, *keys: str) -> None:
        self.keyring = keyring(Purpose.RECORDS, *keys)
        self.codec = SealedCodec(self.keyring)
        self.clock = FakeClock()
        link = Link(Servers.parse(url))
        self.store = RedisStore(link, self.codec, self.clock)
        self.maintenance = Maintenance(link, Keyspace(), self.codec)
        self.damaged: list[Damaged] = []

    async def put(self, *records: Record) -> None:
        await self.store.put([Write(record=record) for record in records], f"r{id(records)}{records}")

    async def under(self, user: str) -> list[str]:
        return [record.id for record in (await self.store.query("Session", "user_id", user, "", 100)).records]


@asynccontextmanager
async def part(url: str, *keys: str) -> AsyncIterator[Part]:
    made = Part(url, *keys)
    try:
        yield made
    finally:
        await made.store.close()


@pytest.fixture
def server():
    with redis_server("valkey") as running:
        yield running


def session(name: str, user: str = "u", **more: object) -> Record:
    return Record(type="Session", id=name, data=b"x", indexes={"user_id": (user,)}, **more)  # type: ignore[arg-type]


async def test_a_rotation_reaches_records_tombstones_and_indexes_while_others_write(server: RedisServer):
    async with part(server.url, "old") as before:
        await before.put(*(session(f"s{n}") for n in range(300)))
        await before.put(Record(type="SpentCode", id="c", expires_at=before.clock.now() + 60))
        await before.put(Record(type="Session", id="s299", deleted=True))
    async with part(server.url, "new", "old") as during:
        assert len(await during.under("u")) == 100
        resealer = Resealer(during.store, during.maintenance, during.keyring, during.damaged.extend)

        async def write() -> None:
            for number in range(50):
                await during.put(session(f"s{number}", "v"))

        (resealed, unreadable), _ = await asyncio.gather(resealer.reseal_all(), write())
        assert resealed > 200
        assert unreadable == 0
        assert (await resealer.reseal_all())[0] <= 50
        assert await resealer.reseal_all() == (0, 0)
    async with part(server.url, "new") as after:
        assert len(await after.under("v")) == 50
        assert len([name async for name in _all(after)]) == 299
        with pytest.raises(NotFoundError):
            await after.store.get("Session", "s299")
        await after.put(session("s300"))


async def _all(part: Part) -> AsyncIterator[str]:
    cursor = ""
    while True:
        page = await part.store.page("Session", cursor, 100)
        for record in page.records:
            yield record.id
        cursor = page.next_id
        if not cursor:
            return


async def test_a_store_of_many_pages_is_copied_and_sealed_anew(server: RedisServer):
    """The server is asked for hundreds of keys at a time."""
    async with part(server.url, "old") as before:
        for start in range(0, 1500, 500):
            await before.put(*(session(f"s{n}") for n in range(start, start + 500)))
        copied = set()
        cursor = ""
        while True:
            found, cursor = await before.maintenance.page(cursor)
            copied |= {stored.id for stored in found}
            if not cursor:
                break
        assert len(copied) == 1500
    async with part(server.url, "new", "old") as during:
        assert await Resealer(during.store, during.maintenance, during.keyring, during.damaged.extend).reseal_all() == (
            1500,
            0,
        )


async def test_a_rotation_while_databrokers_run_hides_nobody_from_a_revoke(server: RedisServer):
    """Index entries are hashed under the newest key: whoever took it over later must find them, and be found."""
    async with part(server.url, "old") as early, part(server.url, "old") as late:
        await early.put(session("before"))
        for one in (early, late):
            one.keyring.take_over(keyring(Purpose.RECORDS, "old", "new"))
        early.keyring.take_over(keyring(Purpose.RECORDS, "new", "old"))
        await early.put(session("after"))
        await late.put(session("meanwhile"))
        assert await late.under("u") == await early.under("u") == ["after", "before", "meanwhile"]
        late.keyring.take_over(keyring(Purpose.RECORDS, "new", "old"))
        assert (await early.maintenance.reseal("")).resealed == 2
        for one in (early, late):
            one.keyring.take_over(keyring(Purpose.RECORDS, "new"))
        assert await late.under("u") == await early.under("u") == ["after", "before", "meanwhile"]


async def test_a_key_that_went_too_early_is_reported_and_not_taken_for_signed_out(server: RedisServer):
    async with part(server.url, "old") as before:
        await before.put(session("a"))
    async with part(server.url, "new", "old") as during:
        await during.store.put([Write(record=session("b"))], "b")
    async with part(server.url, "new") as after:
        with pytest.raises(KeyMissingError):
            await after.store.get("Session", "a")
        # Nor may it mark the store as its own: then the right key would be the one that is refused.
        with pytest.raises(KeyMissingError):
            await after.maintenance.reseal("")
    async with part(server.url, "new", "old") as again:
        assert await again.under("u") == ["a", "b"]
        assert not (await again.maintenance.reseal("")).damaged
    async with part(server.url, "new") as after:
        assert await after.under("u") == ["a", "b"]


async def test_records_of_a_key_that_is_gone_for_good_are_counted_and_the_others_sealed_anew(server: RedisServer):
    async with part(server.url, "old") as before:
        await before.put(session("a"))
    async with part(server.url, "other", "old") as during:
        await during.put(session("b"))
    async with part(server.url, "new", "old") as after:
        done = await after.maintenance.reseal("")
        assert (done.resealed, [one.id for one in done.damaged]) == (1, ["b"])
        assert [damaged.id for damaged in (await after.store.page("Session", "", 9)).damaged] == ["b"]


@asynccontextmanager
async def operator(part: Part) -> AsyncIterator[OperationsServicer]:
    async with broker(part.store, part.clock) as one:
        caller.set(Plane.OPERATOR)
        yield OperationsServicer(
            part.store, part.maintenance, part.codec, part.keyring, one.hub, one.heartbeat, one.peers, part.clock
        )


async def backup(servicer: OperationsServicer) -> list[pb.StoredEntry]:
    found: dict[tuple[str, str], pb.StoredEntry] = {}
    token = ""
    while True:
        page = await servicer.ReadBackup(pb.ReadBackupRequest(page_token=token), None)  # type: ignore[arg-type]
        found.update({(entry.type, entry.id): entry for entry in page.entries})
        token = page.next_page_token
        if not token:
            return list(found.values())


async def test_a_restore_ends_sessions_merges_deletions_and_keeps_what_is_newer(server: RedisServer):
    async with part(server.url, "k") as one, operator(one) as servicer:
        await one.put(session("signed-in"), session("signed-out"), Record(type="User", id="kept", data=b"1"))
        await one.put(Record(type="User", id="gone", data=b"1"), Record(type="User", id="newer", data=b"1"))
        await one.put(Record(type="Session", id="signed-out", deleted=True))
        entries = await backup(servicer)
        assert len(entries) == 5
    server.ask("FLUSHALL")
    async with part(server.url, "k") as one, operator(one) as servicer:
        one.clock.advance(5)
        await one.put(Record(type="User", id="newer", data=b"2"), session("signed-out"))
        await one.put(Record(type="User", id="gone", deleted=True))
        answer = await servicer.Restore(pb.RestoreRequest(entries=entries), None)  # type: ignore[arg-type]
        assert (answer.restored, answer.kept, answer.ended, answer.unreadable) == (1, 3, 1, 0)
        assert (await one.store.get("User", "kept")).data == b"1"
        assert (await one.store.get("User", "newer")).data == b"2"
        for kind, name in (("User", "gone"), ("Session", "signed-in")):
            with pytest.raises(NotFoundError):
                await one.store.get(kind, name)
        again = await servicer.Restore(pb.RestoreRequest(entries=entries, keep_sessions=True), None)  # type: ignore[arg-type]
        assert (again.restored, again.kept) == (1, 4)
        assert (await one.store.get("Session", "signed-in")).id == "signed-in"


async def test_a_deletion_in_a_backup_is_brought_back_into_an_older_store(server: RedisServer):
    """An older copy of the store still holds a session that was signed out before the backup."""
    async with part(server.url, "k") as one, operator(one) as servicer:
        await one.put(session("a"))
        server.ask("COPY {dw}:r:Session:a {dw}:older")
        await one.put(Record(type="Session", id="a", deleted=True))
        entries = await backup(servicer)
        server.ask("DEL {dw}:r:Session:a")
        server.ask("RENAME {dw}:older {dw}:r:Session:a")
        assert (await one.store.get("Session", "a")).id == "a"
        answer = await servicer.Restore(pb.RestoreRequest(entries=entries), None)  # type: ignore[arg-type]
        assert answer.restored == 1
        with pytest.raises(NotFoundError):
            await one.store.get("Session", "a")


async def test_a_deletion_that_does_not_open_any_more_is_not_undone_by_a_backup(server: RedisServer):
    """What was revoked after the backup stays so, whatever has become of the record that says it."""
    async with part(server.url, "k") as one, operator(one) as servicer:
        await one.put(Record(type="ServiceAccount", id="sa-1", data=b"1"))
        entries = await backup(servicer)
        await one.put(Record(type="ServiceAccount", id="sa-1", deleted=True))
        server.ask("HSET {dw}:r:ServiceAccount:sa-1 b spoiled")
        answer = await servicer.Restore(pb.RestoreRequest(entries=entries), None)  # type: ignore[arg-type]
        assert (answer.restored, answer.kept) == (0, 1)
        assert await one.store.stored_version("ServiceAccount", "sa-1") is not None
        with pytest.raises(DataCorruptedError):
            await one.store.get("ServiceAccount", "sa-1")


async def test_what_has_vanished_is_brought_back_ended_or_discarded(server: RedisServer):
    async with part(server.url, "k") as one, operator(one) as servicer:
        await one.put(Record(type="ServiceAccount", id="sa-1", data=b"1"), session("a"))
        entries = await backup(servicer)
        await one.put(Record(type="User", id="u", data=b"1"))
        for lost in ("ServiceAccount:sa-1", "Session:a", "User:u"):
            server.ask("DEL {dw}:r:" + lost)
        answer = await servicer.Restore(pb.RestoreRequest(entries=entries), None)  # type: ignore[arg-type]
        assert (answer.restored, answer.ended) == (1, 1)
        assert (await one.store.get("ServiceAccount", "sa-1")).data == b"1"
        with pytest.raises(NotFoundError):
            await one.store.get("Session", "a")
        assert (await one.store.page("User", "", 9)).damaged
        await servicer.Discard(pb.DiscardRequest(type="User", id="u"), None)  # type: ignore[arg-type]
        for kind in ("Session", "User"):
            assert (await one.store.page(kind, "", 9)).damaged == ()


async def test_a_record_that_stands_in_a_backup_twice_is_brought_back_in_order(server: RedisServer):
    """It was revoked while the backup was made: that it lived may stand before that, or behind."""
    async with part(server.url, "k") as one, operator(one) as servicer:
        await one.put(Record(type="ServiceAccount", id="sa-1", data=b"1"))
        (lived,) = await backup(servicer)
        await one.put(Record(type="ServiceAccount", id="sa-1", deleted=True))
        (revoked,) = await backup(servicer)
        for entries in ([lived, revoked], [revoked, lived]):
            server.ask("FLUSHALL")
            await servicer.Restore(pb.RestoreRequest(entries=entries), None)  # type: ignore[arg-type]
            with pytest.raises(NotFoundError):
                await one.store.get("ServiceAccount", "sa-1")


async def test_a_backup_of_other_keys_or_moved_entries_is_not_restored(server: RedisServer):
    async with part(server.url, "k") as one, operator(one) as servicer:
        await one.put(Record(type="User", id="a", data=b"1"), Record(type="User", id="b", data=b"1"))
        first, second = await backup(servicer)
        first.sealed, second.sealed = second.sealed, first.sealed
        second.sealed = second.sealed[:-1]
        server.ask("FLUSHALL")
        answer = await servicer.Restore(pb.RestoreRequest(entries=[first, second]), None)  # type: ignore[arg-type]
        assert (answer.restored, answer.unreadable) == (0, 2)


async def test_the_state_names_what_is_wrong(server: RedisServer):
    async with part(server.url, "k") as one, operator(one) as servicer:
        await one.put(session("a"))
        status = await servicer.GetStoreStatus(pb.GetStoreStatusRequest(), None)  # type: ignore[arg-type]
        assert status.problem == "no heartbeat has been stored yet"
        servicer._heartbeat.problem = None
        server.ask("CONFIG SET maxmemory 1gb")
        server.ask("CONFIG SET maxmemory-policy allkeys-lru")
        status = await servicer.GetStoreStatus(pb.GetStoreStatusRequest(), None)  # type: ignore[arg-type]
        assert status.records["Session"] == 1
        assert status.history_entries == 1
        assert list(status.keys) == [one.keyring.primary.id.hex()]
        assert any("maxmemory-policy" in warning for warning in status.warnings)
        assert not any("appendfsync" in warning or "min-replicas" in warning for warning in status.warnings)
        server.ask("CONFIG SET appendfsync everysec")
        status = await servicer.GetStoreStatus(pb.GetStoreStatusRequest(), None)  # type: ignore[arg-type]
        assert any("appendfsync is `everysec`" in warning for warning in status.warnings)


async def test_the_state_warns_of_a_primary_that_writes_alone():
    with ExitStack() as stack:
        primary, _ = replicated(stack)
        async with part(primary.url, "k") as one:
            assert any("min-replicas-to-write" in warning for warning in await one.maintenance.warnings())
            primary.ask("CONFIG SET min-replicas-to-write 1")
            assert not any("min-replicas-to-write" in warning for warning in await one.maintenance.warnings())


async def test_the_state_is_told_to_whoever_may_not_ask_for_settings(server: RedisServer):
    server.ask("ACL SETUSER default -config")
    async with part(server.url, "k") as one:
        assert not any("appendfsync" in warning for warning in await one.maintenance.warnings())


@pytest.mark.parametrize("plane", [plane for plane in Plane if plane is not Plane.OPERATOR])
async def test_s76_only_the_operator_copies_restores_and_reseals(server: RedisServer, plane: Plane):
    async with part(server.url, "k") as one, operator(one) as servicer:
        caller.set(plane)
        for call in (
            servicer.GetStoreStatus(pb.GetStoreStatusRequest(), None),  # type: ignore[arg-type]
            servicer.ReadBackup(pb.ReadBackupRequest(), None),  # type: ignore[arg-type]
            servicer.Restore(pb.RestoreRequest(), None),  # type: ignore[arg-type]
            servicer.Reseal(pb.ResealRequest(), None),  # type: ignore[arg-type]
            servicer.Discard(pb.DiscardRequest(type="User", id="a"), None),  # type: ignore[arg-type]
        ):
            with pytest.raises(PermissionDeniedError):
                await call


@pytest.mark.parametrize("token", ["x", "-1", "0; FLUSHALL", "1" * 300])
async def test_a_page_token_that_is_none_is_refused(server: RedisServer, token: str):
    async with part(server.url, "k") as one, operator(one) as servicer:
        with pytest.raises((InvalidArgumentError, DataCorruptedError)):
            await servicer.ReadBackup(pb.ReadBackupRequest(page_token=token), None)  # type: ignore[arg-type]


async def test_a_restore_goes_over_what_does_not_open_and_ends_sessions_that_do_not(server: RedisServer):
    async with part(server.url, "k") as one, operator(one) as servicer:
        await one.put(*(Record(type="User", id=name, data=b"1") for name in ("a", "b", "c", "d")), session("s"))
        await one.put(Record(type="Session", id="t", deleted=True))
        entries = await backup(servicer)
        server.ask("HSET {dw}:r:User:a b spoiled")
        server.ask("HSET {dw}:r:User:b v spoiled")
        server.ask("HDEL {dw}:r:User:c b")
        server.ask("HSET {dw}:r:Session:s b spoiled")
        server.ask("HSET {dw}:r:Session:t b spoiled")
        assert len(await backup(servicer)) == 5
        answer = await servicer.Restore(pb.RestoreRequest(entries=entries), None)  # type: ignore[arg-type]
        assert (answer.restored, answer.kept, answer.ended, answer.unreadable) == (4, 1, 1, 0)
        assert [record.id for record in (await one.store.page("User", "", 9)).records] == ["a", "b", "c", "d"]
        page = await one.store.page("Session", "", 9)
        assert (page.records, page.damaged) == ((), ())


async def test_a_restore_over_an_older_state_takes_only_what_is_as_new_as_what_was_read(server: RedisServer):
    """Else whoever put the older state back would have the operator confirm it."""
    async with part(server.url, "k") as one, operator(one) as servicer:
        await one.put(Record(type="ServiceAccount", id="sa-1", data=b"1"), session("s"))
        older = await backup(servicer)
        for name in ("ServiceAccount:sa-1", "Session:s"):
            server.ask(f"COPY {{dw}}:r:{name} {{dw}}:kept:{name}")
        await one.put(Record(type="ServiceAccount", id="sa-1", deleted=True), session("s", "v"))
        revoked = [entry for entry in await backup(servicer) if entry.type == "ServiceAccount"]
        assert await servicer._hub.wait_for((await one.store.head()).version, 5)
        for name in ("ServiceAccount:sa-1", "Session:s"):
            server.ask(f"COPY {{dw}}:kept:{name} {{dw}}:r:{name} REPLACE")
        answer = await servicer.Restore(pb.RestoreRequest(entries=older), None)  # type: ignore[arg-type]
        assert (answer.restored, answer.kept, answer.ended) == (0, 1, 1)
        with pytest.raises(DataCorruptedError):
            await one.store.get("ServiceAccount", "sa-1")
        answer = await servicer.Restore(pb.RestoreRequest(entries=revoked), None)  # type: ignore[arg-type]
        assert answer.restored == 1
        for place in (("ServiceAccount", "sa-1"), ("Session", "s")):
            with pytest.raises(NotFoundError):
                await one.store.get(*place)


async def test_an_entry_that_may_not_be_stored_any_more_does_not_end_a_restore(server: RedisServer):
    async with part(server.url, "k") as one, operator(one) as servicer:
        await one.put(Record(type="User", id="a", data=b"1"), Record(type="User", id="b", data=b"1"))
        entries = await backup(servicer)
        version = RecordVersion(entries[0].version.epoch, entries[0].version.number)
        endless = Record(type="User", id=entries[0].id, version=version, data=b"1", expires_at=1e12)
        entries[0].sealed = one.codec.encode(endless)
        server.ask("FLUSHALL")
        answer = await servicer.Restore(pb.RestoreRequest(entries=entries), None)  # type: ignore[arg-type]
        assert (answer.restored, answer.unreadable) == (1, 1)


async def test_what_does_not_open_is_found_by_sealing_anew_and_only_that_can_be_discarded(server: RedisServer):
    async with part(server.url, "k") as one, operator(one) as servicer:
        await one.put(*(Record(type="User", id=name, data=b"1") for name in ("a", "b", "c", "d")))
        await one.put(Record(type="User", id="d", deleted=True))
        head = (await one.store.head()).version
        # What the feed tells opens, and is no news once it has been read.
        await until(lambda: servicer._hub.position == head)
        server.ask("HSET {dw}:r:User:a b spoiled")
        server.ask("HSET {dw}:r:User:b v spoiled")
        status = await servicer.GetStoreStatus(pb.GetStoreStatusRequest(), None)  # type: ignore[arg-type]
        assert not status.damaged
        assert (await servicer.Reseal(pb.ResealRequest(), None)).unreadable == 2  # type: ignore[arg-type]
        status = await servicer.GetStoreStatus(pb.GetStoreStatusRequest(), None)  # type: ignore[arg-type]
        assert {(damaged.type, damaged.id) for damaged in status.damaged} == {("User", "a"), ("User", "b")}
        for name, error in (("c", ConflictError), ("d", NotFoundError), ("e", NotFoundError)):
            with pytest.raises(error):
                await servicer.Discard(pb.DiscardRequest(type="User", id=name), None)  # type: ignore[arg-type]
        for kind, name in (("SpentCode", "a"), ("Nothing", "a"), ("User", "a b")):
            with pytest.raises(InvalidArgumentError):
                await servicer.Discard(pb.DiscardRequest(type=kind, id=name), None)  # type: ignore[arg-type]
        for name in ("a", "b"):
            await servicer.Discard(pb.DiscardRequest(type="User", id=name), None)  # type: ignore[arg-type]
        page = await one.store.page("User", "", 9)
        assert ([record.id for record in page.records], page.damaged) == (["c"], ())
        await until(lambda: not servicer._hub.damaged)
