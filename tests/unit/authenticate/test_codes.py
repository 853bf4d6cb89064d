"""One-time codes: redeemed once, and never in a history that may have forgotten it."""

from typing import Any

import pytest
from tests.support.key_material import keyring
from tests.unit.authenticate.session_life.builders import World

from doorward.errors import InvalidTokenError
from doorward.keys.code import LIFETIME_SECONDS, CodeSealer, spent_id
from doorward.keys.flow import SignInRequest, flow_fingerprint
from doorward.keys.handle import HandleSealer
from doorward.keys.sealed import Sealer
from doorward.keys.store import Purpose
from doorward_authenticate.codes import Codes
from doorward_authenticate.sessions import LiveSession

HOST = "app.example"
SECRET = b"s" * 32


class Bench:
    def __init__(self) -> None:
        self.world = World()
        self.handles = HandleSealer(Sealer(keyring(Purpose.SESSION_HANDLE)))
        sealer = CodeSealer(Sealer(keyring(Purpose.ONE_TIME_CODE)))
        self.codes = Codes(sealer, self.handles, self.world.writer, self.world.clock)

    @property
    def store(self) -> Any:
        return self.world.records.store

    async def signed_in(self) -> LiveSession:
        live = await self.world.writer.live(await self.world.sign_in())
        assert live is not None
        return live

    async def mint(self, live: LiveSession) -> str:
        request = SignInRequest(
            authority=HOST,
            flow_name="f",
            fingerprint=flow_fingerprint(SECRET),
            expires_at=int(self.world.clock.now()) + 600,
        )
        return await self.codes.mint(live, request)

    async def lose_history(self) -> None:
        await self.store.recover((await self.store.head()).version)


async def test_a_code_is_good_once():
    bench = Bench()
    code = await bench.mint(await bench.signed_in())
    handle, _ = await bench.codes.redeem(code, HOST, SECRET)
    assert handle
    with pytest.raises(InvalidTokenError, match="before"):
        await bench.codes.redeem(code, HOST, SECRET)


async def test_a_code_that_was_used_is_refused_after_the_records_have_forgotten_it():
    """What says that it was used is in no history, so a failover that lost it puts nothing back."""
    bench = Bench()
    code = await bench.mint(await bench.signed_in())
    await bench.codes.redeem(code, HOST, SECRET)
    del bench.store._records["SpentCode", spent_id(code)]
    await bench.lose_history()
    with pytest.raises(InvalidTokenError, match="lost history"):
        await bench.codes.redeem(code, HOST, SECRET)


async def test_a_session_from_before_a_loss_opens_further_hosts_afterwards():
    bench = Bench()
    live = await bench.signed_in()
    await bench.lose_history()
    handle, _ = await bench.codes.redeem(await bench.mint(live), HOST, SECRET)
    opened = bench.handles.open(handle, HOST, bench.world.clock.now())
    assert (opened.session_id, opened.epoch, opened.number) == (live.session.id, 2, 0)


@pytest.mark.parametrize("wrong", ["late", "host", "browser", "session"])
async def test_a_code_is_spent_by_an_attempt_that_fails(wrong: str):
    bench = Bench()
    live = await bench.signed_in()
    code = await bench.mint(live)
    if wrong == "late":
        bench.world.clock.advance(LIFETIME_SECONDS)
    if wrong == "session":
        await bench.world.writer.end(live.session.id)
    host, secret = ("other.example" if wrong == "host" else HOST), (b"x" * 32 if wrong == "browser" else SECRET)
    with pytest.raises(InvalidTokenError):
        await bench.codes.redeem(code, host, secret)
    with pytest.raises(InvalidTokenError, match="used before"):
        await bench.codes.redeem(code, HOST, SECRET)
