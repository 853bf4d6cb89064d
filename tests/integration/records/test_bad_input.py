"""Everything that a plane may get wrong, over gRPC and a real store: one code and one text for each, and nothing is lost by it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from prometheus_client import CollectorRegistry
from tests.support.broker import broker
from tests.support.deployment import short_folder
from tests.support.fake_clock import FakeClock
from tests.support.key_material import keyring
from tests.support.redis_server import RedisServer, redis_server

from doorward.api.databroker.v1 import databroker_pb2 as pb
from doorward.api.databroker.v1.databroker_pb2_grpc import DatabrokerServiceStub
from doorward.keys.store import Purpose
from doorward.records.record import Record, Write
from doorward.rpc.client import open_channel
from doorward.rpc.planes import Plane
from doorward.rpc.server import PlaneServer
from doorward_databroker.metrics import DatabrokerMetrics
from doorward_databroker.server import SERVICE_NAME, DatabrokerServicer, register
from doorward_databroker.store.codec import SealedCodec
from doorward_databroker.store.connection import Link
from doorward_databroker.store.redis import RedisStore
from doorward_databroker.store.servers import Servers

MIB = 1024 * 1024
CODE = grpc.StatusCode


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server("valkey", "--appendfsync", "no") as running:
        yield running


@asynccontextmanager
async def served(server: RedisServer) -> AsyncIterator[tuple[DatabrokerServiceStub, RedisStore]]:
    """The service for authenticate, on its socket, over a store with one session."""
    server.ask("FLUSHALL")
    clock = FakeClock()
    store = RedisStore(Link(Servers.parse(server.url)), SealedCodec(keyring(Purpose.RECORDS)), clock)
    try:
        await store.put([Write(record=Record(type="Session", id="kept", data=b"kept"))], "first")
        with short_folder() as folder:
            folder.chmod(0o700)
            async with broker(store, clock) as one:
                metrics = DatabrokerMetrics(CollectorRegistry())
                servicer = DatabrokerServicer(store, one.hub, one.heartbeat, one.revoker, one.peers, clock, metrics)
                planes = [
                    PlaneServer(folder / plane, [plane], lambda made: register(servicer, made), [SERVICE_NAME])
                    for plane in (Plane.AUTHENTICATE, Plane.AUTHORIZE)
                ]
                for plane_server in planes:
                    await plane_server.start()
                try:
                    async with (
                        open_channel(folder / Plane.AUTHENTICATE, Plane.DATABROKER) as channel,
                        open_channel(folder / Plane.AUTHORIZE, Plane.DATABROKER) as watching,
                    ):
                        stub = DatabrokerServiceStub(channel)
                        stub.Watch = DatabrokerServiceStub(watching).Watch
                        yield stub, store
                finally:
                    for plane_server in planes:
                        await plane_server.stop(0)
    finally:
        await store.close()


def put(*records: pb.Record, **precondition: Any) -> pb.PutRequest:
    expected = pb.Precondition(**precondition)
    return pb.PutRequest(request_id="r", writes=[pb.Write(record=record, precondition=expected) for record in records])


def session(name: str = "new", **more: Any) -> pb.Record:
    return pb.Record(type="Session", id=name, **more)


def watch(**more: Any) -> pb.WatchRequest:
    return pb.WatchRequest(start=pb.WatchRequest.Start(**{"types": ["Session"], "watcher_id": "w"} | more))


CASES: dict[str, tuple[str, Any, grpc.StatusCode, str]] = {
    "get of an unknown type": ("Get", pb.GetRequest(type="Nothing", id="a"), CODE.PERMISSION_DENIED, "`Nothing`"),
    "put of an unknown type": ("Put", put(pb.Record(type="Nothing", id="a")), CODE.PERMISSION_DENIED, "`Nothing`"),
    "an unknown index": (
        "Query", pb.QueryRequest(type="Session", index="colour", value="x"), CODE.INVALID_ARGUMENT, "no index `colour`",
    ),
    "an id with a blank": ("Get", pb.GetRequest(type="Session", id="a b"), CODE.INVALID_ARGUMENT, "printable ASCII"),
    "an id with a line": ("Put", put(session("a\r\nDEL x")), CODE.INVALID_ARGUMENT, "printable ASCII"),
    "an id that is too long": ("Put", put(session("a" * 257)), CODE.INVALID_ARGUMENT, "1 to 256"),
    "no id": ("Delete", pb.DeleteRequest(type="Session", request_id="r"), CODE.INVALID_ARGUMENT, "1 to 256"),
    "a page token that is none": (
        "List", pb.ListRequest(type="Session", page_token="\0"), CODE.INVALID_ARGUMENT, "printable ASCII",
    ),
    "a page that is too large": ("List", pb.ListRequest(type="Session", page_size=1001), CODE.INVALID_ARGUMENT, "1 to 1000"),
    "another version": (
        "Put", put(session("kept"), version=pb.Version(epoch=1, number=9)), CODE.ABORTED, "not as expected",
    ),
    "a version of nothing": ("Put", put(session(), version=pb.Version(epoch=1, number=1)), CODE.ABORTED, "not as expected"),
    "one that is there already": ("Put", put(session("kept"), absent=True), CODE.ABORTED, "not as expected"),
    "an end that no clock shows": (
        "Put", put(session(expires_at=Timestamp(seconds=2**62))), CODE.INVALID_ARGUMENT, "after the Unix epoch",
    ),
    "an end before all time": (
        "Put", put(session(expires_at=Timestamp(seconds=-1))), CODE.INVALID_ARGUMENT, "after the Unix epoch",
    ),
    "a record that is too large": ("Put", put(session(data=bytes(MIB + 1))), CODE.INVALID_ARGUMENT, f"at most {MIB} bytes"),
    "a batch that is too large": (
        "Put", put(*(session(f"n{n}", data=bytes(MIB)) for n in range(17))), CODE.INVALID_ARGUMENT, f"has {17 * MIB}",
    ),
    "a message that is too large": (
        "Put", put(*(session(f"n{n}", data=bytes(MIB)) for n in range(70))), CODE.INVALID_ARGUMENT,
        f"a message holds at most {64 * MIB} bytes",
    ),
    "too many writes": ("Put", put(*(session(f"n{n}") for n in range(501))), CODE.INVALID_ARGUMENT, "1 to 500 writes"),
    "no writes": ("Put", put(), CODE.INVALID_ARGUMENT, "1 to 500 writes"),
    "a record twice": ("Put", put(session(), session()), CODE.INVALID_ARGUMENT, "names a record twice"),
    "history of another epoch": ("Watch", watch(after=pb.Version(epoch=7, number=1)), CODE.OUT_OF_RANGE, "another epoch"),
    "a watch of nothing": ("Watch", watch(types=[]), CODE.INVALID_ARGUMENT, "at least one record type"),
    "a watch that does not begin": ("Watch", pb.WatchRequest(), CODE.INVALID_ARGUMENT, "begins with `start`"),
}  # fmt: skip


async def refused(stub: DatabrokerServiceStub, method: str, request: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        if method == "Watch":
            async for _ in stub.Watch(iter([request])):  # type: ignore[attr-defined]  # the stubs know another kind of channel
                pass
        else:
            await getattr(stub, method)(request, timeout=20)
    return error.value


async def test_what_a_plane_gets_wrong_has_one_code_and_one_text_and_nothing_is_written(server: RedisServer):
    async with served(server) as (stub, store):
        before = await store.head()
        for name, (method, request, code, text) in CASES.items():
            error = await refused(stub, method, request)
            assert error.code() is code, (name, error.details())
            assert text in (error.details() or ""), (name, error.details())
        assert await store.head() == before
        assert [record.id for record in (await store.page("Session", "", 500)).records] == ["kept"]


async def test_history_that_was_trimmed_sends_a_watcher_back_to_a_snapshot(server: RedisServer):
    async with served(server) as (stub, store):
        first = await store.head()
        for number in range(3):
            await store.put([Write(record=Record(type="Session", id="kept", data=b"%d" % number))], f"r{number}")
        # A databroker that has not read what is trimmed cannot know what it was, and begins anew.
        head = (await store.head()).version
        async with asyncio.timeout(10):
            while (await stub.GetStatus(pb.GetStatusRequest())).version.number < head.number:  # type: ignore[misc]  # as above
                await asyncio.sleep(0.01)
        assert await store.trim(1, 0) == 3
        after = pb.Version(epoch=first.version.epoch, number=first.version.number)
        error = await refused(stub, "Watch", watch(after=after, after_tag=first.tag))
        assert (error.code(), error.details()) == (CODE.OUT_OF_RANGE, "the history after `1.1` is another one")
        # It was only away for long: it is no witness of a loss, for which everybody would have to sign in again.
        assert not store.lost.is_set()
        assert (await store.head()).version.epoch == first.version.epoch
        assert (await store.get("Session", "kept")).data == b"2"


@pytest.mark.parametrize("spoil", ["b truncated", "b {sealed}", "v 1.9", "v nonsense", "d 1"])
async def test_a_sealed_payload_that_is_not_whole_is_data_loss_and_never_absent(server: RedisServer, spoil: str):
    async with served(server) as (stub, store):
        await store.put([Write(record=Record(type="Session", id="whole", data=b"x"))], "second")
        sealed = server.ask("HGET {dw}:r:Session:kept b").split(b"\r\n", 1)[1][:-12]
        quoted = '"' + "".join(f"\\x{byte:02x}" for byte in sealed) + '"'
        server.ask(f"HSET {{dw}}:r:Session:kept {spoil.format(sealed=quoted)}")
        error = await refused(stub, "Get", pb.GetRequest(type="Session", id="kept"))
        assert (error.code(), "`Session`" in (error.details() or "")) == (CODE.DATA_LOSS, spoil != "v nonsense")
        error = await refused(stub, "List", pb.ListRequest(type="Session"))
        assert error.code() is CODE.DATA_LOSS
        assert "`Session` `kept`" in (error.details() or "")
        answer = await stub.List(pb.ListRequest(type="Session", with_damaged=True))  # type: ignore[misc]  # as above
        assert ([one.id for one in answer.records], [one.id for one in answer.damaged]) == (["whole"], ["kept"])


async def test_a_database_of_somebody_else_is_data_loss_and_left_as_it_is(server: RedisServer):
    async with served(server) as (stub, store):
        server.ask("DEL {dw}:r:Session:kept")
        server.ask("SET {dw}:r:Session:kept theirs")
        write = put(session("kept"))
        for method, request in (("Get", pb.GetRequest(type="Session", id="kept")), ("Put", write)):
            error = await refused(stub, method, request)
            assert error.code() is CODE.DATA_LOSS, (method, error.details())
            assert "something else under our keys" in (error.details() or "")
        assert b"theirs" in server.ask("GET {dw}:r:Session:kept")
        assert (await store.head()).version.number == 1
