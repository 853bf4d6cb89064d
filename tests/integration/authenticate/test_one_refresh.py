"""One refresh for each session, over a real store that two databrokers write to."""

import asyncio

from tests.support.fake_clock import FakeClock
from tests.support.key_material import keyring
from tests.support.records import StoreRecords
from tests.support.redis_server import topology
from tests.unit.authenticate.session_life.builders import LIFE, World

from doorward.keys.store import Purpose
from doorward_authenticate.session_life.refresher import Attended
from doorward_databroker.store.codec import SealedCodec
from doorward_databroker.store.redis import RedisStore


async def test_s48_two_hundred_uses_at_expiry_through_two_databrokers_refresh_once():
    with topology("valkey") as servers:
        clock = FakeClock()
        stores = [RedisStore(servers.link(), SealedCodec(keyring(Purpose.RECORDS)), clock) for _ in range(2)]
        try:
            sides = [StoreRecords(clock, store) for store in stores]
            world = World(records=sides[0])
            refreshers = [world.another_replica(side) for side in sides]
            session_id = await world.sign_in()
            clock.advance(LIFE)

            async def use(number: int) -> Attended:
                return await refreshers[number % 2].attend(session_id)

            outcomes = await asyncio.gather(*(use(number) for number in range(200)))
            assert world.provider.renewals == 1
            assert [outcome for outcome in outcomes if outcome is not Attended.BUSY] == [Attended.RENEWED]
            assert (await world.kept(session_id)).tokens.refresh_token == world.provider.refresh
            assert await world.is_live(session_id)
        finally:
            for store in stores:
                await store.close()
