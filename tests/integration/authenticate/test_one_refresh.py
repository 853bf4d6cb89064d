"""One refresh for each session, over a real store that two databrokers write to, also while its primary dies."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest
from tests.support.broker import Broker, broker, serving
from tests.support.deployment import wait_for
from tests.support.fake_clock import FakeClock
from tests.support.jumping_clock import JumpingClock
from tests.support.key_material import keyring
from tests.support.records import StoreRecords
from tests.support.redis_server import Topology, topology
from tests.unit.authenticate.session_life.builders import LIFE, World

from doorward.clock import Clock
from doorward.errors import DoorwardError
from doorward.keys.store import Purpose
from doorward.records.client import RecordClient
from doorward.records.lease import hold_lease
from doorward.rpc.planes import Plane
from doorward_authenticate.session_life.keeper import LEASE
from doorward_authenticate.session_life.refresher import Attended, Refresher
from doorward_databroker.store.codec import SealedCodec
from doorward_databroker.store.redis import RedisStore


@asynccontextmanager
async def two_stores(servers: Topology, clock: Clock) -> AsyncIterator[list[RedisStore]]:
    stores = [RedisStore(servers.link(), SealedCodec(keyring(Purpose.RECORDS)), clock) for _ in range(2)]
    try:
        yield stores
    finally:
        for store in stores:
            await store.close()


async def due_at(sides: list[StoreRecords]) -> tuple[World, list[Refresher], str]:
    """Somebody whose tokens have just come due, and who may refresh them: one at each of ``sides``."""
    world = World(records=sides[0])
    session_id = await world.sign_in()
    world.clock.advance(LIFE)
    return world, [world.another_replica(side) for side in sides], session_id


async def test_s48_two_hundred_uses_at_expiry_through_two_databrokers_refresh_once():
    with topology("valkey") as servers:
        clock = FakeClock()
        async with two_stores(servers, clock) as stores:
            sides = [StoreRecords(clock, store) for store in stores]
            world, refreshers, session_id = await due_at(sides)

            async def use(number: int) -> Attended:
                return await refreshers[number % 2].attend(session_id)

            outcomes = await asyncio.gather(*(use(number) for number in range(200)))
            assert world.provider.renewals == 1
            assert [outcome for outcome in outcomes if outcome is not Attended.BUSY] == [Attended.RENEWED]
            assert (await world.kept(session_id)).tokens.refresh_token == world.provider.refresh
            assert await world.is_live(session_id)


@dataclass
class Side:
    """An authenticate plane that looks after sessions through a databroker of its own."""

    broker: Broker
    refresher: Refresher


@asynccontextmanager
async def two_sides(servers: Topology) -> AsyncIterator[tuple[World, JumpingClock, list[Side]]]:
    clock = JumpingClock()
    async with AsyncExitStack() as stack, two_stores(servers, clock) as stores:
        world = World(records=StoreRecords(clock, stores[0]))
        sides = []
        for name, store in zip(("one", "two"), stores, strict=True):
            one = await stack.enter_async_context(broker(store, clock, name))
            beating = asyncio.create_task(one.heartbeat.run())
            stack.callback(beating.cancel)
            channel = await stack.enter_async_context(serving(one, Plane.AUTHENTICATE))
            sides.append(Side(one, world.another_replica(RecordClient(channel))))
        yield world, clock, sides


@pytest.mark.timeout(60)
@pytest.mark.parametrize("has_replica_heard", [True, False], ids=["the attempt survives", "the attempt is lost"])
async def test_s48_a_failover_amid_two_hundred_uses_ends_no_session_and_asks_once_for_each_holder(
    has_replica_heard: bool,
):
    """The primary dies when the identity provider has rotated the token, and before that is stored.

    Where the replica has not heard of the attempt either, the other side may begin another one and is refused for the used token.
    """
    with topology("sentinel", down_after_ms=300) as servers:
        replica = servers.others[0]
        async with two_sides(servers) as (world, clock, sides):
            session_id = await world.sign_in()
            for side in sides:
                await side.broker.caught_up()
            wait_for(lambda: replica.ask("EXISTS {dw}:r:SessionTokens:" + session_id) == b":1\r\n", 5)
            clock.offset += LIFE
            if not has_replica_heard:
                # What a stopped process has in its socket it would still read.
                replica.pause()
                servers.primary.ask("CLIENT KILL TYPE replica")
            begins = asyncio.Event()

            async def die() -> None:
                if world.provider.renewals == 1:
                    if has_replica_heard:
                        attempt = servers.primary.ask(f"HGET {{dw}}:r:SessionTokens:{session_id} v")
                        wait_for(lambda: replica.ask(f"HGET {{dw}}:r:SessionTokens:{session_id} v") == attempt, 5)
                    servers.primary.stop(signal.SIGKILL)
                    if not has_replica_heard:
                        replica.resume()
                    begins.set()

            world.provider.before_answer = die
            outcomes: list[Attended] = []

            async def use(side: Side) -> None:
                """As the keeper does: what could not be looked after stays due, and is tried again."""
                while True:
                    try:
                        outcomes.append(await side.refresher.attend(session_id))
                        return
                    except DoorwardError:
                        await asyncio.sleep(0.1)

            await asyncio.gather(*(use(sides[number % 2]) for number in range(100)))
            assert begins.is_set()
            await asyncio.gather(*(use(sides[number % 2]) for number in range(100)))
            assert world.provider.renewals <= (1 if has_replica_heard else 2), "at most one for each who was at it"
            assert outcomes.count(Attended.RENEWED) == 1
            assert Attended.ENDED not in outcomes
            assert await world.is_live(session_id)
            assert (await world.kept(session_id)).tokens.refresh_token == world.provider.refresh


async def test_s48_who_has_lost_the_lease_begins_no_refresh():
    with topology("valkey") as servers:
        clock = FakeClock()
        async with two_stores(servers, clock) as stores:
            sides = [StoreRecords(clock, store) for store in stores]
            world, refreshers, session_id = await due_at(sides)
            async with hold_lease(sides[0], LEASE, "one", 0.6) as slow:  # type: ignore[arg-type]  # has what is used
                servers.primary.ask(f"DEL {{dw}}:l:{LEASE}")  # as when it runs out
                async with hold_lease(sides[1], LEASE, "two", 30.0) as quick:  # type: ignore[arg-type]  # as above
                    assert quick.fence.number > slow.fence.number
                    assert await refreshers[0].attend(session_id, slow.fence) is Attended.BUSY
                    assert world.provider.renewals == 0
                    assert await refreshers[1].attend(session_id, quick.fence) is Attended.RENEWED
                    async with asyncio.timeout(5):
                        await slow.lost.wait()
            assert await sides[0].acquire_lease(LEASE, "three", 1.0) is not None, "given back by the one who had it"
