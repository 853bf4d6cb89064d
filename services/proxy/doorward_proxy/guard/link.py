"""The one call to authorize that speaks for all streams, kept up through every loss of an authorizer.

    next authorizer ─► first proof ─► name all streams ─► verdicts, proofs … ─► silent, ended, leaving ─► next authorizer

Concurrency: ``run`` is one task. Everything is sent from it and from the one that it starts for each call.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import structlog

from doorward.api.guard.v1.guard_pb2 import WatchStreamsRequest, WatchStreamsResponse
from doorward.api.guard.v1.guard_pb2_grpc import GuardServiceStub
from doorward.clock import Clock
from doorward.errors import DoorwardError, UnavailableError
from doorward.rpc.status import error_for, error_of
from doorward.telemetry.background import watched
from doorward_proxy.guard.metrics import GuardMetrics
from doorward_proxy.guard.streams import GuardedStream, Streams

STAMP_SECONDS = 0.25
SILENCE_SECONDS = 1.0
"""An authorizer that echoes no stamp for this long is given up for the next one; in time for the next one to say yes or no about
streams that opened when it fell silent (``streams.ANSWER_SECONDS``)."""
_OPENED_AT_ONCE = 500
_PAUSE_SECONDS = 0.05

if TYPE_CHECKING:
    from doorward.api.guard.v1.guard_pb2_grpc import GuardServiceAsyncStub

_log = structlog.stdlib.get_logger(__name__)


class AuthorizeLink:
    """Keeps ``streams`` vouched for by one of several authorizers."""

    def __init__(
        self, channels: Sequence[grpc.aio.Channel], streams: Streams, clock: Clock, metrics: GuardMetrics
    ) -> None:
        self._channels = list(channels)
        self._held: grpc.aio.Channel | None = None
        self._streams = streams
        self._clock = clock
        self._metrics = metrics
        self.up = asyncio.Event()
        """Set while an authorizer vouches."""

    def replace(self, channels: Sequence[grpc.aio.Channel]) -> None:
        """Go to these from now on; an authorizer that is none of them is left when it says its next word."""
        self._channels = list(channels)

    def holds(self, channel: grpc.aio.Channel) -> bool:
        """Whether ``channel`` is in use."""
        return channel is self._held

    async def run(self) -> None:
        """Hold a call to an authorizer until cancelled."""
        number = 0
        while True:
            try:
                self._held = self._channels[number % len(self._channels)]
                await self._hold(self._held)
            except (DoorwardError, TimeoutError) as error:
                if self.up.is_set():
                    self._metrics.lost.inc()
                    _log.warning("lost the authorizer that vouched for open streams", reason=str(error) or "silent")
            finally:
                self._held = None
                self.up.clear()
                self._streams.on_lost()
            number += 1
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _hold(self, channel: grpc.aio.Channel) -> None:
        """One call.

        Raises:
            DoorwardError: it has ended, or the authorizer is leaving.
            TimeoutError: it has gone silent.
        """
        outgoing: asyncio.Queue[WatchStreamsRequest] = asyncio.Queue()

        async def requests() -> AsyncIterator[WatchStreamsRequest]:
            while True:
                yield await outgoing.get()

        stub: GuardServiceAsyncStub = GuardServiceStub(channel)
        call = stub.WatchStreams(requests())
        outgoing.put_nowait(WatchStreamsRequest(stamp=self._stamp()))
        telling: asyncio.Task[None] | None = None
        try:
            proven_at = self._clock.monotonic()
            while True:
                silence = SILENCE_SECONDS - (self._clock.monotonic() - proven_at)
                message = await _next(call, max(silence, 0.001))
                for verdict in message.verdicts:
                    self._streams.on_verdict(
                        verdict.number,
                        allowed=verdict.allowed,
                        limit=verdict.limit_ms / 1000,
                        reason=verdict.reason,
                        unavailable=verdict.unavailable,
                    )
                if message.stamp:
                    proven_at = self._clock.monotonic()
                    self._streams.on_proof((message.stamp / 1e9) - (message.data_age_ms / 1e3))
                    if telling is None:
                        self._streams.name_all()
                        telling = watched(asyncio.create_task(self._tell(outgoing)), "telling of streams")
                        self.up.set()
                if telling is not None and telling.done():
                    raise UnavailableError("it is not told of streams any more")
                if message.leaving:
                    raise UnavailableError("it is leaving")
                if channel not in self._channels:
                    raise UnavailableError("it is none of our authorizers any more")
        finally:
            if telling is not None:
                telling.cancel()
            call.cancel()

    async def _tell(self, outgoing: asyncio.Queue[WatchStreamsRequest]) -> None:
        """Tell what has opened and closed, and ask for proof, until cancelled."""
        stamped = float("-inf")
        while True:
            closed, opened = self._streams.taken()
            for first in range(0, len(opened), _OPENED_AT_ONCE):
                outgoing.put_nowait(_message(closed, opened[first : first + _OPENED_AT_ONCE], self._stamp()))
                closed = []
                await asyncio.sleep(0)
            now = self._clock.monotonic()
            if closed or now - stamped >= STAMP_SECONDS:
                stamped = now
                outgoing.put_nowait(_message(closed, [], self._stamp()))
            await self._streams.wait_for_news(STAMP_SECONDS)

    def _stamp(self) -> int:
        return int(self._clock.monotonic() * 1e9)


def _message(closed: Sequence[int], opened: Sequence[GuardedStream], stamp: int) -> WatchStreamsRequest:
    return WatchStreamsRequest(
        closed=closed,
        opened=[WatchStreamsRequest.Open(number=stream.number, description=stream.description) for stream in opened],
        stamp=stamp,
    )


async def _next(
    call: grpc.aio.StreamStreamCall[WatchStreamsRequest, WatchStreamsResponse], seconds: float
) -> WatchStreamsResponse:
    """The next message.

    Raises:
        DoorwardError: the call has ended, for whatever reason.
        TimeoutError: nothing came in time.
    """
    try:
        async with asyncio.timeout(seconds):
            message = await call.read()
        if isinstance(message, WatchStreamsResponse):
            return message
        code, details = await call.code(), await call.details()
    except grpc.aio.AioRpcError as error:
        raise error_of(error) from error
    raise error_for(code, details)
