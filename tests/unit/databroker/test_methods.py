"""S90 between planes: every method of every contract for every plane. A method or a service without a row is a failure."""

import importlib
import pkgutil
from collections.abc import AsyncIterator
from typing import Any, NoReturn, cast

import pytest
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

import doorward.api
from doorward.api.databroker.v1 import databroker_pb2 as pb
from doorward.api.databroker.v1 import operations_pb2 as ops
from doorward.errors import PermissionDeniedError
from doorward.rpc.planes import Plane
from doorward.rpc.server import caller
from doorward_databroker.operations import OperationsServicer
from doorward_databroker.server import DatabrokerServicer

EVERYBODY = set(Plane)
LEASING = {Plane.AUTHENTICATE, Plane.DATABROKER, Plane.DIRECTORY}
RECORDS = "doorward.api.databroker.v1.DatabrokerService"
OPERATIONS = "doorward.api.databroker.v1.OperationsService"
LIFE = Duration(seconds=10)
SESSION = pb.Record(type="Session", id="x")
ROWS: dict[tuple[str, str], tuple[Message, set[Plane]]] = {
    # method → a request about somebody's session, and the planes that it is done for
    (RECORDS, "Get"): (
        pb.GetRequest(type="Session", id="x"),
        {Plane.AUTHENTICATE, Plane.AUTHORIZE, Plane.OPERATOR},
    ),
    (RECORDS, "List"): (pb.ListRequest(type="Session"), {Plane.AUTHENTICATE, Plane.OPERATOR}),
    (RECORDS, "Query"): (
        pb.QueryRequest(type="Session", index="user", value="x"),
        {Plane.AUTHENTICATE, Plane.OPERATOR},
    ),
    (RECORDS, "Put"): (pb.PutRequest(writes=[pb.Write(record=SESSION)], request_id="x"), {Plane.AUTHENTICATE}),
    (RECORDS, "Delete"): (pb.DeleteRequest(type="Session", id="x", request_id="x"), {Plane.AUTHENTICATE}),
    (RECORDS, "Watch"): (
        pb.WatchRequest(start=pb.WatchRequest.Start(types=["Session"], watcher_id="w")),
        {Plane.AUTHORIZE},
    ),
    (RECORDS, "AcquireLease"): (pb.AcquireLeaseRequest(name="n", holder="h", duration=LIFE), LEASING),
    (RECORDS, "RenewLease"): (pb.RenewLeaseRequest(name="n", holder="h", duration=LIFE), LEASING),
    (RECORDS, "ReleaseLease"): (pb.ReleaseLeaseRequest(name="n", holder="h"), LEASING),
    (RECORDS, "Revoke"): (
        pb.RevokeRequest(session_id="x"),
        {Plane.OPERATOR, Plane.AUTHENTICATE},
    ),
    (RECORDS, "GetStatus"): (pb.GetStatusRequest(), EVERYBODY),
    (OPERATIONS, "GetStoreStatus"): (ops.GetStoreStatusRequest(), {Plane.OPERATOR}),
    (OPERATIONS, "ReadBackup"): (ops.ReadBackupRequest(), {Plane.OPERATOR}),
    (OPERATIONS, "Restore"): (ops.RestoreRequest(entries=[ops.StoredEntry(type="Session", id="x")]), {Plane.OPERATOR}),
    (OPERATIONS, "Reseal"): (ops.ResealRequest(), {Plane.OPERATOR}),
    (OPERATIONS, "Discard"): (ops.DiscardRequest(type="Session", id="x"), {Plane.OPERATOR}),
}
ELSEWHERE = {
    # For operators and gateways: tests/unit/authorize/test_server.py.
    "doorward.api.authorize.v1.AuthorizeService",
    # Each for whoever is served at its door, tests/e2e/test_split.py; a process reports itself as the plane that it is.
    "doorward.api.process.v1.ProcessService",
    "doorward.api.guard.v1.GuardService",
    "doorward.api.authenticate.v1.AuthenticateService",
    # On a door of its own, for operators.
    "doorward.api.directory.v1.DirectoryService",
}


class Reached(Exception):  # noqa: N818  # it is what happens when nothing refuses
    """The call got past the rights."""


class Behind:
    """All that a servicer does its work with; whoever uses any of it has been let in."""

    def __getattr__(self, name: str) -> "Behind":
        return Behind()

    def __call__(self, *_: object, **__: object) -> NoReturn:
        raise Reached

    def __iter__(self) -> NoReturn:
        raise Reached

    def __index__(self) -> NoReturn:
        raise Reached


def services() -> dict[str, ServiceDescriptor]:
    """Every service of the contracts."""
    found = {}
    for module in pkgutil.walk_packages(doorward.api.__path__, "doorward.api."):
        if module.name.endswith("_pb2"):
            descriptor = importlib.import_module(module.name).DESCRIPTOR
            found |= {service.full_name: service for service in descriptor.services_by_name.values()}
    return found


def test_s90_every_method_has_its_row():
    known = services()
    assert known.keys() == {service for service, _ in ROWS} | ELSEWHERE
    for service in (RECORDS, OPERATIONS):
        assert {method.name for method in known[service].methods} == {name for of, name in ROWS if of == service}


@pytest.mark.parametrize(
    ("method", "row"), ROWS.items(), ids=lambda value: value[1] if isinstance(value[0], str) else ""
)
async def test_s90_every_method_for_every_plane(method: tuple[str, str], row: tuple[Message, set[Plane]]):
    request, expected = row
    behind = cast("Any", Behind())
    made: dict[str, Any] = {
        RECORDS: DatabrokerServicer(behind, behind, behind, behind, behind, behind, behind),
        OPERATIONS: OperationsServicer(behind, behind, behind, behind, behind, behind, behind, behind),
    }
    call = getattr(made[method[0]], method[1])

    async def once() -> AsyncIterator[Message]:
        yield request

    served = set()
    for plane in Plane:
        caller.set(plane)
        try:
            if method[1] == "Watch":
                await anext(call(once(), None))
            else:
                await call(request, None)
        except Reached:
            served.add(plane)
        except PermissionDeniedError:
            continue
    assert served == expected
