"""Every way in which the guard's own process can fail, at every line of it, cuts the streams within the limit.

The whole process is played, over its real socket, with two authorizers: one dies, the list of them changes, and then comes the end. It
is played once for each line of the parts that the process consists of, and at that line something is raised. What was let go on
must have been ended with an error in time, or the process with its sockets is gone.
"""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import structlog.testing
from tests.support.deployment import short_folder
from tests.support.sabotage import Sabotage, every_point
from tests.support.virtual_time import VirtualTimeLoop
from tests.unit.proxy.guard.test_endings import GOES_ON, LIMIT, REFUSED, UNANSWERED, PlantedError, frames, opening

from doorward.api.guard.v1.guard_pb2 import WatchStreamsRequest, WatchStreamsResponse
from doorward.config.endpoints import LocalEndpoints
from doorward.rpc import http2_frames as h2
from doorward.runtime.service import ServeOptions, Stop
from doorward_proxy.guard import authorizers, link, main, streams, watchdog
from doorward_proxy.guard.messages import HEADERS_PASS
from doorward_proxy.guard.streams import ANSWER_SECONDS

PATIENCE = LIMIT + 2 * link.SILENCE_SECONDS + ANSWER_SECONDS
"""By then every limit has passed, whatever else went wrong."""


class Authorizer:
    """Stands by what the test wants; obeys what is used of ``grpc.aio.Channel`` and of its calls."""

    def __init__(self) -> None:
        self.mute = False
        self.dead = False
        self.refuses: set[bytes] = {b"refused"}
        self.numbers: dict[bytes, int] = {}
        self.calls: list[_Call] = []

    def stream_stream(self, *_: object, **__: object) -> Callable[..., "_Call"]:
        return lambda requests: _Call(self, requests)

    async def close(self, grace: float | None) -> None:
        del grace
        self.die()

    def die(self) -> None:
        self.dead = True
        for call in self.calls:
            call.said.put_nowait(grpc.aio.EOF)

    def refuse(self, description: bytes) -> None:
        self.refuses.add(description)
        for call in self.calls:
            call.judge(description)

    def leave(self) -> None:
        for call in self.calls:
            call.said.put_nowait(WatchStreamsResponse(leaving=True))
        self.dead = True


class _Call:
    def __init__(self, authorizer: Authorizer, requests: AsyncIterator[WatchStreamsRequest]) -> None:
        self.authorizer = authorizer
        self.said: asyncio.Queue[Any] = asyncio.Queue()
        self.listening = asyncio.create_task(self._listen(requests))
        authorizer.calls.append(self)
        if authorizer.dead:
            self.said.put_nowait(grpc.aio.EOF)

    async def _listen(self, requests: AsyncIterator[WatchStreamsRequest]) -> None:
        try:
            async for request in requests:
                for opened in request.opened:
                    self.authorizer.numbers[opened.description] = opened.number
                    self.judge(opened.description)
                if request.stamp and not self.authorizer.mute:
                    self.said.put_nowait(WatchStreamsResponse(stamp=request.stamp, data_age_ms=1))
        except PlantedError:
            self.said.put_nowait(asyncio.CancelledError())  # as grpc does when it cannot learn what to send

    def judge(self, description: bytes) -> None:
        response, number = WatchStreamsResponse(), self.authorizer.numbers.get(description)
        if number is None or description == b"unanswered" or self.authorizer.mute:
            return
        allowed = description not in self.authorizer.refuses
        response.verdicts.add(number=number, allowed=allowed, limit_ms=int(LIMIT * 1000), reason="planted")
        self.said.put_nowait(response)

    async def read(self) -> object:
        item = await self.said.get()
        if isinstance(item, BaseException):
            raise item
        return item

    async def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    async def details(self) -> str:
        return "planted"

    def cancel(self) -> None:
        self.listening.cancel()


class Surroundings:
    """What the guard is put into instead of ``Neighbours``."""

    def __init__(self, *_: object) -> None:
        pass

    def authorizer(self, where: Path) -> Authorizer:
        return World.now.authorizers[where.name]

    async def run(self) -> None:
        await asyncio.Event().wait()


class LoopClock:
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    monotonic = now


class World:
    """One life of a guard's process."""

    now: "World"

    def __init__(self, folder: Path) -> None:
        World.now = self
        self.folder = folder
        self.authorizers = {"first": Authorizer(), "second": Authorizer()}
        self.stop = Stop(None)
        self.sent = b""
        self.is_over = False
        self.ended_in_time = False

    def authorizers_are(self, *names: str) -> None:
        lines = "".join(f"{self.folder / name}\n" for name in names)
        LocalEndpoints(self.folder).guard_authorizers.write_text(lines)

    async def live(self, end: Callable[["World"], None], sabotage: Sabotage) -> None:
        """Play it."""
        asyncio.get_running_loop().set_exception_handler(lambda _, __: None)
        options = ServeOptions(plane="guard", config_path=self.folder, data_dir=self.folder, run_dir=self.folder)
        self.authorizers_are("first", "second")
        with sabotage:
            process = asyncio.create_task(main.serve(options, self.stop))
            await asyncio.sleep(0.01)
            envoy = asyncio.create_task(self._envoy())
            await asyncio.sleep(2.2)
            self.authorizers["first"].die()
            await asyncio.sleep(1)
            self.authorizers_are("second")
            await asyncio.sleep(1.1)
            end(self)
            await asyncio.sleep(PATIENCE)
        self.is_over = process.done() or envoy.done()
        process.cancel()
        envoy.cancel()
        await asyncio.gather(process, envoy, return_exceptions=True)

    async def _envoy(self) -> None:
        """Ends when the guard does."""
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_unix_connection(LocalEndpoints(self.folder).guard)
            try:
                writer.write(h2.PREFACE + h2.settings({}))
                for stream, name in ((GOES_ON, b"goes on"), (REFUSED, b"refused"), (UNANSWERED, b"unanswered")):
                    writer.write(opening(stream, name))
                while data := await reader.read(65536):
                    self.sent += data
            finally:
                writer.close()

    def open_at_the_end(self) -> set[int]:
        """What was let go on and has not been ended."""
        let_go_on, ended = set(), set()
        for kind, flags, stream, payload in frames(self.sent):
            if kind == h2.DATA and payload[5:] == HEADERS_PASS:
                let_go_on.add(stream)
            if kind == h2.HEADERS and flags & h2.END_STREAM:
                ended.add(stream)
                assert b"grpc-status\x010" not in payload
        assert let_go_on <= {GOES_ON}
        return let_go_on - ended


ENDS: dict[str, Callable[[World], None]] = {
    "a refusal": lambda world: world.authorizers["second"].refuse(b"goes on"),
    "silence": lambda world: setattr(world.authorizers["second"], "mute", True),
    "the last one leaves": lambda world: world.authorizers["second"].leave(),
    "the guard is stopped": lambda world: world.stop.request(),
}


def lived(folder: Path, end: Callable[[World], None], sabotage: Sabotage) -> World:
    world = World(folder)
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(world.live(end, sabotage))
    return world


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Path]:
    monkeypatch.setattr(main, "Neighbours", Surroundings)
    monkeypatch.setattr(main, "SystemClock", LoopClock)
    # A watchdog whose end was sabotaged goes on watching a loop that is gone, and would end the tests.
    monkeypatch.setattr(main, "Watchdog", lambda: watchdog.Watchdog(end=lambda: None))
    with short_folder() as path:
        yield path
    gc.collect()  # sockets that only the end of a real process would close


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("end", "nth", "error"),
    [
        ("a refusal", 1, PlantedError),
        ("silence", 3, PlantedError),
        ("the last one leaves", 1, asyncio.CancelledError),
        ("the guard is stopped", 1, PlantedError),
    ],
)
def test_a_failure_at_any_point_of_the_process_cuts_the_streams(
    folder: Path, end: str, nth: int, error: type[BaseException]
):
    worlds: list[World] = []
    count = 0
    with structlog.testing.capture_logs():
        for place in every_point(
            lambda sabotage: worlds.append(lived(folder, ENDS[end], sabotage)),
            link, streams, authorizers, main, watchdog,
            error=error, nth=nth,
        ):  # fmt: skip
            world = worlds.pop()
            assert world.is_over or not world.open_at_the_end(), f"still open and unguarded: {end}, failed in {place}"
            count += 1
    assert count > 30, "the process's lines were not found"


def test_nothing_fails_and_the_stream_outlives_an_authorizer(folder: Path):
    """Else the others would hold whatever happens."""
    with structlog.testing.capture_logs():
        world = lived(folder, lambda _: None, Sabotage((link,), 0, PlantedError()))
    assert not world.is_over
    assert world.open_at_the_end() == {GOES_ON}
    assert (world.authorizers["first"].dead, len(world.authorizers["second"].calls)) == (True, 1)
