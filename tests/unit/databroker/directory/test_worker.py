"""A directory read into records: by one replica at a time, all of it or nothing, and sessions that end with their people."""

import asyncio
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry
from tests.support.fake_clock import FakeClock
from tests.support.records import StoreRecords
from tests.unit.databroker.directory.builders import FakeSource, settings

from doorward.config.directory_settings import DirectorySettings
from doorward.errors import NotFoundError, UnavailableError
from doorward.identity.directory import DirectoryState, DirectoryUser, directory_user_id
from doorward.identity.user import User, user_id
from doorward.records.record import Damaged, Fence, Record, RecordVersion, Write
from doorward_databroker.directory.port import DirectoryUnavailableError
from doorward_databroker.directory.worker import DirectoryMetrics, Status, Worker
from doorward_databroker.store.memory import MemoryStore

PEOPLE = {f"u{n}": ["staff"] for n in range(30)}


class World:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.records = StoreRecords(self.clock)
        self.source = FakeSource(dict(PEOPLE))
        self.registry = CollectorRegistry()
        self.worker = self.replica("one")
        self.status = Status(settings())

    def replica(self, holder: str) -> Worker:
        records: Any = self.records
        return (
            Worker(records, lambda _: self.source, self.clock, holder, DirectoryMetrics(self.registry))
            if holder == "one"
            else Worker(records, lambda _: self.source, self.clock, holder, DirectoryMetrics(CollectorRegistry()))
        )

    async def read(self, *, forced: bool = True) -> Status:
        await self.worker.run_once(self.status, self.source, forced=forced)
        return self.status

    async def entry(self, name: str) -> DirectoryUser:
        return DirectoryUser.from_bytes(
            (await self.records.get("DirectoryUser", directory_user_id("corp", "sub", name))).data
        )

    async def state(self) -> DirectoryState:
        return DirectoryState.from_bytes((await self.records.get("DirectoryState", "corp")).data)

    async def sign_in(self, name: str) -> None:
        """A user with a session, as authenticate leaves them."""
        joined = directory_user_id("corp", "sub", name)
        user = User(id=user_id("i", name), issuer="i", subject=name, directory_user_id=joined)
        await self.records.put(
            [
                Write(
                    record=Record(type="User", id=user.id, data=user.to_bytes(), indexes={"directory_user": (joined,)})
                ),
                Write(record=Record(type="Session", id=f"s-{name}", data=b"x", indexes={"user_id": (user.id,)})),
            ]
        )

    def damage(self, kind: str, name: str) -> None:
        store = cast(MemoryStore, self.records.store)
        store._records[kind, name] = (RecordVersion(1, 1), b"spoiled")

    async def is_signed_in(self, name: str) -> bool:
        try:
            await self.records.get("Session", f"s-{name}")
        except NotFoundError:
            return False
        return True


async def test_a_directory_becomes_records_and_a_second_reading_writes_only_that_it_was_made():
    world = World()
    status = await world.read()
    assert (status.problem, status.state.users, status.state.groups) == ("", 30, 1)
    assert (await world.entry("u3")).group_numbers == (1,)
    world.clock.advance(60)
    await world.read()
    assert status.outcome is not None
    assert status.outcome.written == 1
    assert (await world.state()).synchronised_at == world.clock.now()


async def test_a_reading_that_fails_half_way_changes_nothing_and_grows_old():
    world = World()
    await world.read()
    before = (await world.state()).synchronised_at
    world.clock.advance(600)
    world.source.fails = DirectoryUnavailableError("it answered 500")
    world.source.people = {}
    status = await world.read()
    assert status.problem == "it answered 500"
    assert (await world.entry("u3")).active
    assert (await world.state()).synchronised_at == before
    assert world.registry.get_sample_value("doorward_directory_failures_total", {"directory": "corp"}) == 1


async def test_an_unforeseen_mistake_is_one_failed_reading():
    world = World()
    world.source.fails = KeyError("shape")
    assert "KeyError" in (await world.read()).problem


async def test_s66_whoever_is_disabled_or_gone_is_inactive_at_once_and_loses_their_sessions():
    world = World()
    await world.read()
    for name in ("u1", "u2", "u3"):
        await world.sign_in(name)
    world.source.inactive = frozenset({"u1"})
    del world.source.people["u2"]
    status = await world.read()
    assert [await world.is_signed_in(name) for name in ("u1", "u2", "u3")] == [False, False, True]
    assert [(await world.entry(name)).active for name in ("u1", "u2", "u3")] == [False, False, True]
    assert status.outcome is not None
    assert status.outcome.sessions_ended == 2


async def test_too_many_removals_wait_for_somebody_to_mean_them():
    world = World()
    await world.read()
    world.source.people = {"u1": ["staff"]}
    status = await world.read()
    assert "--accept-removals" in status.problem
    assert (await world.entry("u9")).active
    world.worker.statuses["corp"] = world.status
    world.worker._asked["corp"] = asyncio.Event()
    world.worker.ask("corp", accept_removals=True)
    assert (await world.read()).problem == ""
    assert not (await world.entry("u9")).active


async def test_one_replica_reads_and_the_other_sees_that_it_has_been_done():
    world = World()
    other, its_status = world.replica("two"), Status(settings())
    assert await world.records.acquire_lease("directory/corp", "one", 30) is not None
    await other.run_once(its_status, world.source, forced=True)
    assert "another replica" in its_status.problem
    await world.records.release_lease("directory/corp", "one")
    await world.read()
    reads = world.source.reads
    await other.run_once(its_status, world.source, forced=False)
    assert world.source.reads == reads
    world.clock.advance(301)
    await other.run_once(its_status, world.source, forced=False)
    assert world.source.reads == reads + 1


async def test_a_reader_that_lost_its_lease_writes_nothing_more(monkeypatch: pytest.MonkeyPatch):
    world = World()
    put = world.records.put

    async def taken_first(writes: Any, fence: Fence | None = None) -> tuple[RecordVersion, ...]:
        if fence is not None:
            await world.records.release_lease(fence.lease, fence.holder)
            await world.records.acquire_lease(fence.lease, "somebody else", 30)
        return await put(writes, fence)

    monkeypatch.setattr(world.records, "put", taken_first)
    await world.read()
    with pytest.raises(NotFoundError):
        await world.state()


async def test_a_databroker_that_is_away_is_a_failed_reading(monkeypatch: pytest.MonkeyPatch):
    world = World()

    async def away(writes: Any, fence: Fence | None = None) -> tuple[RecordVersion, ...]:
        raise UnavailableError("away")

    monkeypatch.setattr(world.records, "put", away)
    assert (await world.read()).problem == "away"
    assert world.status.failures == 1


async def test_only_directories_that_are_read_can_be_read_now():
    world = World()
    with pytest.raises(NotFoundError):
        world.worker.ask("corp", accept_removals=False)


async def test_the_worker_reads_at_its_time_and_when_asked():
    world = World()
    fast: DirectorySettings = settings(every_seconds=3600)
    running = asyncio.create_task(world.worker.run([fast]))
    try:
        async with asyncio.timeout(10):
            while not (status := world.worker.statuses.get("corp")) or not status.finished_run:
                await asyncio.sleep(0.01)
            run = world.worker.ask("corp", accept_removals=False)
            while status.finished_run < run:
                await asyncio.sleep(0.01)
        assert world.source.reads == 2
        assert world.registry.get_sample_value("doorward_directory_users", {"directory": "corp"}) is not None
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_records_that_do_not_open_are_written_anew_by_the_next_reading():
    world = World()
    world.source.people = {name: ["staff"] for name in PEOPLE} | {"gone": [], "u0": ["staff", "admins"]}
    await world.read()
    for name in ("u0", "gone"):
        await world.sign_in(name)
    del world.source.people["gone"]
    numbers = (await world.entry("u0")).group_numbers
    kept = (await world.entry("u1")).group_numbers
    admins = next(number for number in numbers if number not in kept)
    for kind, name in (
        ("DirectoryUser", directory_user_id("corp", "sub", "u0")),
        ("DirectoryUser", directory_user_id("corp", "sub", "gone")),
        ("DirectoryGroup", f"corp/{admins}"),
        ("DirectoryState", "corp"),
        ("DirectoryUser", "elsewhere/1"),
    ):
        world.damage(kind, name)
    status = await world.read()
    assert status.problem == ""
    assert (await world.entry("u1")).group_numbers == kept
    (number,) = set((await world.entry("u0")).group_numbers) - set(kept)
    assert number > admins
    # Of whoever the directory has no more, nothing is known but that; a number that may still be named is nobody's.
    assert (await world.entry("gone")).removed
    assert [await world.is_signed_in(name) for name in ("u0", "gone")] == [True, False]
    with pytest.raises(NotFoundError):
        await world.records.get("DirectoryGroup", f"corp/{admins}")
    assert (await world.state()).next_group_number == number + 1
    damaged: list[Damaged] = []
    assert [record.id async for record in world.records.list("DirectoryGroup", damaged)]
    assert len([record.id async for record in world.records.list("DirectoryUser", damaged)]) == 31
    assert [one.id for one in damaged] == ["elsewhere/1"]


async def test_what_does_not_open_still_counts_when_too_much_would_vanish():
    world = World()
    await world.read()
    for name in PEOPLE:
        world.damage("DirectoryUser", directory_user_id("corp", "sub", name))
    world.source.people = {"u1": ["staff"]}
    assert "29 of 30 people would vanish" in (await world.read()).problem
