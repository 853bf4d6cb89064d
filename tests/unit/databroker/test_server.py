"""The service in this process: which record types a watch gets."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import structlog.testing
from prometheus_client import CollectorRegistry
from tests.support.broker import Broker, broker
from tests.support.fake_clock import FakeClock
from tests.support.key_material import keyring

from doorward.api.databroker.v1 import databroker_pb2 as pb
from doorward.errors import DataCorruptedError, DoorwardError, InvalidArgumentError, PermissionDeniedError
from doorward.keys.store import Purpose
from doorward.records.record import Record, RecordVersion, Write
from doorward.rpc.planes import Plane
from doorward.rpc.server import caller
from doorward_databroker.metrics import DatabrokerMetrics
from doorward_databroker.server import DatabrokerServicer
from doorward_databroker.store.codec import SealedCodec
from doorward_databroker.store.memory import MemoryStore


async def watched(types: Sequence[str], if_known: Sequence[str]) -> tuple[set[str], list[str]]:
    """The types of records that authorize is sent, and what it is told about those that it would also do without."""
    clock = FakeClock()
    store = MemoryStore(clock, SealedCodec(keyring(Purpose.RECORDS)))
    for kind in ("Session", "Grant", "SessionTokens"):
        await store.put([Write(record=Record(type=kind, id="x", data=b"first", expires_at=clock.now() + 999))], kind)
    caller.set(Plane.AUTHORIZE)

    async def requests() -> AsyncIterator[pb.WatchRequest]:
        start = pb.WatchRequest.Start(types=types, types_if_known=if_known, watcher_id="w")
        yield pb.WatchRequest(start=start)
        await asyncio.Event().wait()

    async with broker(store, clock) as one:
        await one.caught_up()
        metrics = DatabrokerMetrics(CollectorRegistry())
        servicer = DatabrokerServicer(store, one.hub, one.heartbeat, one.revoker, one.peers, clock, metrics)
        sent: set[str] = set()
        stream = servicer.Watch(requests(), None)  # type: ignore[arg-type]  # not looked at
        async for data in stream:
            message = pb.WatchResponse.FromString(data)
            sent |= {record.type for record in message.batch.records}
            if message.HasField("consistent"):
                return sent, list(message.consistent.types)
    raise AssertionError("never consistent")


async def test_types_of_a_newer_version_are_left_out_and_the_others_named():
    assert await watched(["Session"], ["Grant", "ComesLater"]) == ({"Session", "Grant"}, ["Grant"])


async def test_a_type_that_must_be_known_is_refused_when_it_is_not():
    with pytest.raises(PermissionDeniedError):
        await watched(["Session", "ComesLater"], [])


@pytest.mark.parametrize("kind", ["SessionTokens", "SpentCode"])
async def test_a_type_is_no_more_allowed_for_being_asked_for_where_known(kind: str):
    with pytest.raises((PermissionDeniedError, InvalidArgumentError)):
        await watched(["Session"], [kind])


@asynccontextmanager
async def spoiled() -> AsyncIterator[tuple[DatabrokerServicer, Broker]]:
    """Three sessions of one person, the middle one of which does not open."""
    clock = FakeClock()
    store = MemoryStore(clock, SealedCodec(keyring(Purpose.RECORDS)))
    for name in ("a", "b", "c"):
        record = Record(type="Session", id=name, data=b"x", indexes={"user_id": ("u",)})
        await store.put([Write(record=record)], name)
    store._records["Session", "b"] = (RecordVersion(1, 2), b"spoiled")
    caller.set(Plane.OPERATOR)
    async with broker(store, clock) as one:
        await one.caught_up()
        metrics = DatabrokerMetrics(CollectorRegistry())
        yield DatabrokerServicer(store, one.hub, one.heartbeat, one.revoker, one.peers, clock, metrics), one


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("List", pb.ListRequest(type="Session")),
        ("Query", pb.QueryRequest(type="Session", index="user_id", value="u")),
    ],
)
async def test_what_does_not_open_is_told_beside_the_others_and_a_list_never_looks_complete_without_it(
    method: str, request_: pb.ListRequest | pb.QueryRequest
):
    async with spoiled() as (servicer, one):
        with pytest.raises(DataCorruptedError, match="`Session` `b`"):
            await getattr(servicer, method)(request_, None)
        assert set(one.hub.damaged) == {("Session", "b")}
        request_.with_damaged = True
        answer = await getattr(servicer, method)(request_, None)
        assert [record.id for record in answer.records] == ["a", "c"]
        assert [(damaged.type, damaged.id, damaged.version.number) for damaged in answer.damaged] == [
            ("Session", "b", 2)
        ]
        assert "does not open" in answer.damaged[0].reason


async def test_what_a_get_finds_damaged_is_in_the_state_until_it_is_written_anew():
    async with spoiled() as (servicer, one):
        with pytest.raises(DataCorruptedError):
            await servicer.Get(pb.GetRequest(type="Session", id="b"), None)  # type: ignore[arg-type]  # not looked at
        newest = one.hub.position  # by what stands beside spoiled bytes an older change could clear it
        assert [(damaged.id, damaged.version) for damaged in one.hub.damaged.values()] == [("b", newest)]
        await one.put(Record(type="Session", id="b", deleted=True))
        await one.caught_up()
        assert not one.hub.damaged


async def test_a_watcher_that_cannot_be_listened_to_is_cut():
    """It would get no leases any more, and be stale for ever."""
    clock = FakeClock()
    store = MemoryStore(clock, SealedCodec(keyring(Purpose.RECORDS)))
    caller.set(Plane.AUTHORIZE)
    fail = asyncio.Event()

    async def requests() -> AsyncIterator[pb.WatchRequest]:
        yield pb.WatchRequest(start=pb.WatchRequest.Start(types=["Session"], watcher_id="w"))
        await fail.wait()
        raise LookupError("planted")

    async with broker(store, clock) as one:
        metrics = DatabrokerMetrics(CollectorRegistry())
        servicer = DatabrokerServicer(store, one.hub, one.heartbeat, one.revoker, one.peers, clock, metrics)
        with structlog.testing.capture_logs(), pytest.raises(DoorwardError):
            async with asyncio.timeout(5):
                async for _ in servicer.Watch(requests(), None):  # type: ignore[arg-type]  # not looked at
                    fail.set()
