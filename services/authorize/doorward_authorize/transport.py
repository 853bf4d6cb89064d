"""gRPC over h2corn, a server in Rust: the frames are taken off and put on here, and nothing else is done.

grpcio's own server costs several times what a decision does. Only what Envoy calls is served this way: ``Check`` (unary) and
``Process`` (both ways). A request that is not well-formed gRPC gets a non-OK status; Envoy answers 503 to that.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import h2corn
import structlog

CHECK_METHOD = "/envoy.service.auth.v3.Authorization/Check"
GUARD_METHOD = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
MESSAGE_LIMIT_BYTES = 4 * 1024 * 1024
_PREFIX_BYTES = 5
_INVALID_ARGUMENT = 3
_UNIMPLEMENTED = 12
_INTERNAL = 13
_STOP_SECONDS = 2.0
_HEADERS = [(b"content-type", b"application/grpc")]

Scope = dict[str, Any]
Message = dict[str, Any]
AsgiReceive = Callable[[], Awaitable[Message]]
AsgiSend = Callable[[Message], Awaitable[None]]

_log = structlog.stdlib.get_logger(__name__)


class CheckHandler(Protocol):
    """Answers checks."""

    async def check(self, data: bytes) -> bytes:
        """CheckRequest to CheckResponse, both serialized."""
        ...


class GuardHandler(Protocol):
    """Guards streams."""

    async def run(
        self, receive: Callable[[], Awaitable[bytes | None]], send: Callable[[bytes], Awaitable[None]]
    ) -> int:
        """Guard one stream and return the status to end it with, never 0."""
        ...


class MalformedError(Exception):
    """What was received is not well-formed gRPC."""


class GrpcApplication:
    """The ASGI application."""

    def __init__(self, checker: CheckHandler, guard: GuardHandler) -> None:
        self._checker = checker
        self._guard = guard

    async def __call__(self, scope: Scope, receive: AsgiReceive, send: AsgiSend) -> None:
        """Serve one call. Every way out sends a status, and a failure never sends 0."""
        if scope["type"] != "http":
            return
        path = scope["path"]
        if scope["method"] != "POST" or path not in {CHECK_METHOD, GUARD_METHOD}:
            await _finish(send, _UNIMPLEMENTED)
            return
        if path == CHECK_METHOD:
            await self._unary(receive, send)
        else:
            await self._stream(receive, send)

    async def _unary(self, receive: AsgiReceive, send: AsgiSend) -> None:
        try:
            answer = await self._checker.check(await _single_message(receive))
        except MalformedError:
            await _finish(send, _INVALID_ARGUMENT)
            return
        except Exception as error:
            _log.error("a call failed", error=str(error), exc_info=True)
            await _finish(send, _INTERNAL)
            return
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS, "trailers": True})
        await send({"type": "http.response.body", "body": frame(answer)})
        await send({"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]})

    async def _stream(self, receive: AsgiReceive, send: AsgiSend) -> None:
        frames = FrameReader()
        started = False

        async def next_message() -> bytes | None:
            while True:
                message = frames.next()
                if message is not None:
                    return message
                event = await receive()
                if event["type"] != "http.request":
                    return None
                frames.feed(event.get("body", b""))
                if not event.get("more_body", False):
                    return frames.next()

        async def answer(message: bytes) -> None:
            nonlocal started
            if not started:
                started = True
                await send({"type": "http.response.start", "status": 200, "headers": _HEADERS, "trailers": True})
            await send({"type": "http.response.body", "body": frame(message), "more_body": True})

        status = _INTERNAL
        try:
            status = await self._guard.run(next_message, answer) or _INTERNAL
        except MalformedError:
            status = _INVALID_ARGUMENT
        except asyncio.CancelledError:
            await _abort(send, started=started, status=_INTERNAL)
            raise
        await _abort(send, started=started, status=status)


class FrameReader:
    """Takes gRPC messages out of a stream of bytes (5-byte prefix: compressed flag, length)."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Add received bytes.

        Raises:
            MalformedError: more than one message's worth is waiting.
        """
        self._buffer += data
        if len(self._buffer) > 2 * MESSAGE_LIMIT_BYTES:
            raise MalformedError

    def next(self) -> bytes | None:
        """The next whole message, or ``None`` until more is received.

        Raises:
            MalformedError: a compressed message, or one that is too long.
        """
        if len(self._buffer) < _PREFIX_BYTES:
            return None
        length = int.from_bytes(self._buffer[1:_PREFIX_BYTES], "big")
        if self._buffer[0] != 0 or length > MESSAGE_LIMIT_BYTES:
            raise MalformedError
        end = _PREFIX_BYTES + length
        if len(self._buffer) < end:
            return None
        message = bytes(self._buffer[_PREFIX_BYTES:end])
        del self._buffer[:end]
        return message

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left."""
        return not self._buffer


def frame(message: bytes) -> bytes:
    """``message`` with gRPC's prefix, not compressed."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def check_server(application: GrpcApplication, socket: Path) -> h2corn.Server:
    """The server of ``application`` on a Unix socket."""
    socket.unlink(missing_ok=True)
    return h2corn.Server(
        application,  # type: ignore[arg-type]  # ASGI's types are looser than the server's
        h2corn.Config(
            bind=(f"unix:{socket}",),
            uds_permissions=0o600,
            grpc=True,
            access_log=False,
            lifespan="off",
            http1=False,
            max_concurrent_streams=10_000,
            timeout_keep_alive=0,
            h2_timeout_response_stall=0,
            timeout_graceful_shutdown=_STOP_SECONDS,
        ),
    )


async def _single_message(receive: AsgiReceive) -> bytes:
    """The one message of a unary call.

    Raises:
        MalformedError: none, several, one that is cut short, compressed or too long.
    """
    event = await receive()
    body = event.get("body", b"")
    if event["type"] == "http.request" and not event.get("more_body", False):
        # Nearly always all of it is there at once.
        if len(body) < _PREFIX_BYTES or body[0] != 0 or int.from_bytes(body[1:5], "big") != len(body) - _PREFIX_BYTES:
            raise MalformedError
        return bytes(body[_PREFIX_BYTES:])
    frames = FrameReader()
    while event["type"] == "http.request":
        frames.feed(event.get("body", b""))
        if not event.get("more_body", False):
            break
        event = await receive()
    message = frames.next()
    if message is None or not frames.is_empty:
        raise MalformedError
    return message


async def _finish(send: AsgiSend, status: int) -> None:
    """End a call that has not answered yet: status in the headers alone."""
    headers = [*_HEADERS, (b"grpc-status", b"%d" % status)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def _abort(send: AsgiSend, *, started: bool, status: int) -> None:
    """End a stream with a status that is not OK; the peer may be gone already."""
    try:
        if not started:
            await _finish(send, status)
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        await send({"type": "http.response.trailers", "headers": [(b"grpc-status", b"%d" % status)]})
    except Exception as error:
        # Nobody is left to tell; a stream whose connection broke has ended for Envoy too.
        _log.debug("could not end a stream in words", error=str(error))
