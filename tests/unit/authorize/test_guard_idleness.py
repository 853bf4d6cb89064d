"""What cannot be learned about a session's use ends its streams, and is told of."""

import asyncio
from pathlib import Path

import pytest
import structlog.testing
from tests.unit.authorize.test_guard_watcher import GUARDED, Streams

from doorward.records.record import Record, RecordVersion
from doorward_authorize.activity import ActivityTracker


class LookupBug:
    """A way to ask others that has a bug."""

    async def get(self, record_type: str, record_id: str) -> Record:
        raise LookupError("planted")

    async def put(self, writes: object) -> tuple[RecordVersion, ...]:
        return ()


async def _idle(folder: Path) -> Streams:
    """A strict route with one open stream, whose session nobody has used for long enough."""
    streams = Streams(folder)
    streams.world.principals._activity = ActivityTracker(LookupBug(), lambda: 60.0, streams.world.clock)
    await streams.change(GUARDED.replace("- name: app", "- name: app\n    idle: strict"))
    await streams.opened(cookie=streams.world.sign_in())
    streams.world.clock.advance(61)
    return streams


async def test_a_bug_in_asking_whether_a_session_is_idle_cuts_and_is_counted(tmp_path: Path):
    streams = await _idle(tmp_path)
    running = asyncio.create_task(streams.watcher.run())
    async with asyncio.timeout(5):
        while not streams.link.said:
            await asyncio.sleep(0.01)
    assert streams.link.taken() == [(1, False, "session-idle")]
    assert streams.world.metrics.failures._value.get() == 1
    running.cancel()


async def test_a_bug_in_ending_idle_streams_is_told_of_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    streams = await _idle(tmp_path)
    tries: list[None] = []

    async def end_idle() -> None:
        tries.append(None)
        raise LookupError("planted")

    monkeypatch.setattr(streams.watcher, "end_idle", end_idle)
    with structlog.testing.capture_logs() as logs:
        running = asyncio.create_task(streams.watcher.run())
        async with asyncio.timeout(5):
            while len(tries) < 2:
                await asyncio.sleep(0.01)
    assert not running.done()
    assert logs[0]["what"] == "idle streams"
    assert streams.world.metrics.failures._value.get() >= 1
    running.cancel()
