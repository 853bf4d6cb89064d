"""The proxy plane with its real Envoy, around an authorizer that the test controls.

`running_proxy(settings)` starts the same parts as the plane's own process does. `FakeAuthorizer` allows everything (or
what the test says), records every CheckRequest, and answers as authorize's status service; `EchoUpstream` tells what it
received, byte for byte. Everything is on free ports and in temporary folders, and ends with the context.
"""

import asyncio
import base64
import contextlib
import dataclasses
import json
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import h2corn
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from tests.support.deployment import free_port

from doorward.api.guard.v1 import guard_pb2, guard_pb2_grpc
from doorward.api.process.v1 import process_pb2
from doorward.config.endpoints import LocalEndpoints
from doorward.config.settings import Address, DecisionLogSettings, RoutePolicy, Settings, StalenessLimits, TlsSettings
from doorward.envoy_api.envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from doorward.envoy_api.envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc
from doorward.keys.store import create_missing_keys
from doorward.policy import Policy, parse_policy
from doorward.route.internal import METADATA_STREAM
from doorward.route.route import Match, MatchKind, Route, Upstream, unnamed_route_id
from doorward.runtime.service import ServeOptions
from doorward.source import Position, Problems
from doorward.source import Sequence as SequenceNode
from doorward_proxy.envoy.binary import find_envoy
from doorward_proxy.main import ProxyPlane

SIGN_IN_HOST = "authenticate.localhost"
READY_SECONDS = 20.0


def nobody() -> Policy:
    """A policy without rules; the proxy plane does not read policies."""
    return parse_policy(SequenceNode((), Position("test", 1, 1)), Problems())


def route(
    host: str = "app.localhost",
    match: str = "/",
    *,
    to: Sequence[tuple[str, str, int]] = (("http", "127.0.0.1", 9),),
    exact: bool = False,
    tunnel: bool = False,
    **fields: object,
) -> RoutePolicy:
    """A route with its id as the configuration would give it."""
    kind = MatchKind.TCP if tunnel else MatchKind.PATH if exact else MatchKind.PREFIX
    matching = Match(kind=kind, value=match)
    upstreams = tuple(Upstream(scheme=scheme, host=name, port=port) for scheme, name, port in to)
    values: dict[str, object] = {
        "id": unnamed_route_id(host, 443, matching),
        "name": f"{host}{match}",
        "host": host,
        "port": 443,
        "match": matching,
        "upstreams": upstreams,
        **fields,
    }
    return RoutePolicy(route=Route(**values), policy=nobody())  # type: ignore[arg-type]


def settings_of(*routes: RoutePolicy, generation: str = "g1", port: int = 10443, **fields: object) -> Settings:
    """Settings around these routes."""
    values: dict[str, object] = {
        "generation": generation,
        "listen": Address(host="127.0.0.1", port=port),
        "authenticate_host": SIGN_IN_HOST,
        "authenticate_port": 443,
        "tls": TlsSettings(certificate_file=None, key_file=None),
        "redis": None,
        "identity_providers": (),
        "session_lifetime_seconds": 3600.0,
        "staleness": StalenessLimits(sensitive=5.0, default=5.0),
        "decision_log": DecisionLogSettings(),
        "envoy_path": None,
        "envoy_concurrency": 1,
        "max_streams": 1000,
        "trusted_hops": 0,
        "routes": routes,
        **fields,
    }
    return Settings(**values)  # type: ignore[arg-type]


@dataclass
class FakeAuthorizer(
    external_auth_pb2_grpc.AuthorizationServicer,
    guard_pb2_grpc.GuardServiceServicer,
):
    """Decides as told, and remembers what it was asked. Speaks all of authorize's protocols on its sockets."""

    generation: str = "g1"
    checks: list[external_auth_pb2.CheckRequest] = field(default_factory=list)
    guarded: list[str] = field(default_factory=list)
    added: list[tuple[str, str]] = field(default_factory=list)
    """Headers that an allow sets."""
    allow: Callable[[external_auth_pb2.CheckRequest], bool] = lambda _: True
    guard_ends: asyncio.Event = field(default_factory=asyncio.Event)
    """Set: every guarded stream is cut."""

    async def Check(  # the contract's name
        self, request: external_auth_pb2.CheckRequest, context: object
    ) -> external_auth_pb2.CheckResponse:
        self.checks.append(request)
        if not self.allow(request):
            denied = external_auth_pb2.CheckResponse(status=Status(code=grpc.StatusCode.PERMISSION_DENIED.value[0]))
            denied.denied_response.status.code = 403  # type: ignore[assignment]
            denied.denied_response.headers.append(
                HeaderValueOption(
                    header=HeaderValue(key="set-cookie", value="__Host-doorward-flow-1=x; Path=/; Secure")
                )
            )
            return denied
        allowed = external_auth_pb2.CheckResponse(status=Status(code=0))
        allowed.ok_response.headers.extend(
            HeaderValueOption(header=HeaderValue(key=key, value=value)) for key, value in self.added
        )
        allowed.ok_response.headers_to_remove.append("x-doorward-client-address")
        context_extensions = request.attributes.context_extensions
        description = base64.b64encode(context_extensions["route"].encode()).decode()
        allowed.dynamic_metadata.update({METADATA_STREAM: description})
        return allowed

    async def WatchStreams(
        self, request_iterator: AsyncIterator[guard_pb2.WatchStreamsRequest], context: object
    ) -> AsyncIterator[guard_pb2.WatchStreamsResponse]:
        """Let every stream go on until ``guard_ends``."""
        open_streams: set[int] = set()
        said = asyncio.Queue[guard_pb2.WatchStreamsResponse]()

        async def read() -> None:
            async for message in request_iterator:
                open_streams.difference_update(message.closed)
                answer = guard_pb2.WatchStreamsResponse(stamp=message.stamp)
                for opened in message.opened:
                    self.guarded.append(opened.description.decode())
                    open_streams.add(opened.number)
                    answer.verdicts.add(number=opened.number, allowed=True, limit_ms=5000)
                said.put_nowait(answer)

        async def end() -> None:
            await self.guard_ends.wait()
            answer = guard_pb2.WatchStreamsResponse()
            for number in open_streams:
                answer.verdicts.add(number=number, allowed=False, reason="revoked")
            said.put_nowait(answer)

        tasks = [asyncio.create_task(read()), asyncio.create_task(end())]
        try:
            while True:
                yield await said.get()
        finally:
            for task in tasks:
                task.cancel()

    async def Report(self, request: process_pb2.ReportRequest, context: object) -> process_pb2.ReportResponse:
        """The databroker's answer to the proxy plane: everybody who decides runs the proxy's generation."""
        planes = ("authenticate", "authorize")
        found = [process_pb2.Process(plane=plane, id="a", generation=self.generation, ready=True) for plane in planes]
        return process_pb2.ReportResponse(processes=found)

    def _process_service(
        self,
    ) -> "grpc.GenericRpcHandler[process_pb2.ReportRequest, process_pb2.ReportResponse]":
        handler = grpc.unary_unary_rpc_method_handler(
            self.Report,
            request_deserializer=process_pb2.ReportRequest.FromString,
            response_serializer=process_pb2.ReportResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler("doorward.api.process.v1.ProcessService", {"Report": handler})

    def contexts(self) -> list[dict[str, str]]:
        """The context of every check so far."""
        return [dict(check.attributes.context_extensions) for check in self.checks]

    async def serve(self, endpoints: LocalEndpoints) -> list[grpc.aio.Server]:
        """Listen where Envoy and the publisher look for authorize."""
        servers = []
        for path in (endpoints.check(0), endpoints.authorize, endpoints.databroker("proxy")):
            path.unlink(missing_ok=True)
            server = grpc.aio.server()
            external_auth_pb2_grpc.add_AuthorizationServicer_to_server(self, server)
            guard_pb2_grpc.add_GuardServiceServicer_to_server(self, server)
            server.add_generic_rpc_handlers((self._process_service(),))
            health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(), server)
            server.add_insecure_port(f"unix:{path}")
            await server.start()
            servers.append(server)
        return servers


@dataclass
class EchoUpstream:
    """An HTTP server that answers with what it received: method, raw path, headers and body, as JSON."""

    port: int
    name: str = "echo"
    requests: list[dict[str, Any]] = field(default_factory=list)
    response_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    delay_seconds: float = 0.0

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.request":
                body += message.get("body", b"")
                if not message.get("more_body"):
                    break
            else:
                return
        headers = [(key.decode("latin-1"), value.decode("latin-1")) for key, value in scope["headers"]]
        seen = {
            "upstream": self.name,
            "method": scope["method"],
            "path": scope["raw_path"].decode("latin-1"),
            "query": scope["query_string"].decode("latin-1"),
            "headers": headers,
            "body": body.decode("latin-1"),
        }
        self.requests.append(seen)
        if self.delay_seconds:
            await asyncio.sleep(self.delay_seconds)
        start_headers = [(b"content-type", b"application/json"), *self.response_headers]
        await send({"type": "http.response.start", "status": 200, "headers": start_headers})
        await send({"type": "http.response.body", "body": json.dumps(seen).encode()})

    @asynccontextmanager
    async def running(self) -> AsyncIterator["EchoUpstream"]:
        """Serve on the loopback address."""
        config = h2corn.Config(
            bind=(f"127.0.0.1:{self.port}",),
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=0.2,
        )
        server = h2corn.Server(self, config)
        task = asyncio.create_task(server.serve())
        await server.wait_started()
        try:
            yield self
        finally:
            server.shutdown()
            await asyncio.wait({task})


@dataclass
class Raw:
    """The answer to bytes that were written by hand."""

    data: bytes

    @property
    def status(self) -> int:
        """Status of the first answer; 0 when the connection was closed without one."""
        parts = self.data.split(b" ", 2)
        return int(parts[1]) if self.data.startswith(b"HTTP/1.1 ") and len(parts) > 1 else 0

    @property
    def body(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[2]


@dataclass
class RunningProxy:
    """A proxy plane that serves."""

    plane: ProxyPlane
    settings: Settings
    authorizer: FakeAuthorizer
    authorizer_servers: list[grpc.aio.Server]
    endpoints: LocalEndpoints
    ca_file: Path

    @property
    def port(self) -> int:
        return self.settings.listen.port

    def tls(self, *protocols: str) -> ssl.SSLContext:
        """Trusts the deployment's own authority."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        context.set_alpn_protocols(list(protocols or ("http/1.1",)))
        return context

    async def raw(self, data: bytes, *, host: str = "app.localhost", wait: float = 5.0) -> Raw:
        """Send exactly ``data`` over TLS (HTTP/1.1) and read until the answer is complete or the connection ends."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.tls(), server_hostname=host)
        answer = b""
        try:
            writer.write(data)
            await writer.drain()
            with contextlib.suppress(TimeoutError, ConnectionError, ssl.SSLError):
                async with asyncio.timeout(wait):
                    while not _complete(answer) and (chunk := await reader.read(65536)):
                        answer += chunk
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError):
                await writer.wait_closed()
        return Raw(answer)

    async def get(self, path: str = "/", *, host: str = "app.localhost", method: str = "GET", headers: str = "") -> Raw:
        """A plain request; ``headers`` are lines that each end with CRLF."""
        text = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{headers}Connection: close\r\n\r\n"
        return await self.raw(text.encode("latin-1"), host=SIGN_IN_HOST)

    async def stop_authorizer(self) -> None:
        """Take authorize away."""
        for server in self.authorizer_servers:
            await server.stop(0)
        self.authorizer_servers = []

    async def publish(self, settings: Settings) -> None:
        """Publish and return once Envoy has taken it over."""
        self.settings = settings
        self.authorizer.generation = settings.generation
        self.plane.publisher.submit(settings)
        async with asyncio.timeout(READY_SECONDS):
            while self.plane.publisher.status.generation != settings.generation:
                await asyncio.sleep(0.01)
            await self.plane.discovery.wait_current()


def _complete(answer: bytes) -> bool:
    head, separator, body = answer.partition(b"\r\n\r\n")
    if not separator:
        return False
    lowered = head.lower()
    if b"\r\ntransfer-encoding: chunked" in lowered:
        return body.endswith(b"0\r\n\r\n")
    _, found, rest = lowered.partition(b"\r\ncontent-length:")
    return bool(found) and len(body) >= int(rest.split(b"\r\n", 1)[0])


@asynccontextmanager
async def running_proxy(settings: Settings, authorizer: FakeAuthorizer | None = None) -> AsyncIterator[RunningProxy]:
    """The proxy plane with Envoy, on a free port, until the context ends."""
    authorizer = authorizer or FakeAuthorizer()
    authorizer.generation = settings.generation
    settings = dataclasses.replace(settings, listen=Address(host="127.0.0.1", port=free_port()))
    with tempfile.TemporaryDirectory(prefix="dw-") as folder:
        data, run = Path(folder) / "data", Path(folder) / "run"
        for path in (data, run):
            path.mkdir(mode=0o700)
        create_missing_keys(data / "keys")
        options = ServeOptions(plane="proxy", config_path=Path(folder) / "none.yaml", data_dir=data, run_dir=run)
        endpoints = LocalEndpoints(run)
        servers = await authorizer.serve(endpoints)
        plane = ProxyPlane(options, settings, find_envoy(None))
        tasks: list[asyncio.Task[None]] = []
        proxy = RunningProxy(plane, settings, authorizer, servers, endpoints, data / "certificates" / "authority.crt")
        try:
            tasks = await plane.start()
            async with asyncio.timeout(READY_SECONDS):
                await plane.wait_ready()
            yield proxy
        finally:
            await plane.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await proxy.stop_authorizer()
