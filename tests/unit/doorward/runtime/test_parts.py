"""A part that must go on and does not ends its plane, in whatever way it has ended."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import structlog.testing

from doorward.errors import ConfigurationError
from doorward.runtime.parts import PartEndedError, until_stopped
from doorward.runtime.service import Stop


async def forever() -> None:
    await asyncio.Event().wait()


async def returns() -> None:
    await asyncio.sleep(0)


async def fails() -> None:
    await asyncio.sleep(0)
    raise LookupError("a bug")


async def cancels_itself() -> None:
    await asyncio.sleep(0)
    raise asyncio.CancelledError


@pytest.mark.parametrize(("ends", "how"), [(returns, "returned"), (fails, "a bug"), (cancels_itself, "cancelled")])
async def test_a_part_that_ends_is_named_and_the_plane_is_unready_at_once(
    ends: Callable[[], Coroutine[Any, Any, None]], how: str
):
    stop = Stop(None)
    stop.ready()
    parts = [asyncio.create_task(forever()), asyncio.create_task(ends(), name="the frail one")]
    with structlog.testing.capture_logs() as logs, pytest.raises(PartEndedError, match=f"the frail one.*{how}"):
        await until_stopped(stop, parts)
    assert not stop.serving
    assert [(line["event"], line["part"]) for line in logs] == [("a part has ended", "the frail one")]
    parts[0].cancel()


async def test_a_start_may_end_but_not_fail():
    stop, part = Stop(None), asyncio.create_task(forever())
    waiting = asyncio.create_task(until_stopped(stop, [part], returns()))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    stop.request()
    await waiting
    with structlog.testing.capture_logs(), pytest.raises(PartEndedError, match="start"):
        await until_stopped(Stop(None), [part], fails())
    part.cancel()


async def test_a_start_that_goes_on_is_given_up_when_the_plane_is_asked_to_stop():
    stop, given_up = Stop(None), asyncio.Event()

    async def start() -> None:
        try:
            await forever()
        finally:
            given_up.set()

    part = asyncio.create_task(forever())
    waiting = asyncio.create_task(until_stopped(stop, [part], start()))
    await asyncio.sleep(0)
    stop.request()
    await waiting
    assert given_up.is_set()
    part.cancel()


async def test_what_the_operator_must_mend_stays_as_it_was_worded():
    async def cannot() -> None:
        raise ConfigurationError(["doorward.yaml:1:1: error: no"])

    with pytest.raises(ConfigurationError):
        await until_stopped(Stop(None), [asyncio.create_task(cannot())])
