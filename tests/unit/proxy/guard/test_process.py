"""The guard is started again whenever it ends; where that cannot be, the plane hears of it."""

import asyncio
from pathlib import Path

import pytest
import structlog.testing
from tests.support.sabotage import Sabotage, every_point
from tests.support.virtual_time import VirtualTimeLoop
from tests.unit.proxy.guard.test_endings import PlantedError

from doorward.errors import UnavailableError
from doorward.runtime.service import ServeOptions
from doorward_proxy.guard import process


class Children:
    """What is started: the second start fails, the others live until the test ends them."""

    def __init__(self) -> None:
        self.started = 0
        self.ends: list[asyncio.Event] = []
        self.stopped: list[int] = []

    async def spawn_ready(self, *_: object, **__: object) -> "Children.One":
        self.started += 1
        if self.started == 2:
            raise UnavailableError("planted")
        self.ends.append(asyncio.Event())
        return Children.One(self, self.started, self.ends[-1])

    class One:
        def __init__(self, all_of_them: "Children", number: int, end: asyncio.Event) -> None:
            self.all, self.number, self.end = all_of_them, number, end

        async def wait(self) -> int:
            await self.end.wait()
            return 1

        async def stop(self, *_: object) -> None:
            self.all.stopped.append(self.number)
            self.end.set()


def lived(folder: Path, sabotage: Sabotage) -> tuple[Children, bool]:
    """Start, end, start again; whether the plane was told that something is wrong."""
    children = Children()
    process.spawn_ready = children.spawn_ready  # type: ignore[assignment]  # put back by `original`

    async def live() -> bool:
        guard = process.GuardProcess(
            ServeOptions(plane="proxy", config_path=folder, data_dir=folder, run_dir=folder), [folder / "a"]
        )
        try:
            with sabotage:
                await guard.start()
                running = asyncio.create_task(guard.run())
                await asyncio.sleep(1)
                children.ends[0].set()
                await asyncio.sleep(1)
                guard.replace_authorizers([folder / "b"])
        except PlantedError:
            return True  # what starts or changes it hears of it
        told = running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return told

    with structlog.testing.capture_logs(), asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return children, runner.run(live())


@pytest.fixture(autouse=True)
def original(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "spawn_ready", process.spawn_ready)


def test_it_is_started_again_or_the_plane_is_told(tmp_path: Path):
    children, told = lived(tmp_path, Sabotage((process,), 0, PlantedError()))
    assert (children.started, told) == (3, False)
    lives: list[tuple[Children, bool]] = []
    places = 0
    for place in every_point(lambda sabotage: lives.append(lived(tmp_path, sabotage)), process, error=PlantedError):
        children, told = lives.pop()
        assert told or children.started == 3, f"no guard, and nobody knows: failed in {place}"
        places += 1
    assert places > 15


async def test_one_that_is_stopped_is_not_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    children = Children()
    monkeypatch.setattr(process, "spawn_ready", children.spawn_ready)
    guard = process.GuardProcess(
        ServeOptions(plane="proxy", config_path=tmp_path, data_dir=tmp_path, run_dir=tmp_path), [tmp_path / "a"]
    )
    await guard.start()
    running = asyncio.create_task(guard.run())
    await asyncio.sleep(0)
    await guard.stop()
    await running
    assert (children.started, children.stopped) == (1, [1])
