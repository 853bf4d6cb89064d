"""``doorward records``: what other systems say of people, put as a whole from a file of JSON lines.

Each line is an object; one field says whom it is about, and the others are the record. People whom the file no longer names have no
record any more. Only when everything is stored does the kind of record count as known, or as known anew.
"""

import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from doorward.cli.access import Access
from doorward.cli.operate import with_records
from doorward.cli.terminal import add_row
from doorward.config.words import parse_duration
from doorward.errors import ConfigurationError, DataCorruptedError, NotFoundError
from doorward.identity.external_record import (
    JOINS,
    RECORD_TYPE,
    SOURCE_TYPE,
    SUBJECT,
    ExternalRecord,
    ExternalSource,
    is_kind,
)
from doorward.records.client import RecordClient
from doorward.records.record import Record, Write

LINE_LIMIT_BYTES = 64 * 1024
FEW = 10
"""So many may vanish at once without a word."""
_BATCH = 100
_BATCH_BYTES = 8 * 1024 * 1024
"""Half of what one put takes."""
_PROBLEMS_SHOWN = 20


def put_records(
    access: Access,
    kind: str,
    file: Path,
    *,
    join: str,
    issuer: str | None,
    key: str | None,
    stale_after: str | None,
    accept_removals: bool,
    as_json: bool,
) -> int:
    """Replace what is known of a kind of record; 1 when so much would vanish that it looks like a mistake.

    Raises:
        ConfigurationError: an option or a line is not usable; nothing was changed.
    """
    source = _source(kind, join, issuer, stale_after)
    try:
        lines = sys.stdin.buffer.readlines() if str(file) == "-" else file.read_bytes().splitlines()
    except OSError as error:
        raise ConfigurationError([f"{file}: error: {error.strerror or error}"]) from error
    wanted = read_lines(lines, source, key or ("email" if join != SUBJECT else SUBJECT), str(file))

    async def body(client: RecordClient) -> tuple[int, int] | None:
        stored = {record.id: record.data async for record in client.query(RECORD_TYPE, "kind", kind)}
        gone = stored.keys() - wanted.keys()
        if len(gone) > max(FEW, len(stored) // 4) and not accept_removals:
            return None
        writes = [
            Write(record=Record(type=RECORD_TYPE, id=record_id, data=data, indexes={"kind": (kind,)}))
            for record_id, data in wanted.items()
            if stored.get(record_id) != data
        ]
        writes += [Write(record=Record(type=RECORD_TYPE, id=record_id, deleted=True)) for record_id in sorted(gone)]
        if stored and not await _is_joined_alike(client, source):
            # Unknown first: the old join does not find the new records, and whose record is gone must not count as one who has none.
            await client.delete(SOURCE_TYPE, kind)
        batch: list[Write] = []
        size = 0
        for write in writes:
            if len(batch) == _BATCH or size + len(write.record.data) > _BATCH_BYTES:
                await client.put(batch)
                batch, size = [], 0
            batch.append(write)
            size += len(write.record.data)
        if batch:
            await client.put(batch)
        await client.put([Write(record=Record(type=SOURCE_TYPE, id=kind, data=_counted(source, len(wanted))))])
        return len(writes) - len(gone), len(gone)

    changed = with_records(access, body)
    if changed is None:
        print("error: most of the records would vanish; --accept-removals if that is so", file=sys.stderr)
        return 1
    report = {"kind": kind, "records": len(wanted), "written": changed[0], "removed": changed[1]}
    print(
        json.dumps(report) if as_json else f"{kind}: {len(wanted)} records, {changed[0]} written, {changed[1]} removed"
    )
    return 0


async def _is_joined_alike(client: RecordClient, source: ExternalSource) -> bool:
    """Whether authorizers look for the records of this kind under the ids that ``source`` gives them, if they look at all."""
    try:
        known = ExternalSource.from_bytes(source.kind, (await client.get(SOURCE_TYPE, source.kind)).data)
    except NotFoundError:
        return True
    except DataCorruptedError:
        return True  # it is unknown for them too
    return (known.join, known.issuer) == (source.join, source.issuer)


def list_sources(access: Access, *, as_json: bool) -> int:
    """Print the kinds of records that are known."""

    async def body(client: RecordClient) -> list[ExternalSource]:
        return [ExternalSource.from_bytes(record.id, record.data) async for record in client.list(SOURCE_TYPE)]

    table = Table("kind", "joined by", "records", "as of", "counts until")
    for source in with_records(access, body):
        until = None if source.stale_seconds is None else source.good_until
        if as_json:
            told = {
                "kind": source.kind, "join": source.join, "issuer": source.issuer, "records": source.count,
                "synchronised_at": source.synchronised_at, "good_until": until,
            }  # fmt: skip
            print(json.dumps(told))
        joined = f"{source.join} of {source.issuer}" if source.issuer else source.join
        ends = "for ever" if until is None else _time(until)
        add_row(table, source.kind, joined, str(source.count), _time(source.synchronised_at), ends)
    if not as_json:
        Console().print(table)
    return 0


def remove_records(access: Access, kind: str) -> int:
    """Make a kind of record unknown, and delete its records; 1 when it was not known."""

    async def body(client: RecordClient) -> int:
        await client.get(SOURCE_TYPE, kind)
        # Unknown first: a person whose record is gone must not count as one who has none.
        await client.delete(SOURCE_TYPE, kind)
        ids = [record.id async for record in client.query(RECORD_TYPE, "kind", kind)]
        for record_id in ids:
            await client.delete(RECORD_TYPE, record_id)
        return len(ids)

    try:
        removed = with_records(access, body)
    except NotFoundError:
        print(f"error: no records of the kind `{kind}`", file=sys.stderr)
        return 1
    print(f"{kind}: unknown from now on, {removed} records removed")
    return 0


def read_lines(lines: Iterable[bytes], source: ExternalSource, key: str, name: str) -> dict[str, bytes]:
    """Record payloads by id.

    Raises:
        ConfigurationError: with every line that is not usable.
    """
    found: dict[str, bytes] = {}
    problems: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record_id, data = _record(line, source, key)
            if record_id in found:
                raise ValueError(f"its `{key}` stands on another line already")
            found[record_id] = data
        except ValueError as error:
            problems.append(f"{name}:{number}:1: error: {error}")
    if problems:
        raise ConfigurationError(problems[:_PROBLEMS_SHOWN])
    return found


def _record(line: bytes, source: ExternalSource, key: str) -> tuple[str, bytes]:
    if len(line) > LINE_LIMIT_BYTES:
        raise ValueError(f"longer than {LINE_LIMIT_BYTES} bytes")
    try:
        value = json.loads(line, object_pairs_hook=_without_repetition, parse_constant=_no_constant)
    except (UnicodeDecodeError, RecursionError, json.JSONDecodeError) as error:
        raise ValueError(f"no JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError("expected an object")  # noqa: TRY004  # what is wrong with a line is one kind of error
    who = value.pop(key, None)
    record_id = source.id_of_line(who) if isinstance(who, str) else None
    if record_id is None:
        what = "the subject at its issuer" if source.join == SUBJECT else "a plain address"
        raise ValueError(f"`{key}` has to be {what}, as a string")
    fields = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    return record_id, ExternalRecord(id=record_id, kind=source.kind, json=fields).to_bytes()


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a field stands there twice")
    return dict(pairs)


def _no_constant(text: str) -> Iterator[None]:
    raise ValueError(f"`{text}` is no value of JSON")


def _source(kind: str, join: str, issuer: str | None, stale_after: str | None) -> ExternalSource:
    problems = []
    if not is_kind(kind):
        problems.append(f"--type: error: `{kind}` is no kind of record, such as `hr.example/employee`")
    if join not in JOINS:
        problems.append(f"--join: error: expected one of {', '.join(JOINS)}")
    if (issuer is not None) != (join == SUBJECT):
        problems.append(
            "--issuer: error: needed for subjects, which every issuer gives for itself, and for nothing else"
        )
    stale_seconds = None
    if stale_after is not None:
        try:
            stale_seconds = parse_duration(stale_after)
        except ValueError as error:
            problems.append(f"--stale-after: error: {error}")
    if problems:
        raise ConfigurationError(problems)
    return ExternalSource(
        kind=kind, join=join, issuer=issuer or "", synchronised_at=time.time(), stale_seconds=stale_seconds
    )


def _counted(source: ExternalSource, count: int) -> bytes:
    return ExternalSource(
        kind=source.kind,
        join=source.join,
        issuer=source.issuer,
        # Of when the file was read, not of when everything was stored.
        synchronised_at=source.synchronised_at,
        stale_seconds=source.stale_seconds,
        count=count,
    ).to_bytes()


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
