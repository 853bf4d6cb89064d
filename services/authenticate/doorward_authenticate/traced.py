"""A span for each request of the sign-in host's pages."""

import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from doorward.route.internal import CALLBACK_PATH, SIGN_IN_PATH, SIGN_OUT_PATH
from doorward.telemetry.tracing import Tracer

_NAMES = {SIGN_IN_PATH: "begin sign-in", CALLBACK_PATH: "finish sign-in", SIGN_OUT_PATH: "sign out"}


class Traced:
    """``app`` with spans. They carry neither queries nor cookies: a code or a state must not lie at a collector."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.time_ns(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            attributes = {"http.request.method": _method(scope), "http.response.status_code": str(status)}
            self._tracer.record(
                _name(str(scope["path"])),
                _traceparent(scope),
                began,
                time.time_ns(),
                attributes,
                is_error=status >= 500,
            )


def _name(path: str) -> str:
    """What the page is for; what clients make up names no span."""
    return next((name for prefix, name in _NAMES.items() if path == prefix or path.startswith(prefix + "/")), "page")


def _method(scope: Scope) -> str:
    method = str(scope["method"])
    return method if method in {"GET", "HEAD", "POST"} else "_OTHER"


def _traceparent(scope: Scope) -> str | None:
    headers: list[Any] = [value for name, value in scope["headers"] if name == b"traceparent"]
    return headers[0].decode("latin-1") if len(headers) == 1 else None
