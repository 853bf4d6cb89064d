"""Lines about people from a file: every one that cannot be used is named, and then nothing is put."""

import asyncio
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.fake_clock import FakeClock
from tests.support.records import StoreRecords

from doorward.cli import external_records
from doorward.cli.access import Access
from doorward.cli.external_records import LINE_LIMIT_BYTES, put_records, read_lines
from doorward.errors import ConfigurationError, NotFoundError
from doorward.identity.external_record import ExternalRecord, ExternalSource
from doorward.records.record import Fence, Record, RecordVersion, Write

BY_SUBJECT = ExternalSource(
    kind="hr.example/employee",
    join="subject",
    issuer="https://idp.example.com",
    synchronised_at=1.0,
    stale_seconds=None,
)
BY_EMAIL = ExternalSource(
    kind="hr.example/employee", join="verified_email", issuer="", synchronised_at=1.0, stale_seconds=60.0
)


def test_each_line_becomes_the_record_of_whom_it_names():
    found = read_lines([b'{"subject":"alice","level":5}', b"", b'{"subject":"bob"}'], BY_SUBJECT, "subject", "f")
    assert set(found) == {BY_SUBJECT.record_id("https://idp.example.com", who, None) for who in ("alice", "bob")}
    record = ExternalRecord.from_bytes(found[BY_SUBJECT.id_of_line("alice") or ""])
    assert json.loads(record.json) == {"level": 5}
    assert record.kind == "hr.example/employee"


def test_an_address_is_the_same_however_it_is_written():
    found = read_lines([b'{"mail":"Alice@Example.COM"}'], BY_EMAIL, "mail", "f")
    assert set(found) == {BY_EMAIL.record_id("any", "any", "alice@example.com")}


def test_joins_issuers_and_kinds_do_not_meet():
    ids = {
        BY_SUBJECT.record_id("https://idp.example.com", "alice@example.com", "alice@example.com"),
        BY_EMAIL.record_id("https://idp.example.com", "alice@example.com", "alice@example.com"),
        BY_SUBJECT.record_id("https://other.example.com", "alice@example.com", None),
        BY_EMAIL.record_id("https://idp.example.com", "x", None),
    }
    assert len(ids) == 3
    assert None in ids


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{", "no JSON"),
        (b"\xff", "no JSON"),
        (b"[" * 100_000, "longer than"),
        (b"[" * 60_000, "no JSON"),
        (b"[]", "expected an object"),
        (b"{}", "`subject` has to be"),
        (b'{"subject":5}', "`subject` has to be"),
        (b'{"subject":""}', "`subject` has to be"),
        (b'{"subject":"a","x":NaN}', "no value of JSON"),
        (b'{"subject":"a","subject":"b"}', "twice"),
        (b'{"subject":"a","x":{"y":1,"y":2}}', "twice"),
        (b'{"subject":"a","x":"' + b"y" * LINE_LIMIT_BYTES + b'"}', "longer than"),
        (b'{"subject":"ok"}', "another line already"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_line_that_cannot_be_used_is_named(line: bytes, problem: str):
    with pytest.raises(ConfigurationError) as caught:
        read_lines([b'{"subject":"ok"}', line], BY_SUBJECT, "subject", "people.jsonl")
    assert caught.value.problems[0].startswith("people.jsonl:2:1: error: ")
    assert problem in caught.value.problems[0]


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_noise_is_refused_in_words(lines: list[bytes]):
    # Anything but this one kind of error is a bug.
    with contextlib.suppress(ConfigurationError):
        read_lines(lines, BY_SUBJECT, "subject", "f")


class Watched(StoreRecords):
    """A databroker that looks after every write at what authorizers make of somebody who has a record all the time."""

    def __init__(self) -> None:
        super().__init__(FakeClock())
        self.said: list[str] = []

    async def put(self, writes: Sequence[Write], fence: Fence | None = None) -> tuple[RecordVersion, ...]:
        versions = await super().put(writes, fence)
        await self.look()
        return versions

    async def delete(self, record_type: str, record_id: str) -> None:
        await self.put([Write(record=Record(type=record_type, id=record_id, deleted=True))])

    async def look(self) -> None:
        try:
            source = ExternalSource.from_bytes(BY_EMAIL.kind, (await self.get("ExternalSource", BY_EMAIL.kind)).data)
            record_id = source.record_id("https://idp.example.com", "alice", "alice@example.com")
        except NotFoundError:
            self.said.append("unknown")
            return
        try:
            await self.get("ExternalRecord", record_id or "")
            self.said.append("record")
        except NotFoundError:
            self.said.append("none")


@pytest.mark.parametrize("first", ["subject", "verified_email"])
def test_whoever_has_a_record_never_counts_as_one_who_has_none_while_the_join_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
):
    records = Watched()
    monkeypatch.setattr(external_records, "with_records", lambda _, body: asyncio.run(body(records)))
    for join, who in sorted(
        {"subject": "alice", "verified_email": "alice@example.com"}.items(), reverse=first != "subject"
    ):
        records.said.clear()
        issuer = "https://idp.example.com" if join == "subject" else None
        file = tmp_path / f"{join}.jsonl"
        file.write_text(
            "".join(json.dumps({"who": name}) + "\n" for name in (who, *(f"p{n}@example.com" for n in range(250))))
        )
        put_records(
            cast("Access", None), BY_EMAIL.kind, file, join=join, issuer=issuer, key="who", stale_after=None,
            accept_removals=True, as_json=True,
        )  # fmt: skip
        assert len(records.said) > 3
        assert "none" not in records.said
        assert records.said[-1] == "record"
