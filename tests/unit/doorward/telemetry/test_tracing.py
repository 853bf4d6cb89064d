"""Spans: whose trace they are part of, how many there may be, and what stands in them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.fake_clock import FakeClock

from doorward.telemetry.tracing import LIMIT, Parent, Span, Tracer, parse_traceparent, span_sender

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("text", "parent"),
    [
        (f"00-{TRACE}-{SPAN}-01", Parent(TRACE, SPAN, True)),
        (f"00-{TRACE}-{SPAN}-00", Parent(TRACE, SPAN, False)),
        (f"00-{TRACE}-{SPAN}-03", Parent(TRACE, SPAN, True)),
        (f"01-{TRACE}-{SPAN}-01-more", Parent(TRACE, SPAN, True)),
        (f"00-{TRACE}-{SPAN}-01-more", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{TRACE}-{SPAN}-01\n", None),
        (f"01-{TRACE}-{SPAN}-01-" + "x" * 300, None),
        ("", None),
        (None, None),
    ],
)
def test_only_a_traceparent_as_the_standard_has_it_counts(text: str | None, parent: Parent | None):
    assert parse_traceparent(text) == parent


@given(st.text(max_size=80))
def test_noise_is_nobodys_parent_and_no_error(text: str):
    assert parse_traceparent(text) is None


class Spans:
    def __init__(self, sample: float = 0.0, draw: float = 0.5) -> None:
        self.clock = FakeClock()
        self.found: list[Span] = []
        self.tracer = Tracer(sample, self.found.extend, self.clock.now, lambda: draw, lambda size: "a" * (2 * size))

    def record(self, traceparent: str | None = None) -> None:
        self.tracer.record("check", traceparent, 100, 90, {"k": "v"}, is_error=True)


def test_a_sampled_parent_is_joined_and_an_unsampled_one_is_left_alone():
    spans = Spans(sample=1.0)
    spans.record(f"00-{TRACE}-{SPAN}-00")
    assert spans.found == []
    spans.record(f"00-{TRACE}-{SPAN}-01")
    (span,) = spans.found
    assert (span.trace_id, span.parent_id, span.span_id) == (TRACE, SPAN, "a" * 16)
    assert (span.began_ns, span.ended_ns) == (100, 100), (
        "a clock that goes back makes no span that ends before it began"
    )


@pytest.mark.parametrize(("sample", "taken"), [(0.0, 0), (0.5, 0), (0.51, 1), (1.0, 1)])
def test_what_comes_without_a_parent_is_sampled(sample: float, taken: int):
    spans = Spans(sample=sample)
    spans.record()
    assert len(spans.found) == taken
    assert all(span.parent_id == "" and span.trace_id == "a" * 32 for span in spans.found)


def test_nobody_gets_more_spans_than_there_may_be():
    """Clients write the header: whoever could have every request traced could keep the collector busy."""
    spans = Spans()
    for _ in range(3 * LIMIT):
        spans.record(f"00-{TRACE}-{SPAN}-01")
    assert len(spans.found) == LIMIT
    spans.clock.advance(1)
    spans.record(f"00-{TRACE}-{SPAN}-01")
    assert len(spans.found) == LIMIT + 1


def test_a_span_is_worded_as_the_protocol_has_it():
    spans = Spans()
    spans.record(f"00-{TRACE}-{SPAN}-01")
    sender = span_sender("http://collector:4318", {"service.name": "a"}, lambda _: None)
    assert sender._body(spans.found) == {
        "resourceSpans": [
            {
                "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "a"}}]},
                "scopeSpans": [
                    {
                        "scope": {"name": "doorward"},
                        "spans": [
                            {
                                "traceId": TRACE,
                                "spanId": "a" * 16,
                                "parentSpanId": SPAN,
                                "name": "check",
                                "kind": 2,
                                "startTimeUnixNano": "100",
                                "endTimeUnixNano": "100",
                                "attributes": [{"key": "k", "value": {"stringValue": "v"}}],
                                "status": {"code": 2},
                            }
                        ],
                    }
                ],
            }
        ]
    }
