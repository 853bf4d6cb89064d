"""What a metered store counts; that it answers like the one inside is the conformance suite's matter."""

import asyncio
from collections.abc import Awaitable

import pytest
from prometheus_client import CollectorRegistry
from tests.support.fake_clock import FakeClock
from tests.support.key_material import keyring
from tests.support.records import metered

from doorward.errors import (
    ConflictError,
    DataCorruptedError,
    KeyMissingError,
    NotFoundError,
    OutcomeUnknownError,
    UnavailableError,
)
from doorward.keys.store import Purpose
from doorward.records.record import Record, Write
from doorward_databroker.store.codec import SealedCodec
from doorward_databroker.store.memory import MemoryStore


class Metered:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.memory = MemoryStore(FakeClock(), SealedCodec(keyring(Purpose.RECORDS)))
        self.store = metered(self.memory, self.registry)

    def counted(self, operation: str, outcome: str = "ok") -> float:
        labels = {"operation": operation, "outcome": outcome}
        return self.registry.get_sample_value("doorward_store_operations_total", labels) or 0.0

    def timed(self, operation: str) -> float:
        name = "doorward_store_operation_seconds_count"
        return self.registry.get_sample_value(name, {"operation": operation}) or 0.0


async def test_every_call_is_counted_by_its_outcome_and_timed():
    one = Metered()
    write = Write(record=Record(type="User", id="u"), absent=True)
    await one.store.put([write], "1")
    with pytest.raises(ConflictError):
        await one.store.put([write], "2")
    with pytest.raises(NotFoundError):
        await one.store.get("User", "nobody")
    assert (one.counted("put"), one.counted("put", "conflict"), one.timed("put")) == (1, 1, 2)
    assert (one.counted("get"), one.counted("get", "not_found"), one.timed("get")) == (0, 1, 1)


async def test_waiting_for_changes_is_counted_and_not_timed():
    one = Metered()
    assert await one.store.changes(await one.store.head(), 10, 0.001) == []
    assert (one.counted("changes"), one.timed("changes")) == (1, 0)


async def test_pages_are_counted_one_by_one():
    one = Metered()
    for name in "abc":
        await one.memory.put([Write(record=Record(type="User", id=name))], name)
    assert [len(page.records) async for page in one.store.snapshot("User", 2)] == [2, 1]
    assert one.counted("snapshot") == one.timed("snapshot") == 3, "two pages, and that there are no more"


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (UnavailableError("away"), "unavailable"),
        (OutcomeUnknownError("lost"), "unknown"),
        (DataCorruptedError("spoiled"), "corrupted"),
        (KeyMissingError("not held"), "corrupted"),
        (asyncio.CancelledError(), "cancelled"),
        (LookupError("a bug"), "failed"),
    ],
)
async def test_a_failure_has_the_name_of_what_it_is(
    error: BaseException, outcome: str, monkeypatch: pytest.MonkeyPatch
):
    one = Metered()

    def fail(*_: object) -> Awaitable[object]:
        answer = asyncio.get_running_loop().create_future()
        if isinstance(error, asyncio.CancelledError):
            answer.cancel()
        else:
            answer.set_exception(error)
        return answer

    monkeypatch.setattr(one.memory, "head", fail)
    with pytest.raises(type(error)):
        await one.store.head()
    assert one.counted("head", outcome) == one.timed("head") == 1
