"""Commands that talk to a running deployment: explanations, status."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

from doorward.api.authorize.v1 import authorize_pb2, authorize_pb2_grpc
from doorward.cli.access import Access
from doorward.errors import NotFoundError
from doorward.records.client import RecordClient

T = TypeVar("T")


def show_status(access: Access, *, as_json: bool) -> int:
    """Print how databroker and authorizer are; 1 when either cannot do its work."""

    async def authorizer() -> authorize_pb2.GetStatusResponse:
        async with access.authorize() as channel:
            stub = authorize_pb2_grpc.AuthorizeServiceStub(channel)
            return await stub.GetStatus(authorize_pb2.GetStatusRequest(), timeout=3)

    store = with_records(access, lambda client: client.status())
    decides = asyncio.run(authorizer())
    report = {
        "databroker": {
            "version": f"{store.version.epoch}.{store.version.number}",
            "store_healthy": store.store_healthy,
            "watchers": list(store.watchers),
        },
        "authorize": {
            "ready": decides.ready,
            "generation": decides.generation,
            "data_age_ms": decides.data_age_ms,
            "sessions": decides.sessions,
        },
    }
    if as_json:
        print(json.dumps(report))
    else:
        for plane, facts in report.items():
            print(plane)
            for name, value in facts.items():
                print(f"  {name}: {value}")
    return 0 if store.store_healthy and decides.ready else 1


def explain_decision(decision_id: str, access: Access, *, as_json: bool) -> int:
    """Print why a decision came out as it did; 1 when it is no longer held."""

    async def ask() -> authorize_pb2.ExplainResponse:
        async with access.authorize() as channel:
            stub = authorize_pb2_grpc.AuthorizeServiceStub(channel)
            return await stub.Explain(authorize_pb2.ExplainRequest(decision_id=decision_id), timeout=3)

    try:
        answer = asyncio.run(ask())
    except NotFoundError:
        print(f"error: `{decision_id}` is no longer held", file=sys.stderr)
        return 1
    print(answer.json if as_json else answer.text)
    return 0


def with_records(access: Access, body: Callable[[RecordClient], Awaitable[T]]) -> T:
    """What ``body`` makes of the deployment's databroker."""

    async def call() -> T:
        async with access.records() as channel:
            return await body(RecordClient(channel))

    return asyncio.run(call())
