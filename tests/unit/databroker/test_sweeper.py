"""What has expired becomes tombstones, in the state that was seen and no other."""

import asyncio
from collections.abc import Sequence

import pytest
from prometheus_client import CollectorRegistry
from tests.support.fake_clock import FakeClock
from tests.support.key_material import keyring

from doorward.errors import UnavailableError
from doorward.keys.store import Purpose
from doorward.records.record import Fence, Record, RecordVersion, Write
from doorward_databroker.metrics import DatabrokerMetrics
from doorward_databroker.store.codec import SealedCodec
from doorward_databroker.store.maintenance import Resealed
from doorward_databroker.store.memory import MemoryStore
from doorward_databroker.store.port import Expired
from doorward_databroker.sweeper import GRACE_SECONDS, RESEAL_LEASE_SECONDS, RESEAL_SECONDS, Resealer, Sweeper


class Racing(MemoryStore):
    """Between what the sweeper reads and what it writes, somebody extends a session."""

    extended: str = ""

    async def expired(self, record_type: str, before: float, limit: int) -> list[Expired]:
        found = await super().expired(record_type, before, limit)
        if self.extended:
            await self.put([Write(record=session(self.extended, self._clock.now() + 3600))], f"extend-{self.extended}")
            self.extended = ""
        return found


def session(name: str, ends: float) -> Record:
    return Record(type="Session", id=name, data=b"x", expires_at=ends)


async def filled(names: Sequence[str]) -> tuple[Racing, Sweeper, FakeClock]:
    clock = FakeClock()
    store = Racing(clock, SealedCodec(keyring(Purpose.RECORDS)))
    for name in names:
        await store.put([Write(record=session(name, clock.now() + 10))], name)
    clock.advance(11 + GRACE_SECONDS)
    return store, Sweeper(store, ["Session"], clock, "me", DatabrokerMetrics(CollectorRegistry())), clock


async def live(store: MemoryStore) -> set[str]:
    return {record.id for record in (await store.page("Session", "", 1000)).records}


async def test_what_has_expired_is_deleted_and_the_rest_is_not():
    store, sweeper, clock = await filled([f"s{n}" for n in range(450)])
    await store.put([Write(record=session("later", clock.now() + 5))], "later")
    assert await sweeper.sweep() == 450
    assert await live(store) == {"later"}
    assert (await store.stored_version("Session", "s0") or ())[1] is True


async def test_a_session_that_is_extended_while_the_sweeper_works_lives_on():
    store, sweeper, _ = await filled(["a", "b", "c", "d", "e"])
    store.extended = "c"
    assert await sweeper.sweep() == 4
    assert await live(store) == {"c"}


async def test_nothing_is_swept_before_the_grace_of_slow_clocks_is_over():
    store, sweeper, clock = await filled(["a"])
    clock.advance(-2.0)
    assert await sweeper.sweep() == 0
    assert await store.stored_version("Session", "a") == (RecordVersion(1, 1), False)


async def test_a_sweeper_that_lost_its_lease_deletes_nothing():
    store, sweeper, _ = await filled(["a"])
    number = await store.acquire_lease("sweeper", "me", 60)
    assert number is not None
    await store.release_lease("sweeper", "me")
    await store.acquire_lease("sweeper", "another", 60)
    assert await sweeper.sweep(Fence("sweeper", "me", number)) == 0
    assert (await store.stored_version("Session", "a") or ())[1] is False


class Pages:
    """Three pages to be sealed anew; reading the second fails as often as it is told to."""

    failures: int = 0

    async def reseal(self, cursor: str) -> Resealed:
        if cursor == "1" and self.failures:
            self.failures -= 1
            raise UnavailableError("the store is away")
        return Resealed(seen=1, resealed=1, next_cursor={"": "1", "1": "2", "2": ""}[cursor])


async def test_sealing_anew_goes_on_elsewhere_when_it_stops_and_is_not_repeated_for_an_hour():
    clock = FakeClock()
    store = MemoryStore(clock, SealedCodec(keyring(Purpose.RECORDS)))
    pages = Pages()
    keys = keyring(Purpose.RECORDS, "new", "old")
    first, second = (Resealer(store, pages, keys, list) for _ in range(2))  # type: ignore[arg-type]  # all that is asked of it
    pages.failures = 1
    with pytest.raises(UnavailableError):
        await first.keep()
    assert await second.keep()
    clock.advance(RESEAL_SECONDS - 1)
    assert not await first.keep()
    assert not await second.keep()
    clock.advance(1)
    assert await first.keep()
    keys.take_over(keyring(Purpose.RECORDS, "newer", "new"))
    assert await first.keep()
    keys.take_over(keyring(Purpose.RECORDS, "newest", "newer"))
    # One that was killed has said nothing.
    await store.acquire_lease(f"resealer-{keys.primary.id.hex()}", "killed", RESEAL_LEASE_SECONDS)
    assert not await first.keep()
    clock.advance(RESEAL_LEASE_SECONDS)
    assert await first.keep()


async def test_sealing_anew_gives_way_while_a_snapshot_is_read(monkeypatch: pytest.MonkeyPatch):
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    waiting = [True, False]
    store = MemoryStore(FakeClock(), SealedCodec(keyring(Purpose.RECORDS)))
    resealer = Resealer(store, Pages(), keyring(Purpose.RECORDS), list, lambda: waiting.pop(0))  # type: ignore[arg-type]  # all that is asked of it
    monkeypatch.setattr(asyncio, "sleep", noted)
    assert await resealer.reseal_all() == (3, 0)
    while_read, else_ = pauses
    assert 10 * else_ <= while_read <= 1
