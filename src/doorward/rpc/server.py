"""Serving gRPC on Unix sockets, one socket for each calling plane.

Which socket a call comes in on says who calls; the sockets lie in a folder of mode 0700. With mutual TLS the plane's name
will come from the certificate instead, and nothing above this module will notice.
"""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from doorward.errors import DoorwardError
from doorward.rpc.client import MESSAGE_LIMIT_BYTES
from doorward.rpc.planes import Plane
from doorward.rpc.status import code_of

T = TypeVar("T")
Register = Callable[[grpc.aio.Server], None]

_OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.max_concurrent_streams", 10_000),
    ("grpc.so_reuseport", 0),
]
_SAFE_TEXT = "internal error"

caller: contextvars.ContextVar[Plane] = contextvars.ContextVar("caller")
"""The plane behind the call that is being served."""

_log = structlog.stdlib.get_logger(__name__)


class SocketServer:
    """A gRPC server on one socket, for one calling plane."""

    def __init__(self, path: Path, plane: Plane, register: Register, service_names: Sequence[str]) -> None:
        self._path = path
        self._server = grpc.aio.server(interceptors=[_Edge(plane)], options=_OPTIONS)
        self._health = HealthServicer()
        self._service_names = tuple(service_names)
        register(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection([*service_names, reflection.SERVICE_NAME], self._server)

    async def start(self) -> None:
        """Listen. A socket file that an earlier process left is replaced."""
        self._path.unlink(missing_ok=True)
        self._server.add_insecure_port(f"unix:{self._path}")
        await self._server.start()
        self._path.chmod(0o600)
        for name in ("", *self._service_names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace_seconds: float) -> None:
        """Refuse new calls, give running ones ``grace_seconds``, then cancel them."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_seconds)


async def start_all(servers: Sequence[SocketServer]) -> None:
    """Start every server."""
    for server in servers:
        await server.start()


async def stop_all(servers: Sequence[SocketServer], grace_seconds: float) -> None:
    """Stop every server at once."""
    await asyncio.gather(*(server.stop(grace_seconds) for server in servers))


class _Edge(grpc.aio.ServerInterceptor):
    """Names the caller, and turns what a handler raises into a status.

    Errors of ours go to the caller with their text; anything else is a bug: it is logged, and the caller learns nothing.
    """

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return handler  # type: ignore[no-any-return]  # unimplemented: gRPC answers
        method = handler_call_details.method
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(
                self._unary(handler.unary_unary, method),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(
                self._stream(handler.stream_stream, method),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        return handler  # type: ignore[no-any-return]  # health watching and the like carry no rights

    def _unary(self, behaviour: Any, method: str) -> Any:
        async def run(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            caller.set(self._plane)
            try:
                return await behaviour(request, context)
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await self._abort(error, context, method)

        return run

    def _stream(self, behaviour: Any, method: str) -> Any:
        async def run(requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            caller.set(self._plane)
            try:
                result = behaviour(requests, context)
                if hasattr(result, "__aiter__"):
                    async for response in result:
                        yield response
                else:
                    await result
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await self._abort(error, context, method)

        return run

    async def _abort(self, error: Exception, context: grpc.aio.ServicerContext[Any, Any], method: str) -> None:
        code = code_of(error)
        if isinstance(error, DoorwardError):
            await context.abort(code, str(error))
        _log.error("a call failed", method=method, caller=str(self._plane), error=str(error), exc_info=error)
        await context.abort(code, _SAFE_TEXT)
