"""The stream guard: open streams are decided again whenever something that their decision read has changed.

Envoy opens one call for each guarded request and holds it as long as the request lives. The guard subscribes first, decides again, then
answers; from then on it waits. When access ends it ends the call with a status, and Envoy resets the request.

INVARIANT: the call never ends with status OK. To Envoy that would mean that nobody watches any more and all is well. ``run`` is the
one wrapper through which every return, exception and cancellation goes; the transport sends what it returns.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct

from doorward.clock import Clock
from doorward.envoy_api.envoy.service.ext_proc.v3.external_processor_pb2 import (
    HeadersResponse,
    ProcessingRequest,
    ProcessingResponse,
    TrailersResponse,
)
from doorward.identity import session as sessions
from doorward.identity import user as users
from doorward.policy import RequestFacts
from doorward.route.internal import METADATA_NAMESPACE
from doorward.route.paths import decoded_path
from doorward_authorize.evaluator import Evaluator
from doorward_authorize.metrics import AuthorizeMetrics
from doorward_authorize.outcome import Verdict
from doorward_authorize.principals import Principal, Principals

PERMISSION_DENIED = 7
UNAVAILABLE = 14
INTERNAL = 13
CANCELLED = 1
RECHECK_SECONDS = 1.0
"""Freshness has no event of its own, so every stream's right to go on is looked at this often."""

Receive = Callable[[], Awaitable[bytes | None]]
"""The next message of the call, or ``None`` when Envoy has ended it."""
Send = Callable[[bytes], Awaitable[None]]

_log = structlog.stdlib.get_logger(__name__)


@dataclass(eq=False, slots=True)
class GuardedStream:
    """One open request, as Check described it."""

    session_id: str
    user_id: str
    route: str
    digest: str
    facts: RequestFacts
    decision_id: str
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class Guard:
    """Watches over open streams. Concurrency: belongs to one event loop."""

    def __init__(
        self,
        evaluator: Evaluator,
        principals: Principals,
        is_fresh: Callable[[float], bool],
        clock: Clock,
        metrics: AuthorizeMetrics,
        touch: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._evaluator = evaluator
        self._principals = principals
        self._is_fresh = is_fresh
        self._clock = clock
        self._metrics = metrics
        self._touch = touch
        self._streams: set[GuardedStream] = set()
        self._by_record: dict[tuple[str, str], set[GuardedStream]] = {}
        self._draining = False

    def on_record(self, record_type: str, record_id: str) -> None:
        """A record has changed: wake the streams that read it, and no others."""
        for stream in self._by_record.get((record_type, record_id), ()):
            stream.wake.set()

    def on_snapshot(self) -> None:
        """The configuration has changed: every stream is decided again."""
        for stream in self._streams:
            stream.wake.set()

    def drain(self) -> None:
        """End every stream; this authorizer is going."""
        self._draining = True
        self.on_snapshot()

    async def tick(self) -> None:
        """Wake every stream now and then until cancelled, because time passes and data grow old."""
        while True:
            await asyncio.sleep(RECHECK_SECONDS)
            for stream in tuple(self._streams):
                if self._refusal(stream) is not None:
                    stream.wake.set()
                else:
                    self._count_as_use(stream)

    async def run(self, receive: Receive, send: Send) -> int:
        """Guard one stream; returns the gRPC status that ends the call, which is never 0. Raises nothing but cancellation."""
        try:
            return await self._guard(receive, send) or INTERNAL
        except asyncio.CancelledError:
            raise
        except DecodeError:
            return INTERNAL
        except Exception as error:
            # A bug here must end the stream, not leave it unguarded.
            _log.error("a guard failed and its stream is cut", error=str(error), exc_info=True)
            return INTERNAL

    async def _guard(self, receive: Receive, send: Send) -> int:
        first = await receive()
        if first is None:
            return CANCELLED
        request = ProcessingRequest.FromString(first)
        if not request.HasField("request_headers"):
            return INTERNAL
        stream = _stream_of(request)
        if stream is None:
            return PERMISSION_DENIED
        self._enter(stream)
        try:
            refusal = self._refusal(stream)
            if refusal is not None:
                return self._cut(stream, refusal)
            await send(ProcessingResponse(request_headers=HeadersResponse()).SerializeToString())
            return await self._watch(stream, receive, send)
        finally:
            self._leave(stream)

    async def _watch(self, stream: GuardedStream, receive: Receive, send: Send) -> int:
        incoming = asyncio.ensure_future(receive())
        waking = asyncio.ensure_future(stream.wake.wait())
        try:
            while True:
                await asyncio.wait({incoming, waking}, return_when=asyncio.FIRST_COMPLETED)
                if waking.done():
                    stream.wake.clear()
                    refusal = self._refusal(stream)
                    if refusal is not None:
                        return self._cut(stream, refusal)
                    waking = asyncio.ensure_future(stream.wake.wait())
                if incoming.done():
                    message = incoming.result()
                    if message is None:
                        return CANCELLED  # the request itself has ended
                    if ProcessingRequest.FromString(message).HasField("response_trailers"):
                        await send(ProcessingResponse(response_trailers=TrailersResponse()).SerializeToString())
                    incoming = asyncio.ensure_future(receive())
        finally:
            incoming.cancel()
            waking.cancel()

    def _refusal(self, stream: GuardedStream) -> str | None:
        """Why the stream must end, or ``None`` while it may go on."""
        if self._draining:
            return "authorizer-stopping"
        snapshot = self._evaluator.snapshot
        route = snapshot.routes.get(stream.route)
        if route is None or route.removed_at is not None or route.route.digest != stream.digest:
            return "route-changed"
        staleness = snapshot.settings.staleness
        if not self._is_fresh(staleness.sensitive if route.route.sensitive else staleness.default):
            return "data-stale"
        found = None
        if stream.session_id:
            found = self._principals.of_session(stream.session_id, snapshot.settings)
            if not isinstance(found, Principal) or found.user.id != stream.user_id:
                return "session-ended"
        outcome = self._evaluator.judge(found, stream.facts, route, (route.policy,))
        if outcome.verdict is not Verdict.ALLOW:
            return ",".join(outcome.reasons) or "denied"
        return None

    def _count_as_use(self, stream: GuardedStream) -> None:
        """An open stream is a use of its session, unless its route says otherwise."""
        route = self._evaluator.snapshot.routes.get(stream.route)
        if stream.session_id and route is not None and not route.route.idle_strict:
            self._touch(stream.session_id)

    def _cut(self, stream: GuardedStream, reason: str) -> int:
        self._metrics.streams_cut.inc()
        _log.info("a stream is cut", decision_id=stream.decision_id, route=stream.route, reason=reason)
        return UNAVAILABLE if self._draining else PERMISSION_DENIED

    def _enter(self, stream: GuardedStream) -> None:
        self._streams.add(stream)
        for key in _records_of(stream):
            self._by_record.setdefault(key, set()).add(stream)
        self._metrics.guarded_streams.set(len(self._streams))

    def _leave(self, stream: GuardedStream) -> None:
        self._streams.discard(stream)
        for key in _records_of(stream):
            streams = self._by_record.get(key)
            if streams is not None:
                streams.discard(stream)
                if not streams:
                    del self._by_record[key]
        self._metrics.guarded_streams.set(len(self._streams))


def _records_of(stream: GuardedStream) -> tuple[tuple[str, str], ...]:
    if not stream.session_id:
        return ()
    return (sessions.RECORD_TYPE, stream.session_id), (users.RECORD_TYPE, stream.user_id)


def _stream_of(request: ProcessingRequest) -> GuardedStream | None:
    """The stream that Check described; ``None`` when it did not, and so did not allow it."""
    metadata = request.metadata_context.filter_metadata.get(METADATA_NAMESPACE)
    if metadata is None:
        return None
    route, digest = _text(metadata, "route"), _text(metadata, "digest")
    path = decoded_path(_text(metadata, "path"))
    if not route or not digest or path is None:
        return None
    return GuardedStream(
        session_id=_text(metadata, "session_id"),
        user_id=_text(metadata, "user_id"),
        route=route,
        digest=digest,
        facts=RequestFacts(
            method=_text(metadata, "method"),
            host=_text(metadata, "host"),
            path=path,
            raw_path=_text(metadata, "path"),
            query=_text(metadata, "query"),
            client_address=_text(metadata, "client_address") or None,
        ),
        decision_id=_text(metadata, "decision_id"),
    )


def _text(metadata: Struct, name: str) -> str:
    value = metadata.fields.get(name)
    return value.string_value if value is not None else ""
