"""Every way in which authorize's part in a guarded stream can fail, at every line of it: the stream ends, or the guard loses its proof.

A stream is opened, its access ends, and it is decided again. Once for each line that runs, something is raised at that line. What escapes
from reading a guard's words ends that guard's call; what escapes from deciding again ends the process. Both are a loss to the guard, which
cuts at its limit. Else the guard must have been told to cut.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog.testing
from tests.support.sabotage import Sabotage, every_point
from tests.unit.authorize.test_guard_watcher import ALICE, Streams

from doorward_authorize import evaluator, principals, snapshot
from doorward_authorize.guard import dependence, description, watcher


class PlantedError(Exception):
    """Stands for a bug."""


def _revoke(streams: Streams) -> None:
    streams.world.records.data.pop(("Session", ALICE), None)
    streams.watcher.on_record("Session", ALICE)


def _expire(streams: Streams) -> None:
    streams.world.clock.advance(3601)
    streams.watcher.on_time()


def _change_policy(streams: Streams) -> None:
    before = streams.world.evaluator.snapshot
    config = (streams.world.folder / "doorward.yaml").read_text()
    streams.world.reload(config.replace("{authenticated_user: true}", "{groups: {has: nobody}}"))
    streams.watcher.on_snapshot(before, streams.world.evaluator.snapshot)


CHANGES: dict[str, Callable[[Streams], None]] = {
    "revoked": _revoke,
    "expired": _expire,
    "another policy": _change_policy,
}


@pytest.mark.parametrize("error", [PlantedError, asyncio.CancelledError])
@pytest.mark.parametrize("change", CHANGES)
def test_a_failure_at_any_point_ends_the_stream_or_the_proof(tmp_path: Path, change: str, error: type[BaseException]):
    ends: list[tuple[bool, bool]] = []

    def run(sabotage: Sabotage) -> None:
        streams = Streams(tmp_path)
        lost = False

        async def life() -> None:
            nonlocal lost
            data = await streams.describe(cookie=streams.world.sign_in())
            try:
                with sabotage:
                    streams.open(data)
                    CHANGES[change](streams)
                    await streams.watcher.settle()
            except (PlantedError, asyncio.CancelledError):
                lost = True
            # A clock that goes on, in an authorizer that works again.
            streams.world.clock.advance(1)
            streams.watcher.on_time()
            await streams.watcher.settle()

        asyncio.run(life())
        said = [verdict.allowed for verdict in streams.link.said]
        ends.append((lost or streams.link.failed, bool(said) and said[-1]))

    count = 0
    modules = (watcher, dependence, description, evaluator, principals, snapshot)
    with structlog.testing.capture_logs():
        for place in every_point(run, *modules, error=error):
            is_lost, goes_on = ends.pop()
            assert is_lost or not goes_on, f"{change}: goes on unwatched, failed in {place}"
            count += 1
    assert count > 50, "the watcher's lines were not found"
