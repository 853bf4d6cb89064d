"""Whose sessions are found when many people's end at once."""

import pytest
from tests.support.broker import broker
from tests.support.fake_clock import FakeClock
from tests.support.key_material import keyring

from doorward.errors import UnavailableError
from doorward.keys.store import Purpose
from doorward.records.record import Record, Write
from doorward_databroker.store.codec import SealedCodec
from doorward_databroker.store.memory import MemoryStore
from doorward_databroker.store.port import Page


class _Failing(MemoryStore):
    """Fails when told."""

    fails = False

    async def page(self, record_type: str, after_id: str, limit: int) -> Page:
        if self.fails:
            raise UnavailableError("away")
        return await super().page(record_type, after_id, limit)


async def test_sessions_of_many_are_all_found_and_a_failure_is_told():
    """Ending some and saying that all have ended would leave somebody in."""
    clock = FakeClock()
    store = _Failing(clock, SealedCodec(keyring(Purpose.RECORDS)))
    users = [f"u{number:02}" for number in range(30)]
    for number, user in enumerate(users):
        for name in (f"{user}-a", f"{user}-b")[: number % 3]:
            session = Record(
                type="Session", id=name, data=b"x", expires_at=clock.now() + 9, indexes={"user_id": (user,)}
            )
            await store.put([Write(record=session)], name)
    async with broker(store, clock) as one:
        assert len(set(await one.revoker.sessions_of(users))) == 30
        some = await one.revoker.sessions_of(users[:3])
        assert sorted(some) == ["u01-a", "u02-a", "u02-b"]
        assert await one.revoker.sessions_of([]) == []
        store.fails = True
        with pytest.raises(UnavailableError):
            await one.revoker.sessions_of(users)
