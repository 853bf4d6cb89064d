"""The guards' calls: each guard speaks for all its streams over one of them."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeAlias

import grpc.aio
import structlog

from doorward.api.guard.v1 import guard_pb2 as pb
from doorward.api.guard.v1 import guard_pb2_grpc
from doorward.errors import UnavailableError
from doorward.telemetry.background import watched
from doorward_authorize.guard.stream import StreamVerdict
from doorward_authorize.guard.watcher import SLICE, Watcher
from doorward_authorize.snapshot import Snapshot

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["GuardService"].full_name
_VERDICTS_AT_ONCE = 500

_log = structlog.stdlib.get_logger(__name__)

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class GuardServicer(guard_pb2_grpc.GuardServiceServicer):
    """See ``protos/doorward/api/guard/v1/guard.proto``."""

    def __init__(
        self, watcher: Watcher, data_age_seconds: Callable[[], float | None], count_failure: Callable[[], None]
    ) -> None:
        """``count_failure`` hears of changes that could not be looked at."""
        self._watcher = watcher
        self._count_failure = count_failure
        self._data_age = data_age_seconds
        self._links: set[_GuardLink] = set()
        self._leaving = False

    async def WatchStreams(
        self, request_iterator: AsyncIterator[pb.WatchStreamsRequest], context: _Context
    ) -> AsyncIterator[pb.WatchStreamsResponse]:
        """Decide and watch the streams that one guard names.

        Raises:
            UnavailableError: this authorizer cannot vouch for anything, or is leaving; the guard goes to another one.
        """
        del context
        if self._leaving or not self._watcher.can_vouch:
            raise UnavailableError("this authorizer does not vouch for streams now")
        link = _GuardLink()
        self._watcher.join(link)
        self._links.add(link)
        reading = watched(asyncio.create_task(self._read(request_iterator, link)), "reading what a guard says")
        try:
            while True:
                response = await link.next()
                yield response
                if response.leaving:
                    return
        finally:
            self._links.discard(link)
            self._watcher.leave(link)
            reading.cancel()
            # The call's own iterator is being read there; it must be let go before the call ends.
            await asyncio.gather(reading, return_exceptions=True)

    def on_record(self, record_type: str, record_id: str) -> None:
        """See ``Watcher.on_record``. Never raises."""
        with self._or_nothing_is_vouched_for():
            self._watcher.on_record(record_type, record_id)

    def on_snapshot(self, before: Snapshot, after: Snapshot) -> None:
        """See ``Watcher.on_snapshot``. Never raises."""
        with self._or_nothing_is_vouched_for():
            self._watcher.on_snapshot(before, after)

    @contextlib.contextmanager
    def _or_nothing_is_vouched_for(self) -> Iterator[None]:
        """Whoever tells of changes goes on, whatever comes of it here: one that could not be looked at must end every proof.

        The guards come again, and every stream is decided anew.
        """
        try:
            yield
        except Exception as error:
            _log.error("a change could not be looked at; all streams are decided anew", error=str(error), exc_info=True)
            self._count_failure()
            for link in self._links:
                link.fail()

    def drain(self) -> None:
        """Send every guard to another authorizer; their streams live on the proof that they have."""
        self._leaving = True
        for link in self._links:
            link.go()

    async def _read(self, requests: AsyncIterator[pb.WatchStreamsRequest], link: "_GuardLink") -> None:
        try:
            async for request in requests:
                for number in request.closed:
                    self._watcher.close(link, number)
                for position, opened in enumerate(request.opened):
                    if position and position % SLICE == 0:
                        await asyncio.sleep(0)
                    self._watcher.open(link, opened.number, opened.description)
                if request.stamp:
                    # A proof says that everything known is decided: first what is in doubt, then the stamp. It is as old as the data
                    # were before that; what has arrived meanwhile may be in doubt still.
                    age = self._data_age()
                    await self._watcher.settle()
                    if age is not None:
                        link.echo(request.stamp, age)
        finally:
            link.fail()


class _GuardLink:
    """One guard's call: what is to be said, in order. Implements ``Watching``."""

    def __init__(self) -> None:
        self._queue: deque[StreamVerdict | tuple[int, float]] = deque()
        self._wake = asyncio.Event()
        self._going = False
        self._failed = False

    def say(self, verdict: StreamVerdict) -> None:
        """See ``Watching.say``."""
        self._queue.append(verdict)
        self._wake.set()

    def fail(self) -> None:
        """See ``Watching.fail``."""
        self._failed = True
        self._wake.set()

    def echo(self, stamp: int, age_seconds: float) -> None:
        """Echo a stamp after everything that was said before, with the age of the data that all this was decided by."""
        self._queue.append((stamp, age_seconds))
        self._wake.set()

    def go(self) -> None:
        """Say farewell."""
        self._going = True
        self._wake.set()

    async def next(self) -> pb.WatchStreamsResponse:
        """What to say next.

        Raises:
            UnavailableError: the call must end.
        """
        while not (self._queue or self._going or self._failed):
            self._wake.clear()
            await self._wake.wait()
        if self._failed:
            raise UnavailableError("this authorizer does not vouch for streams any more")
        response = pb.WatchStreamsResponse(leaving=self._going)
        while self._queue and len(response.verdicts) < _VERDICTS_AT_ONCE:
            item = self._queue.popleft()
            if isinstance(item, tuple):
                stamp, age = item
                response.stamp = stamp
                response.data_age_ms = int(age * 1000) + 1
                break
            response.verdicts.add(
                number=item.number,
                allowed=item.allowed,
                limit_ms=int(item.limit_seconds * 1000),
                reason=item.reason,
                unavailable=item.unavailable,
            )
        return response
