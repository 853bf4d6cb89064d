"""Security cases of the records' service, over the reference store: tokens, secrets, rights and hops."""

import asyncio
import contextvars
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.duration_pb2 import Duration
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from tests.support.broker import broker
from tests.support.deployment import short_folder
from tests.support.fake_clock import FakeClock
from tests.support.key_material import keyring
from tests.unit.doorward.keys.test_cross_presentation import TOKENS

from doorward.api.databroker.v1 import databroker_pb2 as pb
from doorward.api.databroker.v1 import operations_pb2
from doorward.api.databroker.v1.databroker_pb2_grpc import DatabrokerServiceStub
from doorward.api.directory.v1 import directory_pb2
from doorward.api.process.v1 import process_pb2
from doorward.cli.store import EXPORTED
from doorward.errors import ConfigurationError, DataCorruptedError, DoorwardError
from doorward.keys.service_token import new_token
from doorward.keys.store import KeyStore, Purpose
from doorward.records.record import Record, Write
from doorward.rpc.client import open_channel
from doorward.rpc.planes import Plane
from doorward.rpc.server import PlaneServer, caller
from doorward_databroker.metrics import DatabrokerMetrics
from doorward_databroker.rights import Verb, require
from doorward_databroker.server import SERVICE_NAME, DatabrokerServicer, register
from doorward_databroker.store.codec import SealedCodec
from doorward_databroker.store.memory import MemoryStore
from doorward_databroker.store.types import RECORD_TYPES

PRESENTED = {**TOKENS, "service-account": new_token(bytes(16), bytes(32))}
WITHOUT_RIGHTS = (Plane.PROXY, Plane.AUTHORIZE)


@asynccontextmanager
async def service() -> AsyncIterator[tuple[DatabrokerServicer, MemoryStore]]:
    """The service over a store with one record of each type."""
    clock = FakeClock()
    store = MemoryStore(clock, SealedCodec(keyring(Purpose.RECORDS)))
    for kind in RECORD_TYPES:
        await store.put([Write(record=Record(type=kind, id="x", data=b"first", expires_at=clock.now() + 999))], kind)
    async with broker(store, clock) as one:
        await one.caught_up()
        metrics = DatabrokerMetrics(CollectorRegistry())
        yield DatabrokerServicer(store, one.hub, one.heartbeat, one.revoker, one.peers, clock, metrics), store


_TOKENS = pb.Write(record=pb.Record(type="SessionTokens", id="x", data=b"1"))
REFUSED: dict[str, Any] = {
    "Get": pb.GetRequest(type="SessionTokens", id="x"),
    "List": pb.ListRequest(type="Session"),
    "Query": pb.QueryRequest(type="Session", index="user_id", value="x"),
    "Put": pb.PutRequest(request_id="r", writes=[_TOKENS]),
    "Delete": pb.DeleteRequest(type="Session", id="x", request_id="r"),
    "Watch": pb.WatchRequest(start=pb.WatchRequest.Start(types=["SessionTokens"], watcher_id="w")),
    "AcquireLease": pb.AcquireLeaseRequest(name="l", holder="h", duration=Duration(seconds=9)),
    "RenewLease": pb.RenewLeaseRequest(name="l", holder="h", duration=Duration(seconds=9)),
    "ReleaseLease": pb.ReleaseLeaseRequest(name="l", holder="h"),
    "Revoke": pb.RevokeRequest(all_sessions=True),
}
"""A call of every method that is not for everybody."""


def test_s73_every_method_of_the_service_is_tried():
    methods = {method.name for method in pb.DESCRIPTOR.services_by_name["DatabrokerService"].methods}
    assert methods == {*REFUSED, "GetStatus"}, "what a new method says to whoever has no right belongs here too"


async def _call(stub: DatabrokerServiceStub, name: str, metadata: tuple[tuple[str, str], ...]) -> None:
    method = getattr(stub, name)
    if name == "Watch":
        await method(iter([REFUSED[name]]), metadata=metadata).read()
    else:
        await method(REFUSED[name], metadata=metadata)


@pytest.mark.parametrize("kind", PRESENTED)
async def test_s73_no_token_of_any_kind_is_a_right_to_records(kind: str):
    """What says who calls is the socket or the certificate. Whatever a caller presents besides is not read."""
    token = PRESENTED[kind]
    metadata = (
        ("authorization", f"Bearer {token}"),
        ("doorward-authorization", token),
        ("cookie", f"__Host-doorward={token}"),
        ("x-doorward-plane", "operator"),
    )
    with short_folder() as folder:
        folder.chmod(0o700)
        async with service() as (servicer, _):
            servers = [
                PlaneServer(folder / str(plane), [plane], lambda server: register(servicer, server), [SERVICE_NAME])
                for plane in WITHOUT_RIGHTS
            ]
            for server in servers:
                await server.start()
            try:
                for plane in WITHOUT_RIGHTS:
                    async with open_channel(folder / str(plane), Plane.DATABROKER) as channel:
                        for name in REFUSED:
                            with pytest.raises(grpc.aio.AioRpcError) as refused:
                                await _call(DatabrokerServiceStub(channel), name, metadata)
                            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED, name
                            assert token not in str(refused.value.details())
            finally:
                for server in servers:
                    await server.stop(0)


async def test_s73_a_request_id_or_a_lease_of_one_plane_is_none_of_another():
    """Both are random names that a caller presents: they must not open what another plane was told or holds."""
    async with service() as (servicer, _):
        caller.set(Plane.AUTHENTICATE)
        write = pb.Write(record=pb.Record(type="Session", id="mine", data=b"1"))
        first = await servicer.Put(pb.PutRequest(request_id="same", writes=[write]), None)  # type: ignore[arg-type]
        lease = pb.AcquireLeaseRequest(name="l", holder="h", duration=Duration(seconds=9))
        taken = await servicer.AcquireLease(lease, None)  # type: ignore[arg-type]
        caller.set(Plane.DIRECTORY)
        theirs = pb.Write(record=pb.Record(type="DirectoryUser", id="theirs", data=b"1"))
        second = await servicer.Put(pb.PutRequest(request_id="same", writes=[theirs]), None)  # type: ignore[arg-type]
        assert second.versions != first.versions
        assert not (await servicer.RenewLease(pb.RenewLeaseRequest(
            name="l", holder="h", duration=Duration(seconds=9)), None)).renewed  # type: ignore[arg-type]  # fmt: skip
        fence = pb.Fence(lease="l", holder="h", number=taken.fencing_number)
        with pytest.raises(DoorwardError, match="lease"):
            await servicer.Put(pb.PutRequest(request_id="other", writes=[theirs], fence=fence), None)  # type: ignore[arg-type]
        # Nor can a plane hold the lease under which the databrokers themselves work.
        for name in ("sweeper", "resealer", "schema"):
            await servicer.AcquireLease(
                pb.AcquireLeaseRequest(name=name, holder="h", duration=Duration(seconds=9)),
                None,  # type: ignore[arg-type]
            )
            assert await servicer._store.acquire_lease(name, "databroker", 9) is not None


def test_s73_every_purpose_has_a_key_of_its_own_and_records_open_under_no_other():
    record = Record(type="Session", id="a", data=b"x")
    stored = SealedCodec(keyring(Purpose.RECORDS)).encode(record)
    for purpose in Purpose:
        codec = SealedCodec(keyring(purpose, Purpose.RECORDS.value))  # the same key material, for another purpose
        if purpose is Purpose.RECORDS:
            assert codec.message("Session", "a", record.version, stored).data == b"x"
        else:
            with pytest.raises(DataCorruptedError):
                codec.message("Session", "a", record.version, stored)


_SECRET_NAME = re.compile(r"token|secret|password|sealed|hash|credential|private", re.IGNORECASE)
_SHOWN = (
    *(kind.DESCRIPTOR for kind in EXPORTED.values()),
    operations_pb2.GetStoreStatusResponse.DESCRIPTOR,
    directory_pb2.GetStatusResponse.DESCRIPTOR,
    process_pb2.Process.DESCRIPTOR,
    pb.GetStatusResponse.DESCRIPTOR,
)


def _fields(message: Descriptor, seen: set[str]) -> Iterator[str]:
    if message.full_name in seen:
        return
    seen.add(message.full_name)
    for field in message.fields:
        yield field.full_name
        if field.message_type is not None:
            yield from _fields(field.message_type, seen)


@pytest.mark.parametrize("message", _SHOWN, ids=lambda message: message.name)
def test_s74_what_is_shown_to_people_has_no_place_for_a_secret(message: Descriptor):
    assert not [name for name in _fields(message, set()) if _SECRET_NAME.search(name.rpartition(".")[2])]


def test_s74_what_holds_secrets_is_not_exported():
    assert not {"SessionTokens", "SessionUpstreamToken", "ServiceAccount", "ScimResource", "SpentCode"} & set(EXPORTED)


PLANES = st.sampled_from([Plane.PROXY, Plane.AUTHORIZE, Plane.AUTHENTICATE, Plane.DIRECTORY, Plane.OPERATOR])
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["put", "create", "delete", "get", "list", "query", "lease", "revoke"]),
        st.sampled_from(sorted(RECORD_TYPES)),
        st.sampled_from(["x", "y"]),
        st.sampled_from(["", "user_id", "email", "directory_user"]),
    ),
    max_size=12,
)


@settings(max_examples=60)
@given(plane=PLANES, actions=ACTIONS)
async def test_s76_no_sequence_of_calls_grows_a_planes_rights(plane: Plane, actions: list[tuple[str, str, str, str]]):
    """Whatever a plane does with what it may, it can do no more afterwards, and nothing has changed that it may not write."""
    before = _granted(plane)
    async with service() as (servicer, store):
        caller.set(plane)
        for number, action in enumerate(actions):
            try:
                await _act(servicer, f"r{number}", *action)
            except DoorwardError:
                continue
        assert _granted(plane) == before
        may_end_sessions = plane in {Plane.AUTHENTICATE, Plane.DIRECTORY, Plane.OPERATOR}
        for kind in RECORD_TYPES:
            writable = any(verb in {Verb.PUT, Verb.CREATE, Verb.DELETE} for verb, name in before if name == kind)
            if writable or (may_end_sessions and kind in {"Session", "SessionTokens", "SessionUpstreamToken"}):
                continue
            assert (await store.get(kind, "x")).data == b"first"
            assert await store.stored_version(kind, "y") is None


def _granted(plane: Plane) -> set[tuple[Verb, str]]:
    found = set()
    for verb in Verb:
        for kind in RECORD_TYPES:
            try:
                require(plane, verb, kind)
            except DoorwardError:
                continue
            found.add((verb, kind))
    return found


async def _act(servicer: DatabrokerServicer, request: str, what: str, kind: str, name: str, index: str) -> None:
    record = pb.Record(type=kind, id=name, data=b"changed")
    if not RECORD_TYPES[kind].in_feed:
        record.expires_at.FromSeconds(2_000_000_000)
    calls: dict[str, Any] = {
        "put": (servicer.Put, pb.PutRequest(request_id=request, writes=[pb.Write(record=record)])),
        "create": (
            servicer.Put,
            pb.PutRequest(
                request_id=request, writes=[pb.Write(record=record, precondition=pb.Precondition(absent=True))]
            ),
        ),
        "delete": (servicer.Delete, pb.DeleteRequest(type=kind, id=name, request_id=request)),
        "get": (servicer.Get, pb.GetRequest(type=kind, id=name)),
        "list": (servicer.List, pb.ListRequest(type=kind)),
        "query": (servicer.Query, pb.QueryRequest(type=kind, index=index, value=name)),
        "lease": (servicer.AcquireLease, pb.AcquireLeaseRequest(name=kind, holder=name, duration=Duration(seconds=9))),
        "revoke": (servicer.Revoke, pb.RevokeRequest(session_id=name)),
    }
    call, message = calls[what]
    await call(message, None)


async def test_s77_a_call_of_nobody_in_particular_does_nothing():
    """The edge names the caller. Should it ever fail to, nothing is granted by default."""
    async with service() as (servicer, store):
        for call in (
            servicer.Get(pb.GetRequest(type="Session", id="x"), None),  # type: ignore[arg-type]
            servicer.Delete(pb.DeleteRequest(type="Session", id="x", request_id="r"), None),  # type: ignore[arg-type]
            servicer.Revoke(pb.RevokeRequest(all_sessions=True), None),  # type: ignore[arg-type]
        ):
            with pytest.raises(LookupError):
                await asyncio.create_task(call, context=contextvars.Context())
        assert (await store.get("Session", "x")).data == b"first"


def test_s77_without_a_key_of_its_own_a_databroker_has_none(tmp_path: Path):
    """There is no default: two deployments that were never given a key share none."""
    with pytest.raises(ConfigurationError, match="no such key"):
        KeyStore(tmp_path).keyring(Purpose.RECORDS)


async def test_s77_a_socket_in_a_folder_that_others_may_enter_is_not_listened_on():
    with short_folder() as folder:
        folder.chmod(0o755)
        server = PlaneServer(folder / "s", [Plane.PROXY], lambda _: None, [])
        with pytest.raises(ConfigurationError, match="others may enter"):
            await server.start()
        assert not (folder / "s").exists()
