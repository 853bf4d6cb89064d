"""A databroker that is left alone with a primary which has been replaced: it promises nothing, and learns what it missed."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.support.broker import Broker, TestWatcher, broker, until, watching
from tests.support.key_material import keyring
from tests.support.stages import CONFIRMING, Store, store

from doorward.clock import SystemClock
from doorward.errors import DoorwardError
from doorward.keys.store import Purpose
from doorward.records.record import Record, RecordVersion, Write
from doorward_databroker.store.codec import SealedCodec
from doorward_databroker.store.connection import Link
from doorward_databroker.store.redis import RedisStore
from doorward_databroker.store.servers import Servers

pytestmark = pytest.mark.timeout(60)


@asynccontextmanager
async def broker_of(laid: Store, name: str) -> AsyncIterator[Broker]:
    servers = Servers.parse(f"redis+sentinel://127.0.0.1:{laid.to_sentinel[name].port}/records")
    records = RedisStore(Link(servers, replicas=CONFIRMING), SealedCodec(keyring(Purpose.RECORDS)), SystemClock())
    try:
        async with broker(records, SystemClock(), name) as made:
            await made.store.head()
            yield made
    finally:
        await records.close()


def session(name: str, *, deleted: bool = False) -> Record:
    return Record(type="Session", id=name, data=b"" if deleted else b"x", deleted=deleted)


async def put(one: Broker, record: Record) -> RecordVersion:
    return (await one.store.put([Write(record=record)], secrets.token_hex(16)))[0]


async def put_at_last(one: Broker, record: Record) -> RecordVersion:
    request = secrets.token_hex(16)
    while True:
        try:
            return (await one.store.put([Write(record=record)], request))[0]
        except DoorwardError:
            await asyncio.sleep(0.1)


async def beat_at_last(one: Broker) -> None:
    while True:
        try:
            await one.heartbeat.beat()
            return
        except DoorwardError:
            await asyncio.sleep(0.1)


async def live(one: Broker) -> set[str]:
    return {record.id for record in (await one.store.page("Session", "", 100)).records}


def has_reached(watcher: TestWatcher, version: RecordVersion) -> bool:
    return watcher.position is not None and watcher.position.version >= version and watcher.live() == {"stays"}


async def test_s43_a_databroker_alone_with_the_old_primary_promises_nothing_and_obeys_the_new_one():
    with store(("left", "right")) as laid:
        async with broker_of(laid, "left") as left, broker_of(laid, "right") as right:
            await put(left, session("signed-out-meanwhile"))
            await put(left, session("stays"))
            async with watching(left.watcher("w")) as watcher:
                await watcher.consistent.wait()
                watcher.ping(1)
                await left.heartbeat.beat()
                await until(lambda: watcher.leases == [1])
                number = laid.primary
                others = [node for node in range(len(laid.nodes)) if node != number]
                laid.wires.cut(
                    laid.among[number],
                    laid.to_sentinel["left"],
                    *(laid.from_broker["left"][node] for node in others),
                    laid.from_broker["right"][number],
                )
                watcher.ping(2)
                for attempt in (left.heartbeat.beat(), put(left, session("never-acknowledged"))):
                    with pytest.raises(DoorwardError):
                        await attempt
                # The other side goes on: it has a new primary, and ends a session there.
                async with asyncio.timeout(30):
                    ended = await put_at_last(right, session("signed-out-meanwhile", deleted=True))
                assert watcher.leases == [1], "freshness was vouched for by a primary that had been replaced"
                laid.wires.mend(
                    *laid.among,
                    *laid.to_sentinel.values(),
                    *(wire for led in laid.from_broker.values() for wire in led),
                )
                async with asyncio.timeout(30):
                    await beat_at_last(left)
                # Its watcher either hears of the end, or is sent back to a snapshot that knows of it.
                await until(lambda: watcher.ended.is_set() or has_reached(watcher, ended))
            async with asyncio.timeout(30):
                await left.hub.mended.wait()
                while await live(left) != {"stays"} or await live(right) != {"stays"}:
                    await asyncio.sleep(0.1)
            async with watching(left.watcher("again")) as fresh:
                await fresh.consistent.wait()
                assert fresh.live() == {"stays"}
