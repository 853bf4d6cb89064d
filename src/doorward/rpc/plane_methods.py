"""What generated code registers with a gRPC server, as methods of ours.

    add_…Servicer_to_server(servicer, services) ─► services ─► methods_of(plane) ─► GrpcServer

A handler learns who calls from ``caller``. What it raises becomes a status: errors of ours go to the caller with their text; anything
else is a bug: it is logged, and the caller learns nothing.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, NoReturn

import grpc
import structlog
from google.protobuf.message import DecodeError

from doorward.errors import DoorwardError
from doorward.rpc.client import MESSAGE_LIMIT_BYTES
from doorward.rpc.grpc_methods import (
    FAILED_PRECONDITION,
    INTERNAL,
    INVALID_ARGUMENT,
    OK,
    PERMISSION_DENIED,
    UNAVAILABLE,
    CallEnded,
    Methods,
    Receive,
    Send,
    Stream,
    Unary,
)
from doorward.rpc.http2_frames import CallHeaders
from doorward.rpc.planes import UNDERSTOOD, Gateway, Plane, contract_of
from doorward.rpc.status import code_of

_SAFE_TEXT = "internal error"

caller: contextvars.ContextVar[Plane] = contextvars.ContextVar("caller")
"""The plane behind the call that is being served; not set when it is a gateway's, so that nothing takes one for a plane."""
calling_gateway: contextvars.ContextVar[Gateway | None] = contextvars.ContextVar("calling_gateway", default=None)
"""The gateway behind the call that is being served, if it is one's."""

_log = structlog.stdlib.get_logger(__name__)


class Services:
    """Takes the place of ``grpc.aio.Server`` where generated code registers servicers."""

    def __init__(self) -> None:
        self._handlers: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler[Any, Any]]) -> None:
        """Nothing: generated code registers the same methods by name."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Serve the methods of ``service``; the newest handler of a name counts."""
        self._handlers |= {f"/{service}/{name}": handler for name, handler in handlers.items()}

    def methods_of(self, plane: Plane | Gateway) -> Methods:
        """The methods, called by ``plane``, or by a gateway."""
        unary: dict[bytes, Unary] = {}
        streams: dict[bytes, Stream] = {}
        for method, handler in self._handlers.items():
            if handler.unary_unary is not None:
                unary[method.encode()] = _unary(handler, method, plane)
            else:
                streams[method.encode()] = _stream(handler, method, plane)

        def refused(headers: CallHeaders) -> CallEnded | None:
            return _misunderstood(headers, plane)

        return Methods(
            unary=unary,
            streams=streams,
            overloaded=_overloaded,
            refused=refused,
            message_limit_bytes=MESSAGE_LIMIT_BYTES,
        )


def refusing(named: str | None) -> Methods:
    """Methods for whoever shows the certificate of ``named`` and has no business here: each call is refused by name."""
    refusal = CallEnded(PERMISSION_DENIED, f"the certificate of the plane `{named}` is not accepted here")
    return Methods(unary={}, streams={}, overloaded=_overloaded, refused=lambda _: refusal)


class _Context:
    """What servicers of libraries use of gRPC's context, and what ours can do besides."""

    def __init__(self, write: Send | None = None) -> None:
        self._write = write

    async def abort(self, code: grpc.StatusCode, details: str = "") -> NoReturn:
        """End the call."""
        raise CallEnded(code.value[0], details)

    async def write(self, message: Any) -> None:
        """Send a message."""
        assert self._write is not None  # noqa: S101  # of streams alone
        await self._write(message.SerializeToString())

    def at_once(self, message: bytes) -> bool:
        """See ``Send.at_once``; past the stream's own iterator, which must be waiting for something to send."""
        return self._write is not None and self._write.at_once(message)


def _unary(handler: Any, method: str, plane: Plane | Gateway) -> Unary:
    behaviour, parse, serialize = handler.unary_unary, handler.request_deserializer, handler.response_serializer
    context = _Context()

    async def answer(message: bytes) -> bytes:
        _called_by(plane)
        try:
            return bytes(serialize(await behaviour(parse(message), context)))
        except Exception as error:
            raise _end_for(error, method) from error

    return answer


def _stream(handler: Any, method: str, plane: Plane | Gateway) -> Stream:
    parse, serialize = handler.request_deserializer, handler.response_serializer

    async def serve(receive: Receive, send: Send) -> int:
        _called_by(plane)

        async def requests() -> AsyncIterator[Any]:
            while (message := await receive()) is not None:
                yield parse(message)

        try:
            if handler.stream_stream is not None:
                # Closed at once when the caller goes away, so that what the handler holds is given back then.
                async with contextlib.aclosing(handler.stream_stream(requests(), _Context(send))) as responses:
                    async for response in responses:
                        await send(serialize(response))
            else:
                await handler.unary_stream(parse(await receive() or b""), _Context(send))
        except Exception as error:
            raise _end_for(error, method) from error
        raise CallEnded(OK)

    return serve


def _called_by(who: Plane | Gateway) -> None:
    if isinstance(who, Gateway):
        calling_gateway.set(who)
    else:
        caller.set(who)


def _end_for(error: Exception, method: str) -> CallEnded:
    if isinstance(error, CallEnded):
        return error
    if isinstance(error, DecodeError):
        return CallEnded(INVALID_ARGUMENT, "not a request of this method")
    if isinstance(error, DoorwardError):
        return CallEnded(code_of(error).value[0], str(error))
    _log.error(
        "a call failed",
        method=method,
        caller=str(calling_gateway.get() or caller.get(None)),
        error=str(error),
        exc_info=error,
    )
    return CallEnded(INTERNAL, _SAFE_TEXT)


def _misunderstood(headers: CallHeaders, plane: Plane | Gateway) -> CallEnded | None:
    """Why a caller of another version is not served, if it is not."""
    contract = contract_of(headers.user_agent.decode("latin-1"))
    if contract is None or contract in UNDERSTOOD:
        return None
    known = ", ".join(map(str, sorted(UNDERSTOOD)))
    _log.error("refused a caller of another version", caller=str(plane), contract=contract, understood=known)
    text = f"the caller speaks contract {contract}, and this plane understands {known}"
    return CallEnded(FAILED_PRECONDITION, text)


def _overloaded(_: bytes) -> bytes:
    raise CallEnded(UNAVAILABLE, "too many calls at once")
