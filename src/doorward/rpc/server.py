"""Serving gRPC on Unix sockets, one socket for each calling plane.

Which socket a call comes in on says who calls; the sockets lie in a folder of mode 0700. With mutual TLS the plane's name
will come from the certificate instead, and nothing above this module will notice.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from doorward.errors import ConfigurationError, DoorwardError
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
SOCKET_PATH_LIMIT = 107
"""Bytes of a Unix socket's address on Linux (``sun_path`` without its end mark)."""
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
        """Listen. A socket file that an earlier process left is replaced.

        Raises:
            ConfigurationError: the path is too long for a socket, or its folder is open to others.
        """
        check_socket_path(self._path)
        self._path.unlink(missing_ok=True)
        try:
            self._server.add_insecure_port(f"unix:{self._path}")
        except RuntimeError as error:
            raise ConfigurationError([f"{self._path}: error: cannot listen there: {error}"]) from error
        await self._server.start()
        self._path.chmod(0o600)
        await self.set_serving(serving=True)

    async def set_serving(self, *, serving: bool) -> None:
        """Say over the health service whether this plane can do its work; calls are answered either way."""
        states = health_pb2.HealthCheckResponse
        for name in ("", *self._service_names):
            await self._health.set(name, states.SERVING if serving else states.NOT_SERVING)

    async def stop(self, grace_seconds: float) -> None:
        """Refuse new calls, give running ones ``grace_seconds``, then cancel them."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_seconds)


def check_socket_path(path: Path) -> None:
    """Refuse a path that cannot carry a private Unix socket.

    Raises:
        ConfigurationError: longer than the kernel allows, or in a folder that others may enter: the socket is what
            says who calls.
    """
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_LIMIT:
        raise ConfigurationError(
            [f"{path}: error: {length} bytes, and a socket's path has at most {SOCKET_PATH_LIMIT}"]
        )
    try:
        mode = path.parent.stat().st_mode
    except OSError as error:
        raise ConfigurationError([f"{path.parent}: error: no folder for sockets: {error.strerror}"]) from error
    if mode & 0o077:
        raise ConfigurationError([f"{path.parent}: error: others may enter the folder of the sockets (chmod 700)"])


async def start_all(servers: Sequence[SocketServer]) -> None:
    """Start every server."""
    for server in servers:
        await server.start()


async def stop_all(servers: Sequence[SocketServer], grace_seconds: float) -> None:
    """Stop every server at once."""
    await asyncio.gather(*(server.stop(grace_seconds) for server in servers))


class _Edge(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Names the caller, and turns what a handler raises into a status.

    Errors of ours go to the caller with their text; anything else is a bug: it is logged, and the caller learns nothing.
    """

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return None  # unimplemented: gRPC answers
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
        return handler  # health watching and the like carry no rights

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
                # Closed at once when the caller goes away, so that what the handler holds is given back then.
                async with contextlib.aclosing(result):
                    async for response in result:
                        yield response
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
