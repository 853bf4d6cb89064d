"""Lines about people from a file: every one that cannot be used is named, and then nothing is put."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.cli.external_records import LINE_LIMIT_BYTES, read_lines
from doorward.errors import ConfigurationError
from doorward.identity.external_record import ExternalRecord, ExternalSource

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
