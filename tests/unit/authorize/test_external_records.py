"""What other systems say of somebody: unknown until it was put, and again when it is too old."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.authorize.builders import CONFIG, ISSUER, World, passed, status
from tests.unit.authorize.test_guard_watcher import Link, description

from doorward.identity.external_record import ExternalRecord, ExternalSource
from doorward_authorize.guard.watcher import Watcher

KIND = "hr.example/employee"
RECORDS = (
    CONFIG
    + """\
  - name: hr
    from: https://hr.example.com
    to: http://127.0.0.1:9003
    continuous: true
    policy: [{allow: {and: [{record: {type: hr.example/employee, field: level, ">=": 5}}]}}]
  - name: staff
    from: https://staff.example.com
    to: http://127.0.0.1:9004
    policy:
      - deny: {or: [{record: {type: hr.example/leaver, exists: true}}]}
      - allow: {and: [{authenticated_user: true}]}
"""
)


class RecordsWorld(World):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, RECORDS)
        self.cookies = {name: self.sign_in(host=f"{name}.example.com") for name in ("hr", "staff")}

    def source(self, kind: str = KIND, *, join: str = "subject", stale: float | None = None) -> ExternalSource:
        made = ExternalSource(
            kind=kind, join=join, issuer=ISSUER if join == "subject" else "", synchronised_at=self.clock.now(),
            stale_seconds=stale,
        )  # fmt: skip
        self.put("ExternalSource", kind, made.to_bytes())
        return made

    def record(self, source: ExternalSource, who: str, text: bytes) -> str:
        record_id = source.id_of_line(who)
        assert record_id is not None
        self.put("ExternalRecord", record_id, ExternalRecord(id=record_id, kind=source.kind, json=text).to_bytes())
        return record_id

    def put(self, kind: str, record_id: str, data: bytes | None) -> None:
        if data is None:
            del self.records.data[kind, record_id]
        else:
            self.records.data[kind, record_id] = data
        self.principals._external.on_record(kind, record_id)

    async def ask(self, name: str = "hr") -> int:
        return status(await self.check(name, cookie=self.cookies[name]))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[RecordsWorld]:
    return RecordsWorld(tmp_path)


async def test_a_field_decides_and_its_change_decides_the_next_request(world: RecordsWorld):
    source = world.source()
    world.record(source, "alice", b'{"level":5}')
    assert await world.ask() == 0
    world.record(source, "alice", b'{"level":4}')
    assert await world.ask() == 403


@pytest.mark.parametrize("join", ["subject", "verified_email"])
async def test_people_are_found_by_what_joins_them(world: RecordsWorld, join: str):
    source = world.source(join=join)
    world.record(source, "alice" if join == "subject" else "ALICE@example.com", b'{"level":9}')
    assert await world.ask() == 0
    world.cookies["hr"] = world.sign_in("bob", host="hr.example.com")
    assert await world.ask() == 403


async def test_an_address_that_nobody_verified_joins_nothing(world: RecordsWorld):
    world.record(world.source(join="verified_email"), "alice@example.com", b'{"level":9}')
    world.cookies["hr"] = world.sign_in(host="hr.example.com", verified=False)
    assert await world.ask() == 403


async def test_a_kind_that_was_never_put_neither_allows_nor_skips_a_deny(world: RecordsWorld):
    assert await world.ask("hr") == 403
    assert await world.ask("staff") == 403, "whether she has left is not known"
    leavers = world.source("hr.example/leaver")
    assert await world.ask("staff") == 0
    record_id = world.record(leavers, "alice", b"{}")
    assert await world.ask("staff") == 403
    world.put("ExternalRecord", record_id, None)
    assert await world.ask("staff") == 0
    world.put("ExternalSource", "hr.example/leaver", None)
    assert await world.ask("staff") == 403


async def test_s65_what_was_put_too_long_ago_is_unknown(world: RecordsWorld):
    world.source("hr.example/leaver", stale=600)
    assert await world.ask("staff") == 0
    world.clock.advance(599)
    assert await world.ask("staff") == 0
    world.clock.advance(1)
    assert await world.ask("staff") == 403
    world.source("hr.example/leaver", stale=600)
    assert await world.ask("staff") == 0


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"null", b'{"level":"many"}', b"\xff"])
async def test_a_record_that_cannot_be_read_lets_nobody_in(world: RecordsWorld, text: bytes):
    source = world.source()
    world.record(source, "alice", text)
    assert await world.ask() == 403
    await world.log.flush()
    assert "record/hr.example/employee" in (world.folder / "decisions.jsonl").read_text()


async def test_a_source_that_cannot_be_read_is_unknown(world: RecordsWorld):
    world.put("ExternalSource", "hr.example/leaver", b"\xff")
    assert await world.ask("staff") == 403


async def test_a_record_is_missing_by_the_word_of_the_source_that_is_there_and_of_no_other(world: RecordsWorld):
    """A whole copy was taken anew, and nobody has been told of its changes yet: what it lacks was never said not to exist."""
    leavers = world.source("hr.example/leaver")
    record_id = world.record(leavers, "alice", b"{}")
    assert await world.ask("staff") == 403
    world.records.data.pop(("ExternalRecord", record_id))
    world.records.data.pop(("ExternalSource", "hr.example/leaver"))
    assert await world.ask("staff") == 403
    world.principals._external.on_record("ExternalSource", "hr.example/leaver")
    assert await world.ask("staff") == 403


async def test_s65_an_open_stream_ends_with_the_record_that_it_was_decided_by(world: RecordsWorld):
    watcher, link = (
        Watcher(world.evaluator, world.principals, world.records.is_fresh, world.clock, world.metrics),
        Link(),
    )
    watcher.join(link)
    source = world.source(stale=600)
    record_id = world.record(source, "alice", b'{"level":5}')

    async def opened(number: int) -> None:
        response = await world.check("hr", cookie=world.cookies["hr"])
        assert passed(response)
        watcher.open(link, number, description(response))
        assert link.taken() == [(number, True, "")]

    async def heard(kind: str, name: str) -> list[tuple[int, bool, str]]:
        watcher.on_record(kind, name)
        await watcher.settle()
        return link.taken()

    await opened(1)
    other = world.record(source, "bob", b'{"level":1}')
    assert await heard("ExternalRecord", other) == []
    world.record(source, "alice", b'{"level":1}')
    assert await heard("ExternalRecord", record_id) == [(1, False, "record-unauthorized")]
    world.record(source, "alice", b'{"level":5}')
    await opened(2)
    world.put("ExternalSource", KIND, None)
    assert await heard("ExternalSource", KIND) == [(2, False, "record-unknown")]
    world.source(stale=600)
    await opened(3)
    world.clock.advance(600.1)
    watcher.on_time()
    await watcher.settle()
    assert link.taken() == [(3, False, "record-unknown")]
    assert not watcher._by_record, "what has ended is forgotten"
