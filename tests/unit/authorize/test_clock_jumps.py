"""A wall clock that jumps: what ends by it ends at once, what is not valid yet does not count, and freshness does not follow it."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.token_issuer import TokenIssuer
from tests.unit.authorize.builders import World, passed, set_headers, status
from tests.unit.authorize.test_credential_pairs import Everything
from tests.unit.authorize.test_guard_watcher import Streams

from doorward.envoy_api.envoy.service.auth.v3.external_auth_pb2 import CheckResponse

HOUR = 3600.0


def jump(world: World, seconds: float) -> None:
    """The wall clock is set; the monotonic one goes on."""
    world.clock._now += seconds


def told(response: CheckResponse) -> dict[str, Any]:
    part = set_headers(response)["x-doorward-jwt-assertion"].split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return claims


@pytest.fixture
def world(tmp_path: Path) -> Everything:
    return Everything(tmp_path)


async def ask(world: Everything, kind: str) -> int:
    message = world.blank("closed")
    world.present(message, kind, "valid", "closed")
    return status(await world.told(message))


async def test_forward_ends_what_ends_by_the_clock_and_nothing_else(world: Everything):
    cookie = world.sign_in()
    token = f"Bearer {world.account()}"
    external = world.ci.token(world.clock.now())
    assert passed(await world.check(cookie=cookie))
    jump(world, 2 * HOUR)
    assert status(await world.check(cookie=cookie)) == 401
    assert status(await world.check(authorization=token)) == 401
    assert status(await world.check("closed", authorization=f"Bearer {external}", cookie=cookie)) in {401, 421}
    assert passed(await world.check("public")), "data are no older than they were"
    assert passed(await world.check(cookie=world.sign_in("bob")))


async def test_back_lets_in_nothing_that_is_not_valid_yet(world: Everything):
    external = world.ci.token(world.clock.now())
    message = world.blank("closed")
    world._header(message, "authorization", f"Bearer {external}")
    assert passed(await world.told(message))
    certified = world.blank("closed")
    world.present(certified, "certificate", "valid", "closed")
    assert passed(await world.told(certified))
    jump(world, -3 * 24 * HOUR)
    assert status(await world.told(message)) == 401, "issued in the future, though it was looked at before"
    assert not passed(await world.told(certified)), "before its first day"
    assert passed(await world.check("public"))


@pytest.mark.parametrize("seconds", [-HOUR, -1.0, 1.0, 200.0, HOUR - 30])
async def test_what_an_application_is_told_holds_now_whatever_the_clock_did(world: Everything, seconds: float):
    cookie = world.sign_in()
    told(await world.check(cookie=cookie))
    jump(world, seconds)
    claims = told(await world.check(cookie=cookie))
    assert claims["nbf"] <= world.clock.now() < claims["exp"]


async def test_a_stream_that_was_cut_does_not_come_back_with_the_clock(tmp_path: Path):
    streams = Streams(tmp_path)
    number = await streams.opened(cookie=streams.world.sign_in())
    jump(streams.world, HOUR + 1)
    streams.watcher.on_time()
    assert [(found, allowed) for found, allowed, _ in await streams.settle()] == [(number, False)]
    jump(streams.world, -2 * HOUR)
    streams.watcher.on_time()
    assert await streams.settle() == []
    assert len(streams.watcher) == 0


async def test_a_stream_lives_through_a_small_correction(tmp_path: Path):
    streams = Streams(tmp_path)
    await streams.opened(cookie=streams.world.sign_in())
    for seconds in (-0.4, 0.4, -2.0, 30.0, -30.0):
        jump(streams.world, seconds)
        streams.watcher.on_time()
        assert await streams.settle() == []


async def test_keys_that_were_confirmed_in_the_future_count_no_longer_than_others(world: Everything):
    """A confirmation that lies ahead must not count for ever."""
    issuer = TokenIssuer()
    key, data = issuer.record(world.clock.now() + 30 * 24 * HOUR)
    world.records.data[key] = data
    assert status(await world.check("closed", authorization=f"Bearer {issuer.token(world.clock.now())}")) in {401, 421}
    message = world.blank("closed")
    world._header(message, "authorization", f"Bearer {issuer.token(world.clock.now())}")
    assert status(await world.told(message)) == 401
