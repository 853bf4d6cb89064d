"""Every way in which holding a stream can fail, at every line of it, cuts the stream, and never with status OK.

A whole life of three streams is played through real bytes: one that is let go on, one that is refused, one that nobody answers. It is
played once for each line that runs in the guard, and at that line something is raised. Afterwards the clock moves past every limit:
whatever Envoy was told to let go on must have been ended with an error by then, or its connection is gone.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import structlog.testing
from prometheus_client import CollectorRegistry
from tests.support.fake_clock import FakeClock
from tests.support.sabotage import Sabotage, every_point
from tests.unit.proxy.guard.test_streams import begin, trailers

from doorward.rpc import http2_frames
from doorward_proxy.guard import http2, messages, streams
from doorward_proxy.guard.messages import HEADERS_PASS
from doorward_proxy.guard.metrics import GuardMetrics

LIMIT = 5.0
GOES_ON, REFUSED, UNANSWERED = 1, 3, 5


class PlantedError(Exception):
    """Stands for a bug."""


def frames(sent: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Kind, flags, stream and payload of each frame."""
    while sent:
        end = 9 + int.from_bytes(sent[:3], "big")
        yield sent[3], sent[4], int.from_bytes(sent[5:9], "big"), sent[9:end]
        sent = sent[end:]


@dataclass
class Wire(asyncio.Transport):
    """What has gone to Envoy."""

    sent: bytes = b""
    gone: bool = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += bytes(data)

    def abort(self) -> None:
        self.gone = True

    def is_closing(self) -> bool:
        return self.gone

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """It has room."""


@dataclass
class Guard:
    """The guard of one connection, and the process that it stands for."""

    clock: FakeClock = field(default_factory=FakeClock)
    wire: Wire = field(default_factory=Wire)
    is_over: bool = False

    def __post_init__(self) -> None:
        self.streams = streams.Streams(self.clock, GuardMetrics(CollectorRegistry()), 100)
        self.connection = http2.Connection(self.streams)
        self.connection.connection_made(self.wire)

    def envoy(self, data: bytes) -> None:
        """Bytes from Envoy; what escapes from here ends the connection (``asyncio.Protocol``)."""
        if self.wire.gone:
            return
        try:
            self.connection.data_received(data)
        except BaseException:
            self.wire.gone = True

    def own(self, act: Callable[[], object]) -> None:
        """Something of the guard's own tasks; when one of them raises, the process ends, and its sockets with it."""
        if self.is_over:
            return
        try:
            act()
        except BaseException:
            self.is_over = self.wire.gone = True

    def number(self, description: bytes) -> int:
        return next((stream.number for stream in self.streams if stream.description == description), 0)

    def say(self, description: bytes, *, allowed: bool) -> None:
        self.streams.on_verdict(self.number(description), allowed=allowed, limit=LIMIT, reason="planted")


def opening(stream: int, description: bytes) -> bytes:
    message = begin(description)
    data = b"\0" + len(message).to_bytes(4, "big") + message
    head = http2_frames.frame(http2_frames.HEADERS, http2_frames.END_HEADERS, stream, b"\x82")
    return head + http2_frames.frame(http2_frames.DATA, 0, stream, data)


def asking(stream: int) -> bytes:
    message = trailers()
    return http2_frames.frame(http2_frames.DATA, 0, stream, b"\0" + len(message).to_bytes(4, "big") + message)


LIFE: tuple[Callable[[Guard], None], ...] = (
    lambda guard: guard.envoy(http2_frames.PREFACE + http2_frames.settings({})),
    lambda guard: guard.envoy(opening(GOES_ON, b"goes on")),
    lambda guard: guard.envoy(opening(REFUSED, b"refused") + opening(UNANSWERED, b"unanswered")),
    lambda guard: guard.own(lambda: guard.streams.on_proof(guard.clock.monotonic())),
    lambda guard: guard.own(guard.streams.name_all),
    lambda guard: guard.own(guard.streams.taken),
    lambda guard: guard.own(lambda: guard.say(b"goes on", allowed=True)),
    lambda guard: guard.own(lambda: guard.say(b"refused", allowed=False)),
    lambda guard: guard.envoy(http2_frames.frame(http2_frames.PING, 0, 0, bytes(8))),
    lambda guard: guard.own(guard.streams.tick),
    lambda guard: guard.envoy(http2_frames.window_update(0, 1000)),
    lambda guard: guard.own(guard.streams.on_lost),
    lambda guard: guard.own(lambda: guard.streams.on_proof(guard.clock.monotonic())),
    lambda guard: guard.own(guard.streams.name_all),
    lambda guard: guard.own(lambda: guard.say(b"goes on", allowed=True)),
)
ENDS: dict[str, Callable[[Guard], None]] = {
    "no proof": lambda guard: (guard.clock.advance(LIMIT + 1), guard.own(guard.streams.tick))[0],
    "a refusal": lambda guard: guard.own(lambda: guard.say(b"goes on", allowed=False)),
    "the authorizer is lost": lambda guard: (
        guard.own(guard.streams.on_lost), guard.clock.advance(LIMIT + 1), guard.own(guard.streams.tick),
    )[1],
    "the guard is stopped": lambda guard: guard.own(guard.streams.stop),
    "envoy ends its side": lambda guard: guard.envoy(
        http2_frames.frame(http2_frames.DATA, http2_frames.END_STREAM, GOES_ON, b"")
    ),
    "envoy asks for trailers": lambda guard: guard.envoy(asking(GOES_ON)),
    "envoy resets": lambda guard: guard.envoy(http2_frames.frame(http2_frames.RST_STREAM, 0, GOES_ON, bytes(4))),
    "something malformed": lambda guard: guard.envoy(http2_frames.frame(http2_frames.PING, 0, 0, b"short")),
    "the connection is lost": lambda guard: (setattr(guard.wire, "gone", True), guard.connection.connection_lost(None))[0],
}  # fmt: skip


async def played(guard: Guard, end: str, sabotage: Sabotage) -> None:
    """The life, its end, and what the loop does in between; a callback that raises is only logged there."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, __: None)
    with sabotage:
        for step in (*LIFE, ENDS[end]):
            try:
                step(guard)
            except BaseException:  # the connection's own end: the transport is closed whatever happens
                guard.wire.gone = True
            await asyncio.sleep(0)
    for _ in range(3):
        # Past every limit, in a guard that works: what the failure left behind must not stay.
        guard.clock.advance(LIMIT + 1)
        guard.own(guard.streams.tick)
        await asyncio.sleep(0)


def judged(guard: Guard, end: str, place: str) -> None:
    """What Envoy was told, frame by frame."""
    where = f"{end}, failed in {place}"
    let_go_on, ended = set(), set()
    for kind, flags, stream, payload in frames(guard.wire.sent):
        if kind == http2_frames.DATA and payload[5:] == HEADERS_PASS:
            let_go_on.add(stream)
        if kind == http2_frames.HEADERS and flags & http2_frames.END_STREAM:
            ended.add(stream)
            assert b"grpc-status\x010" not in payload, where
    assert let_go_on <= {GOES_ON}, f"let go on without a verdict: {where}"
    if not guard.wire.gone and end != "envoy resets":
        assert let_go_on <= ended, f"still open and unguarded: {where}"


@pytest.mark.parametrize(
    ("end", "error"),
    [
        *((end, PlantedError) for end in ENDS),
        *((end, asyncio.CancelledError) for end in ("no proof", "a refusal", "the guard is stopped")),
    ],
)
def test_a_failure_at_any_point_cuts_the_stream(end: str, error: type[BaseException]):
    guards: list[Guard] = []

    def run(sabotage: Sabotage) -> None:
        async def life() -> None:
            guards.append(Guard())
            await played(guards[-1], end, sabotage)

        asyncio.run(life())

    count = 0
    with structlog.testing.capture_logs():
        for place in every_point(run, streams, http2, messages, error=error):
            judged(guards.pop(), end, place)
            count += 1
    assert count > 200, "the guard's lines were not found"


def test_nothing_fails_and_the_stream_lives_until_its_end():
    """Else the others would hold whatever happens."""

    async def life() -> Guard:
        guard = Guard()
        for step in LIFE:
            step(guard)
            await asyncio.sleep(0)
        return guard

    guard = asyncio.run(life())
    kinds = [(kind, stream) for kind, _, stream, payload in frames(guard.wire.sent) if payload[5:] == HEADERS_PASS]
    assert kinds == [(http2_frames.DATA, GOES_ON)]
    assert not guard.wire.gone
    assert len(guard.streams) == 2
