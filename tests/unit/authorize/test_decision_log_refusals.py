"""Decisions that could not be recorded in time: what is to be found by their ids, and what each of the two sinks gets."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from tests.support.key_material import keyring
from tests.unit.authorize.builders import World, passed, status, world

from doorward.api.authorize.v1 import authorize_pb2 as pb
from doorward.keys.store import Purpose
from doorward_authorize import decision_log
from doorward_authorize.decision_log import DecisionLog
from doorward_authorize.decision_record import RecordEncoder
from doorward_authorize.log_file import LogFile

__all__ = ["world"]

LONG = 5.0


class Disk(LogFile):
    """A disk that hangs while it is told to, and may fail before or after it has taken what it is given."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, 1 << 30, 1, 60.0)
        self.path = path
        self.fails_before = self.fails_after = False
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.is_asked = threading.Event()

    def append(self, text: str, *, durable: bool) -> None:
        self.is_asked.set()
        self.goes_on.wait(LONG)
        if self.fails_before:
            raise OSError("no space left")
        super().append(text, durable=durable)
        if self.fails_after:
            raise OSError("the disk does not say that it has it")

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def of(self, decision_id: str) -> list[tuple[str, int, list[str]]]:
        """What the file says of one decision, in its order."""
        return [
            (record["outcome"], record["status"], record["reasons"])
            for record in self.records
            if record["decision_id"] == decision_id
        ]


class Export:
    """The other sink."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def offer(self, lines: Sequence[str]) -> None:
        self.records += map(json.loads, lines)

    @property
    def outcomes(self) -> list[str]:
        return [record["outcome"] for record in self.records]


NOT_RECORDED = ("unavailable", 503, ["not-recorded"])


@pytest.fixture
def disk(world: World) -> Disk:
    return Disk(world.folder / "decisions.jsonl")


@pytest.fixture
def export() -> Export:
    return Export()


def made(world: World, disk: Disk, export: Export, *, audit_or_deny: bool) -> DecisionLog:
    encoder = RecordEncoder(keyring(Purpose.DECISION_FACTS), ())
    log = DecisionLog(
        disk, encoder, world.metrics, audit_or_deny=audit_or_deny, export=export, on_refused=world.not_recorded
    )
    world.log = world.checker._decision_log = log
    return log


@asynccontextmanager
async def running(log: DecisionLog, disk: Disk) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(log.run())
    try:
        yield task
    finally:
        disk.goes_on.set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(LONG):
        while not holds():
            await asyncio.sleep(0.01)


def drops(world: World, of: str = "log") -> float | None:
    return world.registry.get_sample_value(f"doorward_decision_{of}_drops_total")


def id_of(response: Any) -> str:
    headers = MessageToDict(response)["deniedResponse"]["headers"]
    return next(item["header"]["value"] for item in headers if item["header"]["key"] == "x-doorward-decision-id")


async def test_a_record_that_was_written_too_late_does_not_stand_as_an_allow(
    world: World, disk: Disk, export: Export, monkeypatch: pytest.MonkeyPatch
):
    """An auditor would read that somebody was let in who got 503; what had not begun to be written is withdrawn."""
    log = made(world, disk, export, audit_or_deny=True)
    async with running(log, disk):
        assert passed(await world.check("public"))
        (told,) = disk.records
        monkeypatch.setattr(decision_log, "DURABLE_SECONDS", 0.2)
        disk.is_asked.clear()
        disk.goes_on.clear()
        first = asyncio.create_task(world.check("public"))
        await until(disk.is_asked.is_set)
        second = asyncio.create_task(world.check("public"))
        late, withdrawn = await first, await second
        assert (status(late), status(withdrawn)) == (503, 503)
        disk.goes_on.set()
        await until(lambda: len(disk.records) == 4)
    assert disk.of(told["decision_id"]) == [("allow", told["status"], told["reasons"])]
    assert disk.of(id_of(late)) == [("allow", told["status"], told["reasons"]), NOT_RECORDED]
    assert disk.of(id_of(withdrawn)) == [NOT_RECORDED]
    assert export.outcomes == ["allow", "unavailable", "unavailable"], "the collector is told no allow that nobody got"
    for response in (late, withdrawn):
        found = await world.explanations.of(id_of(response))
        assert (found.decision.effect, list(found.decision.reasons)) == (pb.EFFECT_DENY, ["not-recorded"])
        assert found.text == (
            "deny, whatever a policy said: the record was not on the disk in time, so that nobody was told what was "
            "decided (not-recorded)"
        )
    assert drops(world) == 0


async def test_what_is_refused_for_want_of_a_record_keeps_who_asked_for_what(world: World, disk: Disk, export: Export):
    log = made(world, disk, export, audit_or_deny=True)
    disk.fails_after = True
    async with running(log, disk):
        refused = await world.check("admin", cookie=world.sign_in(host="admin.example.com"), accept="text/html")
        disk.fails_after = False
    claimed, counts = [record for record in disk.records if record["decision_id"] == id_of(refused)][:2]
    assert claimed["outcome"] == "allow"
    assert (counts["outcome"], counts["status"], counts["rule"]) == ("unavailable", 503, None)
    same = ("route", "host", "user_id", "session_id", "inputs", "time", "request_id", "data_version", "path_hash")
    assert {name: counts[name] for name in same} == {name: claimed[name] for name in same}


async def test_a_refusal_is_kept_until_the_disk_takes_it(
    world: World, disk: Disk, export: Export, monkeypatch: pytest.MonkeyPatch
):
    """A disk that failed in the middle may hold the claim; the word against it must not be lost with it. No request need come for that."""
    monkeypatch.setattr(decision_log, "RETRY_SECONDS", 0.02)
    log = made(world, disk, export, audit_or_deny=True)
    async with running(log, disk):
        disk.fails_after = True
        decision_id = id_of(await world.check("public"))
        disk.fails_before = True
        disk.is_asked.clear()
        await until(disk.is_asked.is_set)
        disk.fails_before = disk.fails_after = False
        await until(lambda: NOT_RECORDED in disk.of(decision_id))
    assert disk.of(decision_id)[0][0] == "allow"
    assert set(export.outcomes) == {"unavailable"}
    assert drops(world) == 0


async def test_refusals_that_the_disk_never_takes_are_counted(world: World, disk: Disk, export: Export):
    log = made(world, disk, export, audit_or_deny=True)
    disk.fails_before = True
    async with running(log, disk):
        for _ in range(3):
            assert status(await world.check("public")) == 503
    assert disk.records == []
    assert export.outcomes == ["unavailable"] * 3
    assert drops(world) == 3


async def test_a_check_that_was_given_up_was_not_allowed(world: World, disk: Disk, export: Export):
    """Envoy resets a call that takes too long, and lets nobody in."""
    log = made(world, disk, export, audit_or_deny=True)
    async with running(log, disk):
        disk.goes_on.clear()
        asked = asyncio.create_task(world.check("public"))
        await until(disk.is_asked.is_set)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        disk.goes_on.set()
        await until(lambda: len(disk.records) == 2)
    (decision_id,) = {record["decision_id"] for record in disk.records}
    assert [outcome for outcome, _, _ in disk.of(decision_id)] == ["allow", "unavailable"]
    assert list((await world.explanations.of(decision_id)).decision.reasons) == ["not-recorded"]


async def test_nobody_is_told_what_waits_when_the_process_ends(
    world: World, disk: Disk, export: Export, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(decision_log, "DURABLE_SECONDS", LONG)
    monkeypatch.setattr(decision_log, "LAST_SECONDS", 0.05)
    log = made(world, disk, export, audit_or_deny=True)
    async with running(log, disk) as task:
        disk.goes_on.clear()
        first = asyncio.create_task(world.check("public"))
        await until(disk.is_asked.is_set)
        second = asyncio.create_task(world.check("public"))
        await until(lambda: log._waiting)
        task.cancel()
        assert [status(response) for response in await asyncio.gather(first, second)] == [503, 503]
        disk.goes_on.set()
    await until(lambda: len(disk.records) == 3)
    assert NOT_RECORDED in disk.of(id_of(first.result()))
    assert disk.of(id_of(second.result())) == [NOT_RECORDED]
    assert export.outcomes == ["unavailable", "unavailable"]


async def test_only_refusals_that_somebody_saw_are_put_as_records(world: World, disk: Disk, export: Export):
    """Another authorizer would explain a page that nobody got."""
    log = made(world, disk, export, audit_or_deny=True)
    cookie = world.sign_in("bob", groups=frozenset(), host="admin.example.com")
    async with running(log, disk):
        disk.fails_before = True
        assert status(await world.check("admin", cookie=cookie, accept="text/html")) == 503
        disk.fails_before = False
        seen = await world.check("admin", cookie=cookie, accept="text/html")
        assert status(seen) == 403
    assert [held.id for held in world.explanations._queue] == [id_of(seen)]


async def test_what_the_file_loses_reaches_the_collector(world: World, disk: Disk, export: Export):
    log = made(world, disk, export, audit_or_deny=False)
    disk.fails_before = True
    assert passed(await world.check("public"))
    await log.flush()
    assert export.outcomes == ["allow"]
    assert (drops(world), drops(world, "export")) == (1, 0)
    async with running(log, disk):
        await asyncio.sleep(0)
        assert passed(await world.check("public"))
    assert export.outcomes == ["allow", "allow"], "the last records too"
    assert drops(world) == 2


async def test_a_disk_that_hangs_holds_up_the_file_alone(
    world: World, disk: Disk, export: Export, monkeypatch: pytest.MonkeyPatch
):
    log = made(world, disk, export, audit_or_deny=False)
    async with running(log, disk):
        disk.goes_on.clear()
        assert passed(await world.check("public"))
        await until(disk.is_asked.is_set)
        monkeypatch.setattr(decision_log, "QUEUE_LIMIT", 2)
        for count in (2, 3, 4):
            assert passed(await world.check("public"))
            await until(lambda count=count: len(export.records) == count)  # type: ignore[misc]
        assert (drops(world), drops(world, "export")) == (1, 0)
        disk.goes_on.set()
        await until(lambda: len(disk.records) == 3)


async def test_what_neither_sink_could_be_offered_is_counted_for_both(
    world: World, disk: Disk, export: Export, monkeypatch: pytest.MonkeyPatch
):
    log = made(world, disk, export, audit_or_deny=False)
    monkeypatch.setattr(decision_log, "QUEUE_LIMIT", 1)
    for _ in range(3):
        assert passed(await world.check("public"))
    await log.flush()
    assert (len(disk.records), len(export.records)) == (1, 1)
    assert (drops(world), drops(world, "export")) == (2, 2)
