"""A databroker that is away for a moment, that does not answer, and that has said no."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio
import pytest
from tests.support.deployment import short_folder

from doorward.api.databroker.v1 import databroker_pb2 as pb
from doorward.api.databroker.v1 import databroker_pb2_grpc
from doorward.errors import ConflictError, NotFoundError, OutcomeUnknownError, UnavailableError
from doorward.records import client as clients
from doorward.records.client import RecordClient
from doorward.records.record import Record, RecordVersion, Write, record_message, version_message

HELD = Record(type="T", id="a", version=RecordVersion(1, 3), data=b"x")
CODES = grpc.StatusCode


class Broker(databroker_pb2_grpc.DatabrokerServiceServicer):
    """Fails as often as it is told to, and then answers."""

    def __init__(self) -> None:
        self.failures: list[grpc.StatusCode] = []
        self.request_ids: list[str] = []
        self.asked = 0

    async def _fail(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self.asked += 1
        if self.failures:
            await context.abort(self.failures.pop(0), "as the test says")

    async def Get(self, request: pb.GetRequest, context: grpc.aio.ServicerContext[Any, Any]) -> pb.GetResponse:
        del request
        await self._fail(context)
        return pb.GetResponse(record=record_message(HELD))

    async def List(self, request: pb.ListRequest, context: grpc.aio.ServicerContext[Any, Any]) -> pb.ListResponse:
        del request
        await self._fail(context)
        return pb.ListResponse(records=[record_message(HELD)])

    async def Query(self, request: pb.QueryRequest, context: grpc.aio.ServicerContext[Any, Any]) -> pb.QueryResponse:
        del request
        await self._fail(context)
        return pb.QueryResponse(records=[record_message(HELD)])

    async def GetStatus(
        self, request: pb.GetStatusRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetStatusResponse:
        del request
        await self._fail(context)
        return pb.GetStatusResponse(version=version_message(HELD.version))

    async def Put(self, request: pb.PutRequest, context: grpc.aio.ServicerContext[Any, Any]) -> pb.PutResponse:
        self.request_ids.append(request.request_id)
        await self._fail(context)
        return pb.PutResponse(versions=[version_message(HELD.version)])

    async def Delete(self, request: pb.DeleteRequest, context: grpc.aio.ServicerContext[Any, Any]) -> pb.DeleteResponse:
        self.request_ids.append(request.request_id)
        await self._fail(context)
        return pb.DeleteResponse(version=version_message(HELD.version))


async def all_of(items: AsyncIterator[Record]) -> list[Record]:
    return [item async for item in items]


READS: list[Callable[[RecordClient], Awaitable[object]]] = [
    lambda client: client.get("T", "a"),
    lambda client: all_of(client.list("T")),
    lambda client: all_of(client.query("T", "user", "u")),
    lambda client: client.status(),
]
WRITES: list[Callable[[RecordClient], Awaitable[object]]] = [
    lambda client: client.put([Write(record=HELD)]),
    lambda client: client.delete("T", "a"),
]


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    monkeypatch.setattr(clients, "_PAUSE_SECONDS", 0.0)
    return Broker()


@pytest.fixture
async def client(broker: Broker) -> AsyncIterator[RecordClient]:
    with short_folder() as folder:
        server = grpc.aio.server()
        databroker_pb2_grpc.add_DatabrokerServiceServicer_to_server(broker, server)
        server.add_insecure_port(f"unix:{folder}/b")
        await server.start()
        options = [("grpc.default_authority", "localhost"), ("grpc.enable_retries", 0)]
        async with grpc.aio.insecure_channel(f"unix:{folder}/b", options=options) as channel:
            yield RecordClient(channel)
        await server.stop(None)


@pytest.mark.parametrize("call", [*READS, *WRITES])
async def test_one_that_is_away_for_a_moment_is_asked_again(
    broker: Broker, client: RecordClient, call: Callable[[RecordClient], Awaitable[object]]
):
    broker.failures = [CODES.UNAVAILABLE] * 9
    assert await call(client)
    assert broker.asked == 10
    assert len(set(broker.request_ids)) <= 1, "one write, however often it is asked for"


@pytest.mark.parametrize("call", [*READS, *WRITES])
async def test_one_that_stays_away_is_given_up(
    broker: Broker,
    client: RecordClient,
    call: Callable[[RecordClient], Awaitable[object]],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(clients, "AWAY_SECONDS", 0.0)
    broker.failures = [CODES.UNAVAILABLE]
    with pytest.raises(UnavailableError):
        await call(client)
    assert broker.asked == 1


async def test_of_a_write_that_may_have_been_done_nobody_says_that_it_was_not(
    broker: Broker, client: RecordClient, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(clients, "AWAY_SECONDS", 0.0)
    broker.failures = [CODES.DEADLINE_EXCEEDED, CODES.UNAVAILABLE]
    with pytest.raises(OutcomeUnknownError):
        await client.put([Write(record=HELD)])


@pytest.mark.parametrize("call", READS)
async def test_a_read_without_an_answer_is_not_repeated(
    broker: Broker, client: RecordClient, call: Callable[[RecordClient], Awaitable[object]]
):
    broker.failures = [CODES.DEADLINE_EXCEEDED]
    with pytest.raises(OutcomeUnknownError):
        await call(client)
    assert broker.asked == 1


@pytest.mark.parametrize("call", WRITES)
async def test_a_write_without_an_answer_is_repeated_under_its_name(
    broker: Broker, client: RecordClient, call: Callable[[RecordClient], Awaitable[object]]
):
    broker.failures = [CODES.DEADLINE_EXCEEDED, CODES.UNAVAILABLE, CODES.UNKNOWN]
    assert await call(client)
    assert broker.asked == 4
    assert len(set(broker.request_ids)) == 1
    broker.failures = [CODES.DEADLINE_EXCEEDED] * 3
    with pytest.raises(OutcomeUnknownError):
        await call(client)
    assert broker.asked == 7


@pytest.mark.parametrize(("code", "error"), [(CODES.NOT_FOUND, NotFoundError), (CODES.ABORTED, ConflictError)])
async def test_a_no_is_a_no(broker: Broker, client: RecordClient, code: grpc.StatusCode, error: type[Exception]):
    for call in (*READS, *WRITES):
        broker.asked, broker.failures = 0, [code]
        with pytest.raises(error):
            await call(client)
        assert broker.asked == 1
