"""How the changes of a directory are written: others have a part of the time, and nobody's end waits for that."""

import asyncio

import pytest
from tests.support.fake_clock import FakeClock
from tests.support.records import StoreRecords
from tests.unit.databroker.directory.builders import FakeSource, settings

from doorward.records.record import Fence
from doorward_databroker.directory import plan, synchroniser
from doorward_databroker.directory.port import Progress
from doorward_databroker.directory.synchroniser import synchronise


@pytest.mark.parametrize("at_once", [1, 2, 400])
async def test_it_pauses_between_batches_and_not_behind_the_last(monkeypatch: pytest.MonkeyPatch, at_once: int):
    """Behind the last one the sessions of those who are gone end."""
    monkeypatch.setattr(plan, "BATCH", at_once)
    clock = FakeClock()
    records = StoreRecords(clock)
    number = await records.acquire_lease("directory", "one", 60)
    assert number is not None
    told: list[int | float] = []
    put, sleep = records.put, asyncio.sleep

    async def pause(seconds: float) -> None:
        told.append(seconds)
        await sleep(0)

    async def puts(*arguments: object) -> object:
        told.append(-1)
        return await put(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(records, "put", puts)
    monkeypatch.setattr(asyncio, "sleep", pause)
    people = FakeSource({"ann": ["g"], "bob": ["g"], "eve": []})
    done = await synchronise(settings(), people, records, clock, Progress(), Fence("directory", "one", number))
    batches = len(records.puts)
    assert sum(records.puts) == done.written
    assert batches > 1
    assert [item == -1 for item in told if item] == [True, *([False, True] * (batches - 1))]
    assert all(0 < item <= 0.5 for item in told if item > 0)


async def test_pauses_end_when_they_have_taken_long_enough(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plan, "BATCH", 1)
    monkeypatch.setattr(synchroniser, "_PAUSES_SECONDS", 0.0)
    clock = FakeClock()
    records = StoreRecords(clock)
    number = await records.acquire_lease("directory", "one", 60)
    assert number is not None
    told: list[float] = []
    sleep = asyncio.sleep

    async def pause(seconds: float) -> None:
        told.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", pause)
    people = FakeSource({"ann": ["g"], "bob": ["g"], "eve": []})
    await synchronise(settings(), people, records, clock, Progress(), Fence("directory", "one", number))
    assert len(records.puts) > 1
    assert set(told) == {0.0}
