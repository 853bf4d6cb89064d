"""Spans, joined to whoever sent a `traceparent` (W3C Trace Context, level 1): off unless configured, and sampled.

Clients write that header, so what it asks for is bounded: at most ``LIMIT`` spans a second, whoever wants them. Spans carry no
credentials, no paths and nothing about people.
"""

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from doorward.telemetry.otlp import OtlpSender, attribute

LIMIT = 200
"""Spans a second."""
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z", re.ASCII)
_SAMPLED = 1
_SERVER = 2
"""`SPAN_KIND_SERVER`."""
_ERROR = 2
"""`STATUS_CODE_ERROR`."""


@dataclass(frozen=True, slots=True)
class Parent:
    """What a `traceparent` says."""

    trace_id: str
    span_id: str
    is_sampled: bool

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.is_sampled:02d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Something that took time. Times are nanoseconds since the Unix epoch."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    """Empty for the first of a trace."""
    began_ns: int
    ended_ns: int
    attributes: Mapping[str, str]
    is_error: bool


def parse_traceparent(text: str | None) -> Parent | None:
    """The parent in a header; ``None`` when there is none that counts (section 3.2.2)."""
    match = _TRACEPARENT.match(text) if text is not None and len(text) <= 256 else None
    if match is None or match[1] == "ff" or (match[1] == "00" and match[5] is not None):
        return None
    if set(match[2]) == {"0"} or set(match[3]) == {"0"}:
        return None
    return Parent(match[2], match[3], bool(int(match[4], 16) & _SAMPLED))


class Tracer:
    """Decides what is sampled, and hands finished spans on. Concurrency: belongs to one event loop."""

    def __init__(
        self,
        sample: float,
        offer: Callable[[Sequence[Span]], None],
        now: Callable[[], float],
        random: Callable[[], float],
        new_id: Callable[[int], str] = secrets.token_hex,
    ) -> None:
        """``sample`` of what comes without a `traceparent` is traced, from 0 to 1."""
        self._sample = sample
        self._offer = offer
        self._now = now
        self._random = random
        self._new_id = new_id
        self._second = 0
        self._left = LIMIT

    def record(
        self,
        name: str,
        traceparent: str | None,
        began_ns: int,
        ended_ns: int,
        attributes: Mapping[str, str],
        *,
        is_error: bool = False,
    ) -> None:
        """Hand on a span, if it is one that is wanted."""
        parent = parse_traceparent(traceparent)
        if not (parent.is_sampled if parent is not None else self._random() < self._sample) or not self._is_within():
            return
        span = Span(
            name=name,
            trace_id=parent.trace_id if parent is not None else self._new_id(16),
            span_id=self._new_id(8),
            parent_id=parent.span_id if parent is not None else "",
            began_ns=began_ns,
            ended_ns=max(began_ns, ended_ns),
            attributes=attributes,
            is_error=is_error,
        )
        self._offer((span,))

    def _is_within(self) -> bool:
        second = int(self._now())
        if second != self._second:
            self._second, self._left = second, LIMIT
        self._left -= 1
        return self._left >= 0


def span_sender(endpoint: str, resource: Mapping[str, str], on_drop: Callable[[int], None]) -> OtlpSender[Span]:
    """Sends spans to ``/v1/traces`` of a collector."""
    described = [attribute(name, value) for name, value in resource.items()]

    def body(spans: Sequence[Span]) -> object:
        scope = {"scope": {"name": "doorward"}, "spans": [_span(span) for span in spans]}
        return {"resourceSpans": [{"resource": {"attributes": described}, "scopeSpans": [scope]}]}

    return OtlpSender(endpoint, "/v1/traces", body, on_drop)


def _span(span: Span) -> dict[str, object]:
    told: dict[str, object] = {
        "traceId": span.trace_id,
        "spanId": span.span_id,
        "name": span.name,
        "kind": _SERVER,
        "startTimeUnixNano": str(span.began_ns),
        "endTimeUnixNano": str(span.ended_ns),
        "attributes": [attribute(name, value) for name, value in span.attributes.items()],
    }
    if span.parent_id:
        told["parentSpanId"] = span.parent_id
    if span.is_error:
        told["status"] = {"code": _ERROR}
    return told
