"""Commands that talk to a running deployment: explanations, status."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from doorward.api.authorize.v1 import authorize_pb2, authorize_pb2_grpc
from doorward.api.process.v1.process_pb2 import Process, ReportRequest
from doorward.api.process.v1.process_pb2_grpc import ProcessServiceStub
from doorward.cli.access import Access
from doorward.cli.terminal import add_row, shown, shown_lines
from doorward.errors import DoorwardError, NotFoundError
from doorward.records.client import RecordClient, Status
from doorward.rpc.client import call

T = TypeVar("T")
_TIMEOUT_SECONDS = 3.0


def show_status(access: Access, *, as_json: bool) -> int:
    """Print every process with its generation, the age of its data and its health; 1 when something cannot do its work."""

    async def ask() -> tuple[Status, tuple[Process, ...]]:
        async with access.records() as channel:
            stub = ProcessServiceStub(channel)
            answer = await call(stub.Report(ReportRequest(), timeout=_TIMEOUT_SECONDS))
            return await RecordClient(channel).status(), tuple(answer.processes)

    store, processes = asyncio.run(ask())
    generations = {process.generation for process in processes}
    healthy = store.store_healthy and bool(processes) and all(process.ready for process in processes)
    report = {
        "databroker": {
            "version": f"{store.version.epoch}.{store.version.number}",
            "store_healthy": store.store_healthy,
            "watchers": list(store.watchers),
        },
        "processes": [_process_facts(process) for process in processes],
        "generations": sorted(generations),
        "healthy": healthy,
    }
    if as_json:
        print(json.dumps(report))
        return 0 if healthy else 1
    table = Table("plane", "process", "generation", "data", "version", "state")
    for process in processes:
        state = "ready" if process.ready else "not ready"
        add_row(
            table,
            process.plane,
            process.id,
            process.generation[:12],
            f"{process.data_age_ms} ms" if process.data_age_ms >= 0 else "",
            process.version,
            f"{state}: {process.fault}" if process.fault else state,
        )
    console = Console()
    console.print(table)
    console.print(
        f"store {'healthy' if store.store_healthy else 'takes no writes'}, at {store.version.epoch}.{store.version.number}"
    )
    if len(generations) > 1:
        console.print(f"{len(generations)} generations at once: a change is on its way, or somebody has another file")
    return 0 if healthy else 1


def _process_facts(process: Process) -> dict[str, object]:
    return {
        "plane": process.plane,
        "id": process.id,
        "generation": process.generation,
        "ready": process.ready,
        "data_age_ms": process.data_age_ms if process.data_age_ms >= 0 else None,
        "version": process.version,
        "fault": process.fault,
        "keys": {purpose: ids.split() for purpose, ids in sorted(process.keys.items())},
        "certificate_expires_at": process.certificate_expires_at or None,
    }


def explain_decision(decision_id: str, access: Access, *, as_json: bool) -> int:
    """Print why a decision came out as it did; 1 when it is no longer held."""

    async def ask() -> authorize_pb2.ExplainResponse:
        """Each in turn: a decision is held by the one that made it, unless it was put as a record."""
        async with access.authorizers() as channels:
            refused: DoorwardError = NotFoundError(decision_id)
            for channel in channels:
                stub = authorize_pb2_grpc.AuthorizeServiceStub(channel)
                request = authorize_pb2.ExplainRequest(decision_id=decision_id)
                try:
                    return await call(stub.Explain(request, timeout=_TIMEOUT_SECONDS))
                except NotFoundError:
                    continue
                except DoorwardError as error:
                    refused = error  # one that is away may be the one that holds it
            raise refused

    try:
        answer = asyncio.run(ask())
    except NotFoundError:
        print(f"error: `{shown(decision_id)}` is no longer held", file=sys.stderr)
        return 1
    print(answer.json if as_json else shown_lines(answer.text))
    return 0


def print_table(table: Table) -> None:
    """Print a table; where nobody looks, plain and as wide as it must be: whoever reads it wants whole ids, and soon."""
    console = Console()
    if console.is_terminal:
        console.print(table)
        return
    columns = [[str(column.header), *map(str, column.cells)] for column in table.columns]
    widths = [max(map(len, cells)) for cells in columns]
    for row in zip(*columns, strict=True):
        print("  ".join(map(str.ljust, row, widths)).rstrip())


def with_records(access: Access, body: Callable[[RecordClient], Awaitable[T]]) -> T:
    """What ``body`` makes of the deployment's databroker."""

    async def call() -> T:
        async with access.records() as channel:
            return await body(RecordClient(channel))

    return asyncio.run(call())


def end_record(access: Access, record_type: str, record_id: str, what: str) -> int:
    """Delete a record and say so; 1 when there is none. Authorizers hear of it, and cut the streams that it held open."""

    async def body(client: RecordClient) -> None:
        await client.get(record_type, record_id)
        await client.delete(record_type, record_id)

    try:
        with_records(access, body)
    except NotFoundError:
        print(f"error: no {what} `{shown(record_id)}`", file=sys.stderr)
        return 1
    print(f"{record_id} has ended")
    return 0
