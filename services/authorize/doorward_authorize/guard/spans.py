"""Spans of guarded streams: that one was decided again when it opened, and how long it was watched here and why it ended.

Only for streams whose check was in a sampled trace; what bounds them is the tracer.
"""

from doorward.telemetry.tracing import Tracer
from doorward_authorize.guard.description import Description

CLOSED = "closed"
"""By itself: the client or the upstream has ended it, or its guard has, which says so in its own log."""
HANDED_OVER = "handed-over"
"""The guard's call has ended; it names its streams to the next authorizer, or is gone and they with it."""

_NANOSECONDS = 1e9


class StreamSpans:
    """Makes them, or with no tracer none. Times are seconds since the Unix epoch."""

    def __init__(self, tracer: Tracer | None = None) -> None:
        self._tracer = tracer

    def opened(self, described: Description, began: float, now: float, *, was_open: bool) -> None:
        """A stream that was named may go on; one that was open already has been told of before."""
        if not was_open:
            self._record("open stream", described, began, now, {"doorward.outcome": "allow"})

    def ended(self, described: Description, began: float, now: float, reason: str, *, was_open: bool) -> None:
        """A stream is watched no more, for ``reason``; one that was not open yet may not open."""
        if was_open:
            self._record("guarded stream", described, began, now, {"doorward.reason": reason})
        elif reason not in {CLOSED, HANDED_OVER}:
            refusal = {"doorward.outcome": "deny", "doorward.reason": reason}
            self._record("open stream", described, began, now, refusal)

    def _record(self, name: str, described: Description, began: float, now: float, more: dict[str, str]) -> None:
        if self._tracer is None or not described.traceparent:
            return
        attributes = {"doorward.decision_id": described.decision_id, "doorward.route": described.route, **more}
        self._tracer.record(name, described.traceparent, int(began * _NANOSECONDS), int(now * _NANOSECONDS), attributes)


NO_SPANS = StreamSpans()
