"""Serving gRPC to other planes, on Unix sockets or over TCP.

Who calls is said by the socket on which a call comes in (one for each calling plane, in a folder of mode 0700), or by the
certificate that the caller has shown. Nothing above this module notices the difference.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import cast

import grpc.aio
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer

from doorward.config.endpoints import Address
from doorward.errors import ConfigurationError
from doorward.rpc.credentials import PlaneIdentity
from doorward.rpc.grpc_methods import Methods
from doorward.rpc.grpc_server import GrpcServer
from doorward.rpc.plane_listener import listen, plane_behind
from doorward.rpc.plane_methods import Services, caller, refusing
from doorward.rpc.planes import Gateway, Plane, gateway_named

__all__ = ["PlaneServer", "Register", "caller", "check_socket_path", "start_all", "stop_all"]

Register = Callable[[grpc.aio.Server], None]
"""Registers servicers as generated code does, which knows no other server than this one."""

SOCKET_PATH_LIMIT = 107
"""Bytes of a Unix socket's address on Linux (``sun_path`` without its end mark)."""
_IDLE_SECONDS, _PROBE_SECONDS, _PROBES = 10, 1, 3
"""A peer behind a partition sends no reset. Silent for ten seconds, it is asked; without an answer to three it is given up."""

_log = structlog.stdlib.get_logger(__name__)


class PlaneServer:
    """A gRPC server at one place.

    On a Unix socket ``callers`` is the one plane whose socket it is; at an address it is all planes that may call at all,
    and ``identity`` is ours. ``for_gateways`` says there what a gateway is served; without it, no gateway is served anything.
    """

    def __init__(
        self,
        place: Path | Address,
        callers: Collection[Plane],
        register: Register,
        service_names: Sequence[str],
        identity: PlaneIdentity | None = None,
        for_gateways: Callable[[Gateway], Methods] | None = None,
    ) -> None:
        self._place = place
        self._for_gateways = for_gateways
        self._identity = identity
        self._health = HealthServicer()
        self._service_names = tuple(service_names)
        services = Services()
        server = cast("grpc.aio.Server", services)
        register(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = [*service_names, reflection.SERVICE_NAME]
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(ReflectionServicer(names), server)
        self._methods: dict[str, Methods] = {str(plane): services.methods_of(plane) for plane in callers}
        self._server: GrpcServer | None = None

    async def start(self) -> None:
        """Listen. A socket file that an earlier process left is replaced.

        Raises:
            ConfigurationError: the address is taken, there is no certificate for it, the path is too long for a socket,
                or its folder is open to others.
        """
        if isinstance(self._place, Address):
            server = GrpcServer(self._by_certificate)
        else:
            check_socket_path(self._place)
            (methods,) = self._methods.values()
            server = GrpcServer(methods)
        try:
            await listen(server, self._place, self._identity)
        except OSError as error:
            raise ConfigurationError([f"{self._place}: error: cannot listen there: {error.strerror}"]) from error
        self._server = server
        await self.set_serving(serving=True)

    def _by_certificate(self, transport: asyncio.BaseTransport) -> Methods:
        """What is served to whoever shows this certificate; to most of them nothing, and they are told."""
        connection = transport.get_extra_info("socket")
        for option, value in (
            (socket.TCP_KEEPIDLE, _IDLE_SECONDS),
            (socket.TCP_KEEPINTVL, _PROBE_SECONDS),
            (socket.TCP_KEEPCNT, _PROBES),
            (socket.TCP_USER_TIMEOUT, (_IDLE_SECONDS + _PROBE_SECONDS * _PROBES) * 1000),
        ):
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        named = plane_behind(transport)
        gateway = gateway_named(named)
        if gateway is not None and self._for_gateways is not None:
            return self._for_gateways(gateway)
        methods = self._methods.get(named or "")
        if methods is None:
            _log.warning("refused a caller", peer=transport.get_extra_info("peername"), plane=named)
            return refusing(named)
        return methods

    async def set_serving(self, *, serving: bool) -> None:
        """Say over the health service whether this plane can do its work; calls are answered either way."""
        states = health_pb2.HealthCheckResponse
        for name in ("", *self._service_names):
            await self._health.set(name, states.SERVING if serving else states.NOT_SERVING)

    async def stop(self, grace_seconds: float) -> None:
        """Refuse new calls, give running ones ``grace_seconds``, then cancel them."""
        await self._health.enter_graceful_shutdown()
        if self._server is not None:
            await self._server.drain(grace_seconds)


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
