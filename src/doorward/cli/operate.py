"""Commands that talk to a running deployment: sessions, explanations, status."""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from doorward.api.authorize.v1 import authorize_pb2, authorize_pb2_grpc
from doorward.config.endpoints import LocalEndpoints, default_run_folder
from doorward.errors import ConfigurationError, DoorwardError, NotFoundError
from doorward.identity import session as sessions
from doorward.identity import user as users
from doorward.identity.session import Session
from doorward.identity.user import User
from doorward.records.client import RecordClient
from doorward.rpc.client import open_channel

T = TypeVar("T")
_PENDING_STATUS = 3


def list_sessions(data: Path, run_dir: Path | None, *, as_json: bool) -> int:
    """Print the live sessions, newest first."""

    async def body(client: RecordClient) -> list[tuple[Session, User | None]]:
        now = time.time()
        found = [Session.from_bytes(record.data) async for record in client.list(sessions.RECORD_TYPE)]
        live = sorted((s for s in found if not s.is_expired(now)), key=lambda s: s.issued_at, reverse=True)
        return [(session, await _user(client, session.user_id)) for session in live]

    rows = _with_records(data, run_dir, body)
    if as_json:
        for session, user in rows:
            print(
                json.dumps(
                    {
                        "id": session.id,
                        "user_id": session.user_id,
                        "email": user.email if user else None,
                        "identity_provider": session.identity_provider_id,
                        "issued_at": session.issued_at,
                        "expires_at": session.expires_at,
                    }
                )
            )
        return 0
    table = Table("session", "user", "e-mail", "signed in", "ends")
    for session, user in rows:
        table.add_row(
            session.id,
            session.user_id,
            user.email if user else "unknown",
            _time(session.issued_at),
            _time(session.expires_at),
        )
    Console().print(table)
    return 0


def revoke_sessions(
    session_id: str | None,
    user_id: str | None,
    data: Path,
    run_dir: Path | None,
    *,
    everything: bool,
    as_json: bool,
) -> int:
    """End sessions; 0 when every authorizer has applied it, 3 when it is stored and some have not."""
    if (session_id is not None) + (user_id is not None) + everything != 1:
        print("error: name one session, or --user, or --all", file=sys.stderr)
        return 2
    result = _with_records(
        data, run_dir, lambda client: client.revoke(session_id=session_id, user_id=user_id, all_sessions=everything)
    )
    state = "applied" if result.applied else "pending"
    if as_json:
        print(json.dumps({"state": state, "revoked": result.revoked, "pending": list(result.pending)}))
    elif result.applied:
        print(f"ended {result.revoked} session{'' if result.revoked == 1 else 's'}; applied everywhere")
    else:
        print(f"ended {result.revoked}; stored, not yet confirmed by {', '.join(result.pending)}")
    return 0 if result.applied else _PENDING_STATUS


def show_status(data: Path, run_dir: Path | None, *, as_json: bool) -> int:
    """Print how databroker and authorizer are; 1 when either cannot do its work."""
    endpoints = _endpoints(data, run_dir)

    async def authorizer() -> authorize_pb2.GetStatusResponse:
        async with open_channel(endpoints.authorize) as channel:
            stub = authorize_pb2_grpc.AuthorizeServiceStub(channel)
            return await stub.GetStatus(authorize_pb2.GetStatusRequest(), timeout=3)

    store = _with_records(data, run_dir, lambda client: client.status())
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


def explain_decision(decision_id: str, data: Path, run_dir: Path | None, *, as_json: bool) -> int:
    """Print why a decision came out as it did; 1 when it is no longer held."""
    endpoints = _endpoints(data, run_dir)

    async def ask() -> authorize_pb2.ExplainResponse:
        async with open_channel(endpoints.authorize) as channel:
            stub = authorize_pb2_grpc.AuthorizeServiceStub(channel)
            return await stub.Explain(authorize_pb2.ExplainRequest(decision_id=decision_id), timeout=3)

    try:
        answer = asyncio.run(ask())
    except NotFoundError:
        print(f"error: `{decision_id}` is no longer held", file=sys.stderr)
        return 1
    print(answer.json if as_json else answer.text)
    return 0


def _with_records(data: Path, run_dir: Path | None, body: Callable[[RecordClient], Awaitable[T]]) -> T:
    endpoints = _endpoints(data, run_dir)

    async def call() -> T:
        async with open_channel(endpoints.databroker("operator")) as channel:
            return await body(RecordClient(channel))

    return asyncio.run(call())


def _endpoints(data: Path, run_dir: Path | None) -> LocalEndpoints:
    folder = run_dir or default_run_folder(data)
    if not folder.is_dir():
        raise ConfigurationError([f"error: nothing runs on the data folder `{data}` (start it, or use --data)"])
    return LocalEndpoints(folder)


async def _user(client: RecordClient, user_id: str) -> User | None:
    try:
        return User.from_bytes((await client.get(users.RECORD_TYPE, user_id)).data)
    except DoorwardError:
        return None  # the list is about sessions; a missing user must not hide one


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
