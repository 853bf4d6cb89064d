"""The streams and the proof that each may go on. No input or output: events come in, calls end or are answered.

    opened ──► waiting for a verdict ──► open, vouched for by the present authorizer
                  │ refused, late           │ refused: cut             │ authorizer lost
                  ▼                         ▼                          ▼
                ended                      cut ◄── no proof in time ── open on the proof that it had

A proof is a moment of our own clock: the newest at which an authorizer's data were shown to be fresh while it stood by
everything that it had said. A stream may go on until its proof is older than the limit of its route.

Concurrency: belongs to one event loop.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Iterator

import structlog

from doorward.clock import Clock
from doorward.envoy_api.envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest
from doorward.rpc.grpc_methods import INTERNAL, NOT_FOUND, PERMISSION_DENIED, UNAVAILABLE
from doorward_proxy.guard.http2 import Call
from doorward_proxy.guard.messages import HEADERS_PASS, TRAILERS_PASS, asks_for_trailers, description_of
from doorward_proxy.guard.metrics import GuardMetrics

ANSWER_SECONDS = 1.5
"""How long a new stream waits for its verdict; below what Envoy waits for us."""
TICK_SECONDS = 0.05
"""How late a cut may be."""
LOOK_SECONDS = 0.25
"""The longest that nothing is looked at; a stream that comes meanwhile may live longer without a word."""

_log = structlog.stdlib.get_logger(__name__)


class GuardedStream:
    """One open request of Envoy's."""

    __slots__ = ("call", "description", "limit", "number", "proven")

    def __init__(self, number: int, call: Call, description: bytes, proven: float) -> None:
        self.number = number
        self.call = call
        self.description = description
        self.limit = ANSWER_SECONDS
        """Seconds that a proof counts for this stream."""
        self.proven = proven
        """Monotonic time of its proof; for a stream that waits for its first verdict, of its beginning. Counts only
        while the present authorizer does not vouch for it."""


class Streams:
    """All guarded streams of one Envoy. Implements ``CallHandler``."""

    def __init__(self, clock: Clock, metrics: GuardMetrics, limit: int) -> None:
        self._clock = clock
        self._metrics = metrics
        self._most = limit
        self._numbers = itertools.count(1)
        self._by_call: dict[Call, GuardedStream] = {}
        self._vouched: dict[int, GuardedStream] = {}
        self._unvouched: dict[int, GuardedStream] = {}
        self._limits: dict[float, int] = {}
        """How many vouched streams have each limit."""
        self._proven = float("-inf")
        """Proof of every vouched stream."""
        self._opened: list[GuardedStream] = []
        self._closed: list[int] = []
        self._news = asyncio.Event()
        self._sooner = asyncio.Event()
        """Set when something may be due earlier than the last ``tick`` said."""
        self._stopping = False

    def __len__(self) -> int:
        return len(self._by_call)

    def __iter__(self) -> Iterator[GuardedStream]:
        return iter(self._by_call.values())

    # Envoy's side.

    def on_message(self, call: Call, message: bytes) -> None:
        """See ``CallHandler.on_message``."""
        request = ProcessingRequest.FromString(message)
        if call in self._by_call:
            if not call.answered:
                call.end(INTERNAL)  # Envoy waits for our answer before it says more
            elif asks_for_trailers(request):
                call.answer(TRAILERS_PASS)
            return
        description = description_of(request)
        if description is None:
            call.end(NOT_FOUND)  # nobody has decided: a host that is not configured, when hosts travel alone
        elif self._stopping or len(self._by_call) >= self._most:
            call.end(UNAVAILABLE)
        else:
            stream = GuardedStream(next(self._numbers), call, description, self._clock.monotonic())
            self._by_call[call] = stream
            self._unvouched[stream.number] = stream
            self._opened.append(stream)
            self._news.set()
            self._metrics.streams.set(len(self._by_call))

    def on_closed(self, call: Call) -> None:
        """See ``CallHandler.on_closed``."""
        stream = self._by_call.pop(call, None)
        if stream is None:
            return
        if self._vouched.pop(stream.number, None) is not None:
            self._forget_limit(stream.limit)
        self._unvouched.pop(stream.number, None)
        self._closed.append(stream.number)
        self._news.set()
        self._metrics.streams.set(len(self._by_call))

    # The authorizer's side.

    def taken(self) -> tuple[list[int], list[GuardedStream]]:
        """Numbers of the streams that have ended, and the streams to name, since the last time."""
        closed, self._closed = self._closed, []
        opened, self._opened = self._opened, []
        return closed, [stream for stream in opened if stream.call.open]

    async def wait_for_news(self, seconds: float) -> None:
        """Return when there is something to tell the authorizer, or after ``seconds``."""
        if not self._opened and not self._closed:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._news.wait()

    def name_all(self) -> None:
        """Tell everything anew: an authorizer that has just been reached knows nothing yet."""
        self._closed = []
        self._opened = list(self._by_call.values())

    def on_verdict(self, number: int, *, allowed: bool, limit: float, reason: str, unavailable: bool = False) -> None:
        """What the authorizer says about one stream; ``unavailable`` is a no to whoever asks, for now."""
        stream = self._vouched.get(number) or self._unvouched.get(number)
        if stream is None:
            return  # it has ended meanwhile
        if not allowed:
            self._cut(stream, reason, UNAVAILABLE if unavailable else PERMISSION_DENIED)
            return
        if self._unvouched.pop(number, None) is None:
            self._forget_limit(stream.limit)
        stream.limit = limit
        self._vouched[number] = stream
        if limit not in self._limits:
            self._sooner.set()
        self._limits[limit] = self._limits.get(limit, 0) + 1
        if not stream.call.answered:
            stream.call.answer(HEADERS_PASS)

    def on_proof(self, proven: float) -> None:
        """The authorizer stands by everything it has said, with data that were fresh at ``proven``."""
        self._proven = max(self._proven, proven)

    def on_lost(self) -> None:
        """Nobody vouches for anything now; what is open lives on the proof that it has."""
        for number, stream in self._vouched.items():
            stream.proven = self._proven
            self._unvouched[number] = stream
        self._vouched.clear()
        self._limits.clear()
        self._proven = float("-inf")

    # The clock's side.

    def tick(self) -> float:
        """Cut what has no proof that is new enough. Returns the seconds until something may be due again, proofs coming or not."""
        now = self._clock.monotonic()
        due = LOOK_SECONDS
        late = []
        for stream in self._unvouched.values():
            left = stream.limit - (now - stream.proven)
            if left <= 0:
                late.append(stream)
            elif left < due:
                due = left
        for stream in late:
            self._cut(stream, "unwatched" if stream.call.answered else "no-verdict", UNAVAILABLE)
        age = now - self._proven
        if self._limits and age >= min(self._limits):
            for stream in [item for item in self._vouched.values() if age >= item.limit]:
                self._cut(stream, "unproven", UNAVAILABLE)
        if self._limits:
            due = min(due, min(self._limits) - age)
        return max(due, TICK_SECONDS)

    async def keep(self) -> None:
        """Cut what is due, when it is due, until cancelled."""
        while True:
            self._sooner.clear()
            seconds = self.tick()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._sooner.wait()

    def stop(self) -> None:
        """Cut everything, and take nothing new: this guard is going."""
        self._stopping = True
        for stream in tuple(self._by_call.values()):
            self._cut(stream, "guard-stopping", UNAVAILABLE)

    def _cut(self, stream: GuardedStream, reason: str, status: int) -> None:
        self._metrics.cut.labels("denied" if status == PERMISSION_DENIED else reason).inc()
        _log.info("a stream is cut", stream=stream.number, reason=reason)
        stream.call.end(status)

    def _forget_limit(self, limit: float) -> None:
        left = self._limits.get(limit, 0) - 1
        if left > 0:
            self._limits[limit] = left
        else:
            self._limits.pop(limit, None)
