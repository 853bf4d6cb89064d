"""``doorward databroker``: look at the record store, copy it, bring it back, show it, seal it anew."""

import asyncio
import base64
import binascii
import hashlib
import json
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError, Message
from rich.console import Console
from rich.progress import Progress

from doorward.api.databroker.v1 import databroker_pb2, operations_pb2
from doorward.api.databroker.v1.operations_pb2_grpc import OperationsServiceStub
from doorward.api.directory.v1 import directory_pb2
from doorward.api.session.v1 import session_pb2
from doorward.api.user.v1 import user_pb2
from doorward.cli.access import Access
from doorward.errors import ConfigurationError, ConflictError, InvalidArgumentError, NotFoundError
from doorward.keys.private_file import written_whole
from doorward.records.client import RecordClient
from doorward.records.record import Damaged
from doorward.rpc.client import call

if TYPE_CHECKING:
    from doorward.api.databroker.v1.operations_pb2_grpc import OperationsServiceAsyncStub

T = TypeVar("T")
FORMAT = 1
_BATCH = 200
_BATCH_BYTES = 8 * 1024 * 1024
_DEADLINE_SECONDS = 30.0
EXPORTED: dict[str, type[Message]] = {
    "Session": session_pb2.Session,
    "User": user_pb2.User,
    "DirectoryUser": directory_pb2.DirectoryUser,
    "DirectoryGroup": directory_pb2.DirectoryGroup,
}
"""What may be shown in the clear. Tokens, codes and bearer secrets are not on the list, and no plane but theirs opens them."""


def show_store(access: Access, *, as_json: bool) -> int:
    """Print how the store is; 1 when it takes no writes or holds what does not open."""

    async def ask(stub: "OperationsServiceAsyncStub") -> operations_pb2.GetStoreStatusResponse:
        return await call(stub.GetStoreStatus(operations_pb2.GetStoreStatusRequest(), timeout=_DEADLINE_SECONDS))

    status = _operate(access, ask)
    report = {
        "address": status.address,
        "problem": status.problem or None,
        "version": f"{status.version.epoch}.{status.version.number}",
        "history_entries": status.history_entries,
        "records": dict(sorted(status.records.items())),
        "keys": list(status.keys),
        "damaged": [{"type": one.type, "id": one.id, "reason": one.reason} for one in status.damaged],
        "databrokers": list(status.databrokers),
        "watchers": list(status.watchers),
        "warnings": list(status.warnings),
    }
    if as_json:
        print(json.dumps(report))
    else:
        for name, value in report.items():
            print(f"{name.replace('_', ' ')}: {_shown(value)}")
    return 1 if status.problem or status.damaged else 0


def back_up(access: Access, file: Path) -> int:
    """Write everything that is stored to ``file``, sealed as it lies there; needs the keys to be of use."""

    async def read(stub: "OperationsServiceAsyncStub") -> dict[tuple[str, str], operations_pb2.StoredEntry]:
        found: dict[tuple[str, str], operations_pb2.StoredEntry] = {}
        token = ""
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("reading", total=None)
            while True:
                request = operations_pb2.ReadBackupRequest(page_token=token)
                page = await call(stub.ReadBackup(request, timeout=_DEADLINE_SECONDS))
                found.update({(entry.type, entry.id): entry for entry in page.entries})
                progress.update(task, description=f"read {len(found)} records")
                token = page.next_page_token
                if not token:
                    return found

    entries = _operate(access, read)
    digest = hashlib.sha256()
    with written_whole(file) as written:
        written.write(json.dumps({"doorward_backup": FORMAT}) + "\n")
        for key in sorted(entries):
            line = _line(entries[key])
            digest.update(line.encode())
            written.write(line)
        written.write(json.dumps({"records": len(entries), "sha256": digest.hexdigest()}) + "\n")
    print(f"{len(entries)} records in {file}")
    return 0


def restore(access: Access, file: Path, *, keep_sessions: bool) -> int:
    """Bring back what ``file`` holds and the store lacks; 1 when something did not open."""
    entries = read_backup(file)

    async def write(stub: "OperationsServiceAsyncStub") -> dict[str, int]:
        counts = {"restored": 0, "kept": 0, "ended": 0, "unreadable": 0}
        with Progress(console=Console(stderr=True), transient=True) as progress:
            for part in progress.track(list(_parts(entries)), description="restoring"):
                request = operations_pb2.RestoreRequest(entries=part, keep_sessions=keep_sessions)
                answer = await call(stub.Restore(request, timeout=_DEADLINE_SECONDS))
                for name in counts:
                    counts[name] += getattr(answer, name)
        return counts

    counts = _operate(access, write)
    print(
        f"restored {counts['restored']}; kept {counts['kept']} as the store has them; "
        f"{counts['ended']} had ended; {counts['unreadable']} do not open under the keys that are held"
    )
    return 1 if counts["unreadable"] else 0


def read_backup(file: Path) -> list[operations_pb2.StoredEntry]:
    """The entries of a backup.

    Raises:
        ConfigurationError: it is no backup, or not a whole one; nothing of it is used then.
    """
    try:
        lines = file.read_text().splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError([f"{file}: error: cannot be read: {error}"]) from error
    entries = []
    digest = hashlib.sha256()
    number = 1
    try:
        if json.loads(lines[0]) != {"doorward_backup": FORMAT}:
            raise ConfigurationError([f"{file}:1: error: not a backup of this version"])
        for line in lines[1:-1]:
            number += 1
            digest.update(line.encode())
            entries.append(_entry(json.loads(line)))
        number = len(lines)
        end = json.loads(lines[-1])
        is_whole = end == {"records": len(entries), "sha256": digest.hexdigest()}
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ConfigurationError([f"{file}:{number}: error: not a line of a backup"]) from error
    if not is_whole:
        raise ConfigurationError([f"{file}:{number}: error: the backup is not whole (was it cut off or changed?)"])
    return entries


def export(access: Access, types: Sequence[str]) -> int:
    """Print records in the clear, one JSON object a line; never tokens or secrets."""
    wanted = tuple(types) or tuple(EXPORTED)
    if unknown := set(wanted) - set(EXPORTED):
        print(f"error: `{min(unknown)}` is not exported (one of {', '.join(EXPORTED)})", file=sys.stderr)
        return 2

    damaged: list[Damaged] = []

    async def run() -> None:
        async with access.records() as channel:
            client = RecordClient(channel)
            for record_type in wanted:
                async for record in client.list(record_type, damaged):
                    try:
                        data = MessageToDict(
                            EXPORTED[record_type].FromString(record.data), preserving_proto_field_name=True
                        )
                    except DecodeError:
                        data = None
                    line = {
                        "type": record_type,
                        "id": record.id,
                        "version": str(record.version),
                        "modified_at": record.modified_at,
                        "expires_at": record.expires_at,
                        "data": data,
                    }
                    print(json.dumps(line))

    asyncio.run(run())
    return report_damaged(damaged)


def report_damaged(damaged: Sequence[Damaged]) -> int:
    """Say what a list lacks, apart from the list; 1 when it lacks something."""
    for one in damaged:
        print(f"error: not listed: `{one.type}` `{one.id}`: {one.reason}", file=sys.stderr)
    if damaged:
        print("note: see `doorward databroker discard --help`", file=sys.stderr)
    return 1 if damaged else 0


def discard(access: Access, record_type: str | None, record_id: str | None, *, everything: bool) -> int:
    """Delete what does not open, and nothing else; 1 when something was left."""
    if everything == (record_type is not None) or (record_type is None) != (record_id is None):
        print("error: name a type and an id, or --all that `status` names", file=sys.stderr)
        return 2

    async def run(stub: "OperationsServiceAsyncStub") -> int:
        named = [(record_type or "", record_id or "")]
        if everything:
            status = await call(stub.GetStoreStatus(operations_pb2.GetStoreStatusRequest(), timeout=_DEADLINE_SECONDS))
            named = [(one.type, one.id) for one in status.damaged]
        left = 0
        for kind, name in named:
            request = operations_pb2.DiscardRequest(type=kind, id=name)
            try:
                await call(stub.Discard(request, timeout=_DEADLINE_SECONDS))
                print(f"discarded `{kind}` `{name}`")
            except (NotFoundError, ConflictError, InvalidArgumentError) as error:
                left += 1
                print(f"error: `{kind}` `{name}`: {error}", file=sys.stderr)
        if not named:
            print("nothing that does not open has been met; `rekey` looks at everything")
        return 1 if left else 0

    return _operate(access, run)


def reseal(access: Access) -> int:
    """Seal everything under the newest key now; 1 when something does not open under any key."""

    async def run(stub: "OperationsServiceAsyncStub") -> tuple[int, int, int]:
        seen = resealed = unreadable = 0
        token = ""
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("sealing anew", total=None)
            while True:
                request = operations_pb2.ResealRequest(page_token=token)
                page = await call(stub.Reseal(request, timeout=_DEADLINE_SECONDS))
                seen, resealed = seen + page.seen, resealed + page.resealed
                unreadable += page.unreadable
                progress.update(task, description=f"sealed {resealed} of {seen} anew")
                token = page.next_page_token
                if not token:
                    return seen, resealed, unreadable

    seen, resealed, unreadable = _operate(access, run)
    print(f"looked at {seen}, sealed {resealed} anew; {unreadable} do not open under the keys that are held")
    return 1 if unreadable else 0


def _operate(access: Access, body: Callable[["OperationsServiceAsyncStub"], Awaitable[T]]) -> T:
    async def run() -> T:
        async with access.records() as channel:
            return await body(OperationsServiceStub(channel))

    return asyncio.run(run())


def _parts(entries: Sequence[operations_pb2.StoredEntry]) -> Iterator[Sequence[operations_pb2.StoredEntry]]:
    """As many at once as one request may carry."""
    start = size = 0
    for place, entry in enumerate(entries):
        if place - start == _BATCH or size > _BATCH_BYTES:
            yield entries[start:place]
            start, size = place, 0
        size += len(entry.sealed)
    if entries:
        yield entries[start:]


def _line(entry: operations_pb2.StoredEntry) -> str:
    value = {
        "type": entry.type,
        "id": entry.id,
        "version": [entry.version.epoch, entry.version.number],
        "sealed": base64.b64encode(entry.sealed).decode(),
    }
    return json.dumps(value) + "\n"


def _entry(value: dict[str, Any]) -> operations_pb2.StoredEntry:
    epoch, number = value["version"]
    try:
        sealed = base64.b64decode(value["sealed"], validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
    version = databroker_pb2.Version(epoch=epoch, number=number)
    return operations_pb2.StoredEntry(type=value["type"], id=value["id"], version=version, sealed=sealed)


def _shown(value: object) -> str:
    match value:
        case None | []:
            return "none"
        case dict() if not value:  # the pattern `{}` is every dictionary
            return "none"
        case list():
            return "; ".join(_shown(item) for item in value)
        case dict():
            return ", ".join(f"{name} {item}" for name, item in value.items())
        case _:
            return str(value)
