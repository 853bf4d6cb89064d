"""``doorward directory``: read a directory now, and how the directories are."""

import asyncio
import json
import secrets
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from doorward.api.directory.v1 import directory_pb2 as pb
from doorward.api.directory.v1.directory_pb2_grpc import DirectoryServiceStub
from doorward.cli.access import Access
from doorward.cli.terminal import add_row, shown
from doorward.keys import bearer_hash
from doorward.rpc.client import call

if TYPE_CHECKING:
    from doorward.api.directory.v1.directory_pb2_grpc import DirectoryServiceAsyncStub

T = TypeVar("T")
_POLL_SECONDS = 0.1
_PHASES = {
    pb.DirectoryStatus.PHASE_WAITING: "waiting",
    pb.DirectoryStatus.PHASE_READING_USERS: "reading people",
    pb.DirectoryStatus.PHASE_READING_GROUPS: "reading groups",
    pb.DirectoryStatus.PHASE_WRITING: "writing",
    pb.DirectoryStatus.PHASE_ELSEWHERE: "read by another replica",
}


def sync_directories(directory: str | None, access: Access, *, now: bool, accept_removals: bool, as_json: bool) -> int:
    """Have directories read and wait for it; 1 when one was not, 2 when nothing was asked for."""
    if not now:
        print("error: directories are read by themselves; --now reads them at once", file=sys.stderr)
        return 2

    async def body(stub: "DirectoryServiceAsyncStub") -> list[pb.DirectoryStatus]:
        known = (await call(stub.GetStatus(pb.GetStatusRequest(), timeout=3))).directories
        wanted = [item.directory_id for item in known if item.kind != "scim"] if directory is None else [directory]
        runs = {}
        for name in wanted:
            request = pb.SyncRequest(directory_id=name, accept_removals=accept_removals)
            runs[name] = (await call(stub.Sync(request, timeout=3))).run
        return await _follow(stub, runs, quiet=as_json or not sys.stderr.isatty())

    finished = _with_worker(access, body)
    for item in finished:
        if as_json:
            print(json.dumps(_facts(item)))
        elif item.problem:
            print(f"error: `{item.directory_id}` was not read: {shown(item.problem)}", file=sys.stderr)
        else:
            print(
                f"{item.directory_id}: {item.users} people, {item.groups} groups, {item.written} records written"
                f" in {item.seconds:.1f} s"
            )
    return 1 if any(item.problem for item in finished) else 0


def show_directories(access: Access, *, as_json: bool) -> int:
    """Print how the directories are; 1 when one cannot be read."""

    async def body(stub: "DirectoryServiceAsyncStub") -> list[pb.DirectoryStatus]:
        return list((await call(stub.GetStatus(pb.GetStatusRequest(), timeout=3))).directories)

    found = _with_worker(access, body)
    if as_json:
        for item in found:
            print(json.dumps(_facts(item)))
    else:
        table = Table("directory", "kind", "people", "groups", "read", "now", "problem")
        for item in found:
            age = _age(item)
            add_row(
                table,
                item.directory_id,
                item.kind,
                str(item.users),
                str(item.groups),
                "never" if age is None else f"{age:.0f} s ago",
                _PHASES.get(item.phase, "unknown"),
                item.problem or (f"names of two groups: {', '.join(item.ambiguous)}" if item.ambiguous else ""),
            )
        Console().print(table)
    return 1 if any(item.problem for item in found) else 0


def make_token(*, as_json: bool) -> int:
    """Print a new bearer token and what to keep of it; nothing is stored."""
    token = bearer_hash.new_token()
    kept = bearer_hash.hash_token(token, secrets.token_bytes(32))
    if as_json:
        print(json.dumps({"token": token, "hash": kept}))
    else:
        print(kept)
        print(f"the line is for the file of `tokens`; the client gets, shown this once: {token}", file=sys.stderr)
    return 0


async def _follow(stub: "DirectoryServiceAsyncStub", runs: dict[str, int], *, quiet: bool) -> list[pb.DirectoryStatus]:
    """Show the runs until all have ended; their last states."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=quiet,
        transient=True,
    )
    finished: dict[str, pb.DirectoryStatus] = {}
    with bar:
        tasks = {name: bar.add_task(name, total=None) for name in runs}
        while len(finished) < len(runs):
            for item in (await call(stub.GetStatus(pb.GetStatusRequest(), timeout=3))).directories:
                name = item.directory_id
                if name not in runs:
                    continue
                text = f"{name}: {_PHASES.get(item.phase, 'unknown')}"
                bar.update(tasks[name], description=text, completed=item.done, total=item.total or None)
                if item.finished_run >= runs[name]:
                    finished.setdefault(name, item)
            await asyncio.sleep(_POLL_SECONDS)
    return [finished[name] for name in runs]


def _with_worker(access: Access, body: Callable[["DirectoryServiceAsyncStub"], Awaitable[T]]) -> T:
    async def ask() -> T:
        async with access.directory() as channel:
            return await body(DirectoryServiceStub(channel))

    return asyncio.run(ask())


def _facts(item: pb.DirectoryStatus) -> dict[str, Any]:
    return {
        "directory": item.directory_id,
        "kind": item.kind,
        "phase": _PHASES.get(item.phase, "unknown"),
        "users": item.users,
        "groups": item.groups,
        "age_seconds": _age(item),
        "problem": item.problem or None,
        "written": item.written,
        "seconds": round(item.seconds, 3),
        "ambiguous": list(item.ambiguous),
    }


def _age(item: pb.DirectoryStatus) -> float | None:
    if not item.HasField("synchronised_at"):
        return None
    return max(0.0, time.time() - item.synchronised_at.seconds - item.synchronised_at.nanos * 1e-9)
