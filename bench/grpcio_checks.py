"""Our authorizer's own `Check` behind grpcio's asynchronous server: the same plane, another transport. Run by ``ext_authz.py``."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import grpc.aio

from doorward.config.endpoints import LocalEndpoints
from doorward.rpc.grpc_methods import Methods
from doorward.runtime import neighbours
from doorward.runtime.service import ServeOptions
from doorward_authorize import main as plane


class GrpcioServer:
    """What `GrpcServer` is to the plane, on grpcio."""

    def __init__(self, methods: Methods | Callable[[asyncio.BaseTransport], Methods], **_: object) -> None:
        # Over a socket of our own nobody shows a certificate, so everybody gets the same.
        methods = methods if isinstance(methods, Methods) else methods(asyncio.BaseTransport())
        self.connections: set[object] = set()
        self._server = grpc.aio.server(options=[("grpc.max_concurrent_streams", 10_000)])
        self._server.add_generic_rpc_handlers((_Handlers(methods),))

    async def listen_unix(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._server.add_insecure_port(f"unix:{path}")
        await self._server.start()

    async def drain(self, grace_seconds: float) -> None:
        await self._server.stop(grace_seconds)


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, methods: Methods) -> None:
        self._methods = methods

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        handler = self._methods.unary.get(details.method.encode())
        if handler is None:
            return None

        async def answer(request: bytes, context: object) -> bytes:  # noqa: ARG001  # grpcio passes it
            result = handler(request)
            return result if isinstance(result, bytes) else await result

        return grpc.unary_unary_rpc_method_handler(answer)


class BesideEndpoints(LocalEndpoints):
    """The deployment's endpoints, with sockets of our own for what we serve ourselves."""

    @property
    def authorize(self) -> Path:
        return self._socket("authorize.grpcio.sock")

    def check(self, worker: int) -> Path:
        return self._socket(f"check.grpcio.{worker}.sock")


if __name__ == "__main__":
    config, data, run_dir = map(Path, sys.argv[1:])
    plane.GrpcServer = GrpcioServer
    neighbours.LocalEndpoints = BesideEndpoints
    sys.exit(plane.run(ServeOptions(plane="authorize", config_path=config, data_dir=data, run_dir=run_dir, worker=9)))
