"""Spans of the sign-in host's pages."""

import pytest
from tests.support.fake_clock import FakeClock

from doorward.telemetry.tracing import Span, Tracer
from doorward_authenticate.traced import Traced


class Page:
    def __init__(self, status: int | None) -> None:
        self.status = status

    async def __call__(self, scope: object, receive: object, send: object) -> None:
        del scope, receive
        if self.status is None:
            raise RuntimeError("broken")
        await send({"type": "http.response.start", "status": self.status, "headers": []})  # type: ignore[operator]


async def spans_of(path: str, status: int | None, method: str = "GET", *headers: tuple[bytes, bytes]) -> list[Span]:
    found: list[Span] = []
    traced = Traced(Page(status), Tracer(1.0, found.extend, FakeClock().now, lambda: 0.5))  # type: ignore[arg-type]

    async def send(_: object) -> None: ...

    scope = {"type": "http", "path": path, "method": method, "headers": list(headers), "query_string": b"code=secret"}
    try:
        await traced(scope, send, send)  # type: ignore[arg-type]  # nothing is received
    except RuntimeError:
        assert status is None
    return found


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/.doorward/sign_in", "begin sign-in"), ("/.doorward/sign_in/corp", "begin sign-in"),
        ("/.doorward/callback/corp", "finish sign-in"), ("/.doorward/sign_out", "sign out"), ("/", "page"),
        ("/.doorward/sign_in_secret", "page"), ("/token/secret", "page"),
    ],
)  # fmt: skip
async def test_a_page_is_named_by_what_it_is_for(path: str, name: str):
    (span,) = await spans_of(path, 302)
    assert span.name == name
    assert dict(span.attributes) == {"http.request.method": "GET", "http.response.status_code": "302"}
    assert "secret" not in str(span)


async def test_a_trace_goes_on_and_a_fault_is_one():
    parent = (b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    (span,) = await spans_of("/.doorward/sign_in", None, "BREW", parent)
    assert (span.trace_id, span.is_error) == ("4bf92f3577b34da6a3ce929d0e0e4736", True)
    assert span.attributes["http.request.method"] == "_OTHER"
    (span,) = await spans_of("/.doorward/sign_in", 200, "GET", parent, parent)
    assert span.parent_id == "", "two headers are none"
