"""What planes serve each other, over a real channel of grpcio's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.support.deployment import short_folder

from doorward.api.databroker.v1 import databroker_pb2 as pb
from doorward.api.databroker.v1 import databroker_pb2_grpc as services
from doorward.errors import ConflictError, DataCorruptedError, DoorwardError, UnavailableError
from doorward.rpc.client import open_channel
from doorward.rpc.planes import Plane
from doorward.rpc.server import PlaneServer, caller
from doorward.rpc.status import error_of

NAME = "doorward.api.databroker.v1.DatabrokerService"


class Servicer(services.DatabrokerServiceServicer):
    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.error: Exception | None = None

    async def Get(self, request: pb.GetRequest, context: Any) -> pb.GetResponse:
        del context
        if self.error is not None:
            raise self.error
        return pb.GetResponse(record=pb.Record(type=request.type, id=str(caller.get()), data=bytes(len(request.id))))

    async def Query(self, request: pb.QueryRequest, context: Any) -> pb.QueryResponse:
        del request, context
        await asyncio.sleep(30)
        return pb.QueryResponse()

    async def Watch(  # type: ignore[override]
        self, requests: AsyncIterator[pb.WatchRequest], context: Any
    ) -> AsyncIterator[pb.WatchResponse]:
        del context
        try:
            async for request in requests:
                if self.error is not None:
                    raise self.error
                yield pb.WatchResponse(lease=pb.WatchResponse.Lease(stamp=request.ping.stamp))
        finally:
            self.gone.set()


@asynccontextmanager
async def served(servicer: Servicer) -> AsyncIterator[tuple[grpc.aio.Channel, PlaneServer]]:
    with short_folder() as folder:
        server = PlaneServer(
            folder / "s",
            [Plane.AUTHORIZE],
            lambda server: services.add_DatabrokerServiceServicer_to_server(servicer, server),
            [NAME],
        )
        await server.start()
        try:
            async with open_channel(folder / "s", Plane.DATABROKER) as channel:
                yield channel, server
        finally:
            await server.stop(0)


async def failure(call: Any) -> DoorwardError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_of(caught.value)


async def test_handlers_know_who_calls():
    async with served(Servicer()) as (channel, _):
        stub = services.DatabrokerServiceStub(channel)
        answers = await asyncio.gather(*(stub.Get(pb.GetRequest(type="A", id="x" * n)) for n in range(200)))
        assert [len(answer.record.data) for answer in answers] == list(range(200))
        assert {answer.record.id for answer in answers} == {"authorize"}


async def test_long_messages_pass_both_ways():
    async with served(Servicer()) as (channel, _):
        stub = services.DatabrokerServiceStub(channel)
        for size in (5_000_000, 20_000_000):
            assert len((await stub.Get(pb.GetRequest(id="x" * size), timeout=20)).record.data) == size


async def test_errors_of_ours_arrive_with_their_text_and_others_without():
    servicer = Servicer()
    async with served(servicer) as (channel, _):
        stub = services.DatabrokerServiceStub(channel)
        for error, kind, text in (
            (ConflictError("the stored `Session` is not as expected: 100 %, für ё"), ConflictError, "100 %, für ё"),
            (DataCorruptedError("x" * 900), DataCorruptedError, "x" * 900),
            (UnavailableError("two\nlines"), UnavailableError, "two\nlines"),
            (RuntimeError("the password is hunter2"), DoorwardError, "INTERNAL: internal error"),
        ):
            servicer.error = error
            told = await failure(stub.Get(pb.GetRequest()))
            assert isinstance(told, kind)
            assert text in str(told)
            assert "hunter2" not in str(told)
            stream = stub.Watch(iter([pb.WatchRequest()]))
            assert text in str(await failure(stream.read()))


async def test_what_is_no_request_is_refused():
    async with served(Servicer()) as (channel, _):
        raw = channel.unary_unary(f"/{NAME}/Get")
        assert "not a request" in str(await failure(raw(b"\xff\xff\xff")))
        stream = channel.stream_stream(f"/{NAME}/Watch")(iter([b"\xff\xff\xff"]))
        assert "not a request" in str(await failure(stream.read()))
        assert "UNIMPLEMENTED" in str(await failure(channel.unary_unary(f"/{NAME}/None")(b"")))


async def test_a_stream_ends_well_when_both_sides_are_done_and_is_closed_when_the_caller_goes():
    servicer = Servicer()
    async with served(servicer) as (channel, _):
        stub = services.DatabrokerServiceStub(channel)
        pings = [pb.WatchRequest(ping=pb.WatchRequest.Ping(stamp=stamp)) for stamp in range(1, 1_000)]
        call = stub.Watch(iter(pings))
        assert [answer.lease.stamp async for answer in call] == list(range(1, 1_000))
        assert await call.code() is grpc.StatusCode.OK
        servicer.gone.clear()
        call = stub.Watch()
        await call.write(pings[0])
        await call.read()
        call.cancel()
        await asyncio.wait_for(servicer.gone.wait(), 5)


async def test_a_caller_that_gives_up_is_not_waited_for():
    async with served(Servicer()) as (channel, server):
        stub = services.DatabrokerServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Query(pb.QueryRequest(), timeout=0.05)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        running = asyncio.ensure_future(stub.Query(pb.QueryRequest()))
        await asyncio.sleep(0.05)
        await server.stop(0.05)
        assert "CANCELLED" in str(await failure(running))


async def test_health_and_reflection_are_served():
    async with served(Servicer()) as (channel, server):
        health = health_pb2_grpc.HealthStub(channel)
        ask = health_pb2.HealthCheckRequest(service=NAME)
        assert (await health.Check(ask)).status == health_pb2.HealthCheckResponse.SERVING
        watch = health.Watch(ask)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        await server.set_serving(serving=False)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert "NOT_FOUND" in str(await failure(health.Check(health_pb2.HealthCheckRequest(service="x"))))
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
        answers = [answer async for answer in reflection.ServerReflectionInfo(iter(asked))]
        assert NAME in {service.name for service in answers[0].list_services_response.service}
