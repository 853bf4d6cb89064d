"""The decision log: what a record says and hides, when it is written, and what happens when it cannot be."""

import asyncio
import errno
import json
import os
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.deployment import wait_for
from tests.support.key_material import key, keyring
from tests.unit.authorize.builders import CONFIG, World, passed, status, world
from tests.unit.authorize.test_check_request import message_of

from doorward.identity.session import Session
from doorward.keys.keyring import Keyring
from doorward.keys.store import Purpose
from doorward.records.record import RecordVersion
from doorward_authorize import decision_log
from doorward_authorize.check_request import CheckParser
from doorward_authorize.decision_log import DecisionLog
from doorward_authorize.decision_record import DecisionRecord, RecordEncoder
from doorward_authorize.log_file import LONGEST_FILE_SECONDS, LogFile
from doorward_authorize.otlp_export import record_sender
from doorward_authorize.outcome import Outcome, Verdict

__all__ = ["world"]

READING = CONFIG.replace(
    "{and: [{groups: {has: admins}}]}",
    "{and: [{groups: {has: admins}}, {domain: example.com}, {claim/department: eng}, {http_path: {starts_with: /}}]}",
)


async def records(world: World) -> list[dict[str, Any]]:
    await world.log.flush()
    path = world.folder / "decisions.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def encoder(*loggable: str) -> RecordEncoder:
    return RecordEncoder(keyring(Purpose.DECISION_FACTS), loggable)


def rebuilt(world: World, log: DecisionLog) -> None:
    world.log = log
    world.checker._decision_log = log


async def test_a_record_names_what_the_policy_read_as_keyed_hashes(world: World):
    world.reload(READING)
    cookie = world.sign_in(host="admin.example.com")
    await world.check("admin", cookie=cookie, path="/payroll?id=7")
    record = (await records(world))[0]
    assert set(record["inputs"]) == {"email", "groups", "claim/department", "http_path"}
    assert len(record["inputs"]["groups"]["hashes"]) == 1
    assert len(record["inputs"]["email"]["hash"]) == 32
    text = (world.folder / "decisions.jsonl").read_text()
    for secret in ("payroll", "alice@", 'admins"', 'eng"', cookie.split("=")[1]):
        assert secret not in text
    assert record["outcome"] == "allow"
    assert record["user_id"]
    assert record["data_version"] == "1.100"


async def test_what_the_operator_marks_is_readable(world: World):
    world.reload(READING)
    rebuilt(
        world,
        DecisionLog(
            LogFile(world.folder / "decisions.jsonl", 1 << 30, 1, 60.0), encoder("email", "groups"), world.metrics
        ),
    )
    await world.check("admin", cookie=world.sign_in(host="admin.example.com"))
    inputs = (await records(world))[0]["inputs"]
    assert inputs["email"] == {"value": "alice@example.com"}
    assert inputs["groups"] == {"value": ["admins"]}
    assert "hash" in inputs["claim/department"]


async def test_equal_values_have_equal_hashes_and_others_do_not(world: World):
    world.reload(READING)
    for name, path in (("alice", "/a"), ("alice", "/a"), ("bob", "/b")):
        await world.check("admin", cookie=world.sign_in(name, host="admin.example.com"), path=path)
    first, second, third = await records(world)
    assert first["inputs"] == second["inputs"]
    assert first["inputs"]["email"] != third["inputs"]["email"]
    assert first["path_hash"] == second["path_hash"] != third["path_hash"]


async def test_many_groups_are_one_hash(world: World):
    world.reload(READING)
    groups = frozenset({"admins", *(f"g{number}" for number in range(5_000))})
    await world.check("admin", cookie=world.sign_in(groups=groups, host="admin.example.com"))
    await world.check("admin", cookie=world.sign_in(groups=None, host="admin.example.com"))
    known, unknown = await records(world)
    assert known["inputs"]["groups"]["count"] == 5_001
    assert unknown["inputs"]["groups"] is None


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=30), st.binary(max_size=30), st.text(max_size=30))
def test_s81_no_input_splits_a_line(method: str, request_id: bytes, path: str):
    message = message_of(method, path, [("x-request-id", request_id, True)], {"route": path, "host": method}, "")
    request = CheckParser().parse(message.SerializeToString())
    for text in (path, '\r\n{"decision_id":"forged"}', "\x1b[2J\u2028"):
        outcome = Outcome(verdict=Verdict.DENY, reasons=(text,), rule=text, user_id=text, session_id=text)
        line = encoder().encode(DecisionRecord(text, 1.0, request, outcome, 403, text, RecordVersion(1, 2)))
        assert line.isascii()
        assert [ord(character) for character in line if ord(character) < 32] == [10]
        assert json.loads(line)["decision_id"] == text


@pytest.mark.parametrize(
    "odd", ['a\r\n{"decision_id":"forged"}', "\x1b[31m\x7f\0", "\u2028\u2029\x85", "\ud800", '"}\\', "\xe9"]
)
async def test_s81_no_loggable_value_splits_a_line_or_what_a_collector_gets(world: World, odd: str):
    named = "{and: [{http_header/user-agent: {contains: x}}, {claim/title: y}]}"
    world.reload(CONFIG.replace("{and: [{groups: {has: admins}}]}", named))
    facts = encoder("http_header/user-agent", "claim/title")
    rebuilt(world, DecisionLog(LogFile(world.folder / "decisions.jsonl", 1 << 30, 1, 60.0), facts, world.metrics))
    cookie = world.sign_in(host="admin.example.com")
    session_key = next(item for item in world.records.data if item[0] == "Session")
    session = Session.from_bytes(world.records.data[session_key])
    world.records.data[session_key] = replace(session, claims_json=json.dumps({"title": odd}).encode()).to_bytes()
    agent = odd.encode("utf-8", "surrogatepass").decode("latin-1")
    assert status(await world.check("admin", cookie=cookie, user_agent=agent)) == 403
    (record,) = await records(world)
    assert record["inputs"] == {"http_header/user-agent": {"value": [agent]}, "claim/title": {"value": odd}}
    text = (world.folder / "decisions.jsonl").read_text()
    assert text.isascii()
    assert [ord(character) for character in text if ord(character) < 32 or ord(character) == 127] == [10]
    sent = record_sender("http://127.0.0.1:9", {}, world.metrics)._body([text])
    (told,) = sent["resourceLogs"][0]["scopeLogs"][0]["logRecords"]  # type: ignore[index]
    assert told["body"]["stringValue"] == text.rstrip("\n")
    assert {item["value"]["stringValue"] for item in told["attributes"]} == {
        record["decision_id"], "admin", "deny", record["user_id"],
    }  # fmt: skip


async def test_a_number_that_json_has_no_form_for_is_a_text_in_the_log(world: World):
    """Python reads and writes `NaN`; most collectors would refuse the line, and the decision would be missing where people look for it."""
    world.reload(CONFIG.replace("{and: [{groups: {has: admins}}]}", "{and: [{claim/score: y}, {claim/sizes: y}]}"))
    facts = encoder("claim/score", "claim/sizes")
    rebuilt(world, DecisionLog(LogFile(world.folder / "decisions.jsonl", 1 << 30, 1, 60.0), facts, world.metrics))
    cookie = world.sign_in(host="admin.example.com")
    session_key = next(item for item in world.records.data if item[0] == "Session")
    session = Session.from_bytes(world.records.data[session_key])
    claims = b'{"score": NaN, "sizes": [1.5, {"NaN": -Infinity}, 1e999, "y"]}'
    world.records.data[session_key] = replace(session, claims_json=claims).to_bytes()
    await world.check("admin", cookie=cookie)
    await world.log.flush()
    (line,) = (world.folder / "decisions.jsonl").read_text().splitlines()
    record = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert record["inputs"] == {
        "claim/score": {"value": "NaN"},
        "claim/sizes": {"value": [1.5, {"NaN": "-Infinity"}, "Infinity", "y"]},
    }


async def test_a_full_queue_drops_and_counts(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(decision_log, "QUEUE_LIMIT", 3)
    for _ in range(5):
        assert passed(await world.check("public"))
    assert len(await records(world)) == 3
    assert world.registry.get_sample_value("doorward_decision_log_drops_total") == 2


class Disk(LogFile):
    """A disk that does what the test says."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, 1 << 30, 1, 60.0)
        self.fails = False
        self.hangs = threading.Event()
        self.hangs.set()
        self.durable: list[bool] = []

    def append(self, text: str, *, durable: bool) -> None:
        self.durable.append(durable)
        self.hangs.wait(5)
        if self.fails:
            raise OSError("no space left")
        super().append(text, durable=durable)


async def test_audit_or_deny_writes_what_nobody_waits_for_at_once_too(world: World):
    """A stream that was cut is recorded though no request comes."""
    message = message_of("GET", "/", [], {"route": "public", "host": "h"}, "")
    request = CheckParser().parse(message.SerializeToString())
    record = DecisionRecord("cut", 1.0, request, Outcome(verdict=Verdict.CUT), 0, "g", RecordVersion(1, 2))
    log = DecisionLog(Disk(world.folder / "decisions.jsonl"), encoder(), world.metrics, audit_or_deny=True)
    running = asyncio.create_task(log.run())
    try:
        log.add(record)
        async with asyncio.timeout(5):
            while not (world.folder / "decisions.jsonl").exists():
                await asyncio.sleep(0.01)
    finally:
        running.cancel()


async def test_audit_or_deny_answers_only_what_is_on_the_disk(world: World, monkeypatch: pytest.MonkeyPatch):
    disk = Disk(world.folder / "decisions.jsonl")
    log = DecisionLog(disk, encoder(), world.metrics, audit_or_deny=True)
    rebuilt(world, log)
    running = asyncio.create_task(log.run())
    try:
        answers = await asyncio.gather(*(world.check("public") for _ in range(20)))
        assert all(passed(answer) for answer in answers)
        assert len((world.folder / "decisions.jsonl").read_text().splitlines()) == 20
        assert set(disk.durable) == {True}
        assert len(disk.durable) <= 3, "records that wait together are written together"
        disk.fails = True
        assert status(await world.check("public")) == 503
        disk.fails = False
        monkeypatch.setattr(decision_log, "DURABLE_SECONDS", 0.2)  # not before: a busy machine's disk may take longer
        disk.hangs.clear()
        assert status(await world.check("public")) == 503
        disk.hangs.set()
        assert passed(await world.check("public"))
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert world.registry.get_sample_value("doorward_decisions_unrecorded_total") == 2


async def test_a_disk_that_fails_costs_records_and_no_decision_in_normal_mode(world: World):
    disk = Disk(world.folder / "decisions.jsonl")
    rebuilt(world, DecisionLog(disk, encoder(), world.metrics))
    disk.fails = True
    assert passed(await world.check("public"))
    await world.log.flush()
    assert world.registry.get_sample_value("doorward_decision_log_drops_total") == 1


async def test_what_is_queued_is_written_when_the_process_ends(world: World):
    running = asyncio.create_task(world.log.run())
    await asyncio.sleep(0)
    await world.check("public")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert len((world.folder / "decisions.jsonl").read_text().splitlines()) == 1


async def test_a_record_that_was_cut_short_takes_no_other_with_it(world: World, monkeypatch: pytest.MonkeyPatch):
    """A disk that is full in the middle of a line: what is promised to be there afterwards must be a line of its own."""
    path = world.folder / "decisions.jsonl"
    log = DecisionLog(LogFile(path, 1 << 30, 1, 60.0), encoder(), world.metrics, audit_or_deny=True)
    rebuilt(world, log)
    running = asyncio.create_task(log.run())
    write, room = os.write, [40]

    def full(descriptor: int, data: bytes) -> int:
        if not room:
            raise OSError(errno.ENOSPC, "no space left")
        return write(descriptor, data[: room.pop()])

    try:
        with monkeypatch.context() as patched:
            patched.setattr("doorward_authorize.log_file.os.write", full)
            assert status(await world.check("public")) == 503
        assert passed(await world.check("public"))
        assert passed(await world.check("public"))
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    torn, *whole = path.read_text().splitlines()
    assert len(torn) == 40
    assert sorted(json.loads(line)["outcome"] for line in whole) == ["allow", "allow", "unavailable"]


def test_a_full_file_is_set_aside_and_old_ones_go(tmp_path: Path):
    path = tmp_path / "d.jsonl"
    file = LogFile(path, 100, 2, 3_600.0)
    for number in range(5):
        file.append(f"{number:>120}\n", durable=number % 2 == 0)
    assert not path.exists()
    assert len(file.old_files()) == 2
    assert [old.read_text().strip() for old in file.old_files()] == ["4", "3"]
    assert path.parent.stat().st_mode
    file.append("x\n", durable=True)
    assert path.stat().st_mode & 0o077 == 0


def test_where_little_is_decided_records_are_dropped_in_time_all_the_same(tmp_path: Path):
    """What must not be kept for longer must not wait for a file to fill."""
    path, now = tmp_path / "d.jsonl", time.time()
    file = LogFile(path, 1 << 30, 9, 3_600.0)
    file.tidy()
    file.append('{"decision_id":"a","time":%f,"x":1}\n' % (now - LONGEST_FILE_SECONDS + 60), durable=False)
    file.tidy()
    assert file.old_files() == [], "a file of today stays"
    path.write_text('{"decision_id":"a","time":%f,"x":1}\n' % (now - LONGEST_FILE_SECONDS))
    file.tidy()
    (aside,) = file.old_files()
    assert not path.exists()
    os.utime(aside, (now - 3_599, now - 3_599))
    file.tidy()
    assert file.old_files() == [aside]
    os.utime(aside, (now - 3_601, now - 3_601))
    file.tidy()
    assert file.old_files() == []
    path.write_bytes(b"\xff no record")
    file.tidy()
    assert path.exists()
    LogFile(None, 1, 1, 1.0).tidy()


async def test_the_log_is_tidied_while_it_runs(world: World, monkeypatch: pytest.MonkeyPatch):
    tidied = asyncio.Event()
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(LogFile, "tidy", lambda _: loop.call_soon_threadsafe(tidied.set))
    running = asyncio.create_task(world.log.run())
    async with asyncio.timeout(5):
        await tidied.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def test_processes_that_share_a_file_lose_nothing(tmp_path: Path):
    files = [LogFile(tmp_path / "d.jsonl", 2_000, 1_000, 3_600.0) for _ in range(4)]

    def write(file: LogFile, name: int) -> None:
        for number in range(200):
            file.append(f"{name} {number}\n", durable=False)

    threads = [threading.Thread(target=write, args=(file, name)) for name, file in enumerate(files)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = files[0].old_files() + ([tmp_path / "d.jsonl"] if (tmp_path / "d.jsonl").exists() else [])
    lines = [line for path in kept for line in path.read_text().splitlines()]
    assert len(lines) == len(set(lines)) == 800


async def test_records_reach_a_collector_and_what_it_refuses_is_counted(world: World):
    got: list[dict[str, Any]] = []
    refuse = threading.Event()

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if not refuse.is_set():
                got.append({"path": self.path, "body": json.loads(body)})
            self.send_response(503 if refuse.is_set() else 200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    export = record_sender(f"http://127.0.0.1:{server.server_port}/base", {"service.name": "a"}, world.metrics)
    log = DecisionLog(
        LogFile(world.folder / "decisions.jsonl", 1 << 30, 1, 60.0), encoder(), world.metrics, export=export
    )
    rebuilt(world, log)
    sending = asyncio.create_task(export.run())
    try:
        await world.check("public")
        await log.flush()
        await asyncio.to_thread(wait_for, lambda: got, 5)
        assert got[0]["path"] == "/base/v1/logs"
        record = got[0]["body"]["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]
        assert json.loads(record["body"]["stringValue"])["route"] == "public"
        refuse.set()
        await world.check("public")
        await log.flush()

        def dropped() -> float | None:
            return world.registry.get_sample_value("doorward_decision_export_drops_total")

        await asyncio.to_thread(wait_for, lambda: dropped() == 1, 5)
    finally:
        sending.cancel()
        server.shutdown()
        thread.join()
        server.server_close()


async def test_records_name_the_key_of_their_hashes_and_follow_a_rotation(world: World):
    world.reload(READING)
    keys = keyring(Purpose.DECISION_FACTS)
    before = keys.primary.id.hex()
    rebuilt(
        world,
        DecisionLog(
            LogFile(world.folder / "decisions.jsonl", 1 << 30, 3, 3600.0), RecordEncoder(keys, ()), world.metrics
        ),
    )
    cookie = world.sign_in(host="admin.example.com")
    await world.check("admin", cookie=cookie)
    await records(world)
    keys.take_over(Keyring(keys.purpose, [key("newer"), *keys.keys]))
    await world.check("admin", cookie=cookie)
    first, second = await records(world)
    assert (first["hash_key"], second["hash_key"]) == (before, key("newer").id.hex())
    assert first["path_hash"] != second["path_hash"]
    assert first["inputs"]["groups"] != second["inputs"]["groups"]
