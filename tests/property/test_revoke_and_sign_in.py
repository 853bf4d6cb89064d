"""A revoke and a sign-in at the same time: in whatever order their steps come, nobody who began before it stays signed in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from tests.support.broker import broker
from tests.support.fake_clock import FakeClock
from tests.support.key_material import keyring
from tests.support.records import StoreRecords
from tests.unit.authenticate.session_life.builders import SETTINGS, World

from doorward.api.databroker.v1 import databroker_pb2 as pb
from doorward.identity.user import user_id
from doorward.keys.store import Purpose
from doorward.records.record import Fence, Record, RecordVersion, Write
from doorward.rpc.planes import Plane
from doorward.rpc.server import caller
from doorward_authenticate.errors import RevokedMeanwhileError
from doorward_databroker.metrics import DatabrokerMetrics
from doorward_databroker.server import DatabrokerServicer
from doorward_databroker.store.codec import SealedCodec
from doorward_databroker.store.memory import MemoryStore
from doorward_databroker.store.port import Page

TARGETS = (
    pb.RevokeRequest(user_id=user_id(SETTINGS.issuer, "alice")),
    pb.RevokeRequest(identity_provider_id="corp"),
    pb.RevokeRequest(all_sessions=True),
)


class Slow(MemoryStore):
    """Every call takes as many turns of the loop as the next number says."""

    turns: list[int]

    async def _wait(self) -> None:
        for _ in range(self.turns.pop() if self.turns else 0):
            await asyncio.sleep(0)

    async def get(self, record_type: str, record_id: str) -> Record:
        await self._wait()
        return await super().get(record_type, record_id)

    async def put(
        self, writes: Sequence[Write], request_id: str, fence: Fence | None = None
    ) -> tuple[RecordVersion, ...]:
        await self._wait()
        return await super().put(writes, request_id, fence)

    async def page(self, record_type: str, after_id: str, limit: int) -> Page:
        await self._wait()
        return await super().page(record_type, after_id, limit)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: str(target.WhichOneof("target")))
@settings(max_examples=150)
@given(turns=st.lists(st.integers(0, 6), max_size=24), delay=st.integers(0, 12))
async def test_whoever_began_before_a_revoke_is_not_signed_in_after_it(
    target: pb.RevokeRequest, turns: list[int], delay: int
):
    clock = FakeClock()
    store = Slow(clock, SealedCodec(keyring(Purpose.RECORDS)))
    store.turns = []
    world = World(records=StoreRecords(clock, store))
    async with broker(store, clock) as one:
        metrics = DatabrokerMetrics(CollectorRegistry())
        servicer = DatabrokerServicer(store, one.hub, one.heartbeat, one.revoker, one.peers, clock, metrics)
        caller.set(Plane.OPERATOR)

        async def revoke() -> None:
            for _ in range(delay):
                await asyncio.sleep(0)
            await servicer.Revoke(target, None)  # type: ignore[arg-type]

        async def start() -> None:
            nonlocal revoking
            store.turns = list(turns)
            revoking = asyncio.create_task(revoke())

        revoking: asyncio.Task[None] | None = None
        with contextlib.suppress(RevokedMeanwhileError):
            await world.sign_in(between=start)
        assert revoking is not None
        await revoking
        assert (await store.page("Session", "", 10)).records == ()
