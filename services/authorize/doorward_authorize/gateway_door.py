"""Where other gateways ask: at the same addresses as our planes, by certificate; on one machine, each on a socket of its own.

A gateway is served all that is for it in one place: `Check`, and the services for programs. It is not served the guards' service.
"""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer

from doorward.config.settings import Settings
from doorward.errors import ConfigurationError
from doorward.rpc.grpc_methods import UNAVAILABLE, CallEnded, Methods
from doorward.rpc.grpc_server import GrpcServer
from doorward.rpc.plane_listener import plane_behind
from doorward.rpc.plane_methods import Services
from doorward.rpc.planes import Gateway, gateway_named
from doorward.rpc.server import Register, check_socket_path
from doorward_authorize.checker import Checker
from doorward_authorize.transport import CHECK_METHOD, HEALTH_METHOD, check_methods

_SERVED_BESIDE = tuple(method.split("/")[1] for method in (CHECK_METHOD, HEALTH_METHOD))
"""Services that are no servicer's here, and are on the door all the same."""
_log = structlog.stdlib.get_logger(__name__)


class GatewayDoor:
    """Serves gateways. Concurrency: belongs to one event loop."""

    def __init__(
        self, checker: Checker, is_serving: Callable[[], bool], register: Register, service_names: list[str]
    ) -> None:
        self._checker = checker
        self._is_serving = is_serving
        self._services = Services()
        register(self._services)  # type: ignore[arg-type]  # generated code knows no other server than grpcio's
        names = [*service_names, *_SERVED_BESIDE, reflection.SERVICE_NAME]
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(ReflectionServicer(names), self._services)
        self._sockets: dict[str, GrpcServer] = {}
        self._following = asyncio.Lock()

    def methods_of(self, gateway: Gateway) -> Methods:
        """Everything that is served to ``gateway``; what it may ask about is looked up at each question."""
        checks = check_methods(_ChecksOf(self._checker, gateway), self._is_serving)
        services = self._services.methods_of(gateway)
        return dataclasses.replace(
            services,
            unary={**services.unary, **checks.unary},
            joined=checks.joined,
            overloaded=self._overloaded,
            message_limit_bytes=checks.message_limit_bytes,
        )

    def _overloaded(self, _: bytes) -> bytes:
        """Whatever was asked: a CheckResponse would be no answer to the other questions."""
        self._checker.count_shed()
        raise CallEnded(UNAVAILABLE, "too many calls at once")

    def methods_behind(self, planes: Methods) -> Callable[[asyncio.BaseTransport], Methods]:
        """What is served to whoever has opened a connection: a gateway what is for it, a plane ``planes``."""

        def methods(transport: asyncio.BaseTransport) -> Methods:
            gateway = gateway_named(plane_behind(transport))
            return planes if gateway is None else self.methods_of(gateway)

        return methods

    async def follow(self, settings: Settings, path_of: Callable[[str], Path]) -> None:
        """Listen on a socket for each gateway in ``settings``, and on no other any more.

        One that cannot be listened on is reported, and is not there; it keeps nobody else from being served.
        """
        wanted = {item.name for item in settings.gateways}
        async with self._following:
            for name in self._sockets.keys() - wanted:
                path_of(name).unlink(missing_ok=True)
                await self._sockets.pop(name).drain(0)
            for name in sorted(wanted - self._sockets.keys()):
                server = GrpcServer(self.methods_of(Gateway(name)))
                try:
                    path = path_of(name)
                    check_socket_path(path)
                    await server.listen_unix(path)
                except (ConfigurationError, OSError) as error:
                    _log.error("no socket for a gateway", gateway=name, problem=str(error))
                    continue
                self._sockets[name] = server

    async def drain(self, grace_seconds: float) -> None:
        """Take no new calls, and end those that run after ``grace_seconds``."""
        await asyncio.gather(*(server.drain(grace_seconds) for server in self._sockets.values()))


class _ChecksOf:
    """The checks of one gateway. Implements ``CheckHandler``."""

    def __init__(self, checker: Checker, gateway: Gateway) -> None:
        self._checker = checker
        self._gateway = gateway

    def check(self, data: bytes, *, traceparent: bytes = b"") -> bytes | Awaitable[bytes]:
        """See ``CheckHandler``."""
        return self._checker.check(data, self._gateway, traceparent=traceparent)

    def overloaded(self, data: bytes) -> bytes:
        """See ``CheckHandler``."""
        return self._checker.overloaded(data)
