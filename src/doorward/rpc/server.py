"""Serving gRPC to other planes, on Unix sockets or over TCP.

Who calls is said by the socket on which a call comes in (one for each calling plane, in a folder of mode 0700), or by the
certificate that the caller has shown. Nothing above this module notices the difference.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import os
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from doorward.config.endpoints import Address
from doorward.errors import ConfigurationError, DoorwardError, PermissionDeniedError
from doorward.keys.plane_authority import plane_of_uris
from doorward.rpc.client import MESSAGE_LIMIT_BYTES
from doorward.rpc.credentials import PlaneIdentity
from doorward.rpc.planes import UNDERSTOOD, Plane, contract_of
from doorward.rpc.status import code_of
from doorward.rpc.tls_listener import HANDSHAKE_SECONDS

T = TypeVar("T")
Register = Callable[[grpc.aio.Server], None]
FindCaller: TypeAlias = "Callable[[grpc.aio.ServicerContext[Any, Any]], Plane]"

_OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.max_concurrent_streams", 10_000),
    ("grpc.so_reuseport", 0),
    # Callers behind a partition are given up; their pings are welcome however often they come.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
    # Two minutes by default, for anybody who connects and says nothing.
    ("grpc.server_handshake_timeout_ms", int(HANDSHAKE_SECONDS * 1000)),
]
SOCKET_PATH_LIMIT = 107
"""Bytes of a Unix socket's address on Linux (``sun_path`` without its end mark)."""
_SAFE_TEXT = "internal error"
_SUBJECT_NAMES = "x509_subject_alternative_name"
"""gRPC's name for all subject alternative names of the verified peer, URIs among them."""

caller: contextvars.ContextVar[Plane] = contextvars.ContextVar("caller")
"""The plane behind the call that is being served."""

_log = structlog.stdlib.get_logger(__name__)


class PlaneServer:
    """A gRPC server at one place.

    On a Unix socket ``callers`` is the one plane whose socket it is; at an address it is all planes that may call at all,
    and ``identity`` is ours.
    """

    def __init__(
        self,
        place: Path | Address,
        callers: Collection[Plane],
        register: Register,
        service_names: Sequence[str],
        identity: PlaneIdentity | None = None,
    ) -> None:
        self._place = place
        self._identity = identity
        if isinstance(place, Address):
            find: FindCaller = functools.partial(_caller_by_certificate, allowed=frozenset(callers))
        else:
            (plane,) = callers
            find = functools.partial(_caller_by_socket, plane=plane)
        self._server = grpc.aio.server(interceptors=[_Edge(find)], options=_OPTIONS)
        self._health = HealthServicer()
        self._service_names = tuple(service_names)
        register(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection([*service_names, reflection.SERVICE_NAME], self._server)

    async def start(self) -> None:
        """Listen. A socket file that an earlier process left is replaced.

        Raises:
            ConfigurationError: the address is taken, there is no certificate for it, the path is too long for a socket,
                or its folder is open to others.
        """
        try:
            if isinstance(self._place, Address):
                if self._identity is None:
                    raise ConfigurationError([f"{self._place}: error: no certificate to listen with"])
                self._server.add_secure_port(str(self._place), self._identity.server_credentials())
            else:
                check_socket_path(self._place)
                self._place.unlink(missing_ok=True)
                self._server.add_insecure_port(f"unix:{self._place}")
        except RuntimeError as error:
            raise ConfigurationError([f"{self._place}: error: cannot listen there: {error}"]) from error
        await self._server.start()
        if isinstance(self._place, Path):
            self._place.chmod(0o600)
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


async def start_all(servers: Sequence[PlaneServer]) -> None:
    """Start every server."""
    for server in servers:
        await server.start()


async def stop_all(servers: Sequence[PlaneServer], grace_seconds: float) -> None:
    """Stop every server at once."""
    await asyncio.gather(*(server.stop(grace_seconds) for server in servers))


def _caller_by_socket(_: grpc.aio.ServicerContext[Any, Any], *, plane: Plane) -> Plane:
    return plane


def _caller_by_certificate(context: grpc.aio.ServicerContext[Any, Any], *, allowed: frozenset[Plane]) -> Plane:
    """The plane that the caller's verified certificate names.

    Raises:
        PermissionDeniedError: it names none, several, one that we do not know, or one that has no business here.
    """
    names = context.auth_context().get(_SUBJECT_NAMES, ())
    named = plane_of_uris([bytes(name).decode("utf-8", "replace") for name in names])
    if named not in allowed:
        _log.warning("refused a caller", peer=context.peer(), plane=named)
        raise PermissionDeniedError(f"the certificate of the plane `{named}` is not accepted here")
    return Plane(named)


class _Edge(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Names the caller, and turns what a handler raises into a status.

    Errors of ours go to the caller with their text; anything else is a bug: it is logged, and the caller learns nothing.
    """

    def __init__(self, find_caller: FindCaller) -> None:
        self._find_caller = find_caller

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return None  # unimplemented: gRPC answers
        method = handler_call_details.method
        agent = dict(handler_call_details.invocation_metadata or ()).get("user-agent", "")
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(
                self._unary(handler.unary_unary, method, str(agent)),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(
                self._stream(handler.stream_stream, method, str(agent)),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        return handler  # health watching and the like carry no rights

    def _unary(self, behaviour: Any, method: str, agent: str) -> Any:
        async def run(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            try:
                self._admit(context, agent)
                return await behaviour(request, context)
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await self._abort(error, context, method)

        return run

    def _stream(self, behaviour: Any, method: str, agent: str) -> Any:
        async def run(requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            try:
                self._admit(context, agent)
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

    def _admit(self, context: grpc.aio.ServicerContext[Any, Any], agent: str) -> None:
        """Learn who calls.

        Raises:
            PermissionDeniedError: somebody who may not.
            ConfigurationError: a plane of a version that we do not understand.
        """
        plane = self._find_caller(context)
        contract = contract_of(agent)
        if contract is not None and contract not in UNDERSTOOD:
            known = ", ".join(map(str, sorted(UNDERSTOOD)))
            _log.error("refused a caller of another version", caller=str(plane), contract=contract, understood=known)
            raise ConfigurationError([f"the caller speaks contract {contract}, and this plane understands {known}"])
        caller.set(plane)

    async def _abort(self, error: Exception, context: grpc.aio.ServicerContext[Any, Any], method: str) -> None:
        code = code_of(error)
        if isinstance(error, DoorwardError):
            await context.abort(code, str(error))
        _log.error("a call failed", method=method, caller=str(caller.get(None)), error=str(error), exc_info=error)
        await context.abort(code, _SAFE_TEXT)
