"""Idle sessions: judged by what is seen here, by one read otherwise, and written seldom."""

from pathlib import Path

import pytest
from tests.support.fake_clock import FakeClock
from tests.support.records import StoreRecords
from tests.unit.authorize.builders import CONFIG, World, passed, status

from doorward.errors import UnavailableError
from doorward.identity.session import Session
from doorward.records.record import Record
from doorward_authorize.activity import ActivityTracker

IDLE = 600.0


class Bench:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.records = StoreRecords(self.clock)
        self.idle: float | None = IDLE

    def authorizer(self) -> ActivityTracker:
        return ActivityTracker(self.records, lambda: self.idle, self.clock)

    def session(self, name: str = "s") -> Session:
        now = self.clock.now()
        return Session(
            id=name, user_id="u", identity_provider_id="p", issued_at=now, expires_at=now + 1e6, authenticated_at=now
        )


async def test_activity_is_written_once_per_tenth_of_the_idle_time_and_in_batches():
    bench = Bench()
    tracker = bench.authorizer()
    for _ in range(60):
        for n in range(3):
            tracker.touch(f"s{n}")
        await tracker.flush()
        bench.clock.advance(1)
    assert bench.records.puts == [3]
    tracker.touch("s0")
    await tracker.flush()
    assert bench.records.puts == [3, 1]


async def test_a_session_used_elsewhere_is_not_idle_here_after_one_read():
    bench = Bench()
    here, elsewhere = bench.authorizer(), bench.authorizer()
    session = bench.session()
    bench.clock.advance(IDLE - 10)
    elsewhere.touch(session.id)
    await elsewhere.flush()
    bench.clock.advance(20)
    assert not here.is_recent(session)
    assert not await here.is_idle(session)
    assert here.is_recent(session)
    bench.clock.advance(IDLE)
    assert await here.is_idle(session)


async def test_s66_idleness_is_judged_at_the_decision_by_the_clock():
    bench = Bench()
    tracker, session = bench.authorizer(), bench.session()
    assert not await tracker.is_idle(session)
    bench.clock.advance(IDLE - 1)
    assert not await tracker.is_idle(session)
    bench.clock.advance(1)
    assert await tracker.is_idle(session)
    bench.idle = None
    assert not await tracker.is_idle(session)


async def test_without_an_answer_a_session_counts_as_idle(monkeypatch: pytest.MonkeyPatch):
    bench = Bench()
    tracker, session = bench.authorizer(), bench.session()

    async def away(record_type: str, record_id: str) -> Record:
        raise UnavailableError("away")

    monkeypatch.setattr(bench.records, "get", away)
    bench.clock.advance(IDLE)
    assert await tracker.is_idle(session)


async def test_what_cannot_be_written_is_written_later(monkeypatch: pytest.MonkeyPatch):
    bench = Bench()
    tracker = bench.authorizer()
    put = bench.records.put

    async def away(writes: object) -> object:
        raise UnavailableError("away")

    monkeypatch.setattr(bench.records, "put", away)
    tracker.touch("s")
    await tracker.flush()
    monkeypatch.setattr(bench.records, "put", put)
    tracker.touch("s")
    await tracker.flush()
    assert (await bench.records.get("SessionActivity", "s")).expires_at == bench.clock.now() + 2 * IDLE


async def test_an_idle_person_is_asked_to_sign_in_and_an_active_one_is_not(tmp_path: Path):
    world = World(tmp_path, CONFIG + "session: {idle_timeout: 10m}\n")
    records = StoreRecords(world.clock)
    world.principals._activity = ActivityTracker(
        records, lambda: world.evaluator.snapshot.settings.session_idle_seconds, world.clock
    )
    cookie = world.sign_in("alice")
    for _ in range(4):
        world.clock.advance(500)
        assert passed(await world.check(cookie=cookie))
    world.clock.advance(600)
    assert status(await world.check(cookie=cookie)) in {302, 401}
