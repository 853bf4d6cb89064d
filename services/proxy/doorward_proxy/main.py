"""The proxy plane as a process; the only place that builds its concrete parts."""

import asyncio
import gc
import ssl
from pathlib import Path

import grpc.aio
import structlog
from prometheus_client import CollectorRegistry

from doorward.api.process.v1.process_pb2 import Process
from doorward.clock import SystemClock
from doorward.config.apart import ConfigurationReader
from doorward.config.references import no_secret
from doorward.config.reload import watch_settings
from doorward.config.settings import Settings
from doorward.keys.flow import FlowSealer
from doorward.keys.local_authority import LocalAuthority
from doorward.keys.sealed import Sealer
from doorward.keys.store import KeyStore, Purpose
from doorward.rpc.credentials import PlaneCertificate
from doorward.rpc.planes import Plane
from doorward.runtime.neighbours import Neighbours
from doorward.runtime.parts import until_stopped
from doorward.runtime.reporter import Reporter
from doorward.runtime.service import ServeOptions, Stop, run_service
from doorward.telemetry.probes import ProbeServer
from doorward_proxy.certificates import Certificates
from doorward_proxy.deciders import ReportedDeciders
from doorward_proxy.endpoints.app import pages_app, pages_server
from doorward_proxy.endpoints.sessions import GrpcSessions
from doorward_proxy.envoy.admin import EnvoyAdmin
from doorward_proxy.envoy.binary import envoy_version, find_envoy, is_supported
from doorward_proxy.envoy.bootstrap import as_json, bootstrap
from doorward_proxy.envoy.figures import EnvoyFigures
from doorward_proxy.envoy.overload import overload_manager
from doorward_proxy.envoy.process import EnvoyCommand, EnvoyProcess, write_private
from doorward_proxy.envoy.validator import EnvoyValidator
from doorward_proxy.gate import admit_bootstrap
from doorward_proxy.guard.figures import GuardFigures
from doorward_proxy.guard.process import PLANE as GUARD
from doorward_proxy.guard.process import GuardProcess
from doorward_proxy.isolation import Isolation
from doorward_proxy.local_http import LocalHttp
from doorward_proxy.metrics import ProxyMetrics
from doorward_proxy.publisher import Publisher
from doorward_proxy.resources.build import SnapshotBuilder
from doorward_proxy.resources.surroundings import AUTHORIZE_CLUSTER, Surroundings
from doorward_proxy.xds.server import DiscoveryService, serve_discovery
from doorward_proxy.xds.snapshot import Snapshot
from doorward_proxy.xds.stream import Refusal

COLLECT_AFTER = (10_000, 1_000, 1_000)
"""When the collector looks for cycles: seldom, for a look at everything takes a second with ten thousand hosts."""
_COMMON_TRUST_STORE = "/etc/ssl/certs/ca-certificates.crt"

_AUTHORIZER_SECONDS = 5.0

_log = structlog.stdlib.get_logger(__name__)


def run(options: ServeOptions) -> int:
    """Run the plane until a signal ends it, and return the exit status."""
    return run_service(options, serve)


async def serve(options: ServeOptions, stop: Stop) -> None:
    """Serve until ``stop``: pages, discovery and Envoy; Envoy drains first."""
    gc.set_threshold(*COLLECT_AFTER)
    reader = ConfigurationReader(options.config_path, secrets=no_secret)
    settings = await reader.settings()
    binary = find_envoy(settings.envoy_path)
    await _check_version(binary)
    plane = ProxyPlane(options, settings, binary)

    async def on_change(changed: Settings) -> None:
        plane.change(changed)

    tasks: list[asyncio.Task[None]] = []
    probes = ProbeServer(plane.registry, lambda: stop.serving)
    try:
        await probes.start(options.health or plane.neighbours.local.probes(Plane.PROXY, options.worker))
        tasks += await plane.start()
        tasks.append(asyncio.create_task(watch_settings(reader, settings, on_change), name="reload"))
        await until_stopped(stop, tasks, _announce(plane, stop))
    finally:
        await plane.stop()
        await probes.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class ProxyPlane:
    """The concrete parts of one proxy plane, put together. Making it starts nothing."""

    def __init__(self, options: ServeOptions, settings: Settings, binary: Path) -> None:
        clock = SystemClock()
        self.neighbours = Neighbours(Plane.PROXY, options, settings.planes, clock)
        endpoints = self.neighbours.local
        self._endpoints = endpoints
        self._settings = settings
        self.registry = CollectorRegistry()
        self.metrics = ProxyMetrics(self.registry)
        surroundings = Surroundings(
            check_sockets=tuple(endpoints.check(number) for number in range(settings.authorize_workers)),
            guard_socket=endpoints.guard,
            pages_socket=endpoints.proxy_pages,
            authenticate_socket=endpoints.authenticate_pages,
            discovery_socket=endpoints.discovery,
            admin_socket=endpoints.envoy_admin,
            trust_store=Path(ssl.get_default_verify_paths().cafile or _COMMON_TRUST_STORE),
        )
        certificates = Certificates(LocalAuthority(options.data_dir / "certificates", clock))

        builder = SnapshotBuilder(surroundings)

        def build(wanted: Settings) -> Snapshot:
            wanted = self.neighbours.with_public(wanted)
            return builder.build(wanted, certificates.current(wanted), self._plane_certificate)

        self._channels = [self.neighbours.databroker(), self.neighbours.authenticate()]
        self._reporter = Reporter(self._channels[0], self._describe)
        self.discovery = DiscoveryService(self._on_refusal, self.metrics, self._on_taken_over)
        self.publisher = Publisher(
            build=build,
            discovery=self.discovery,
            deciders=ReportedDeciders(self._reporter),
            isolation=Isolation(build, EnvoyValidator(binary, options.run_dir)),
            clock=clock,
            metrics=self.metrics,
        )
        keys = KeyStore(options.keys_dir)
        self.neighbours.watch_keys(keys)
        app = pages_app(
            sessions=GrpcSessions(self._channels[1]),
            flows=FlowSealer(Sealer(keys.keyring(Purpose.FLOW))),
            published=keys.published(),
            clock=clock,
            metrics=self.metrics,
        )
        self._pages = pages_server(app, endpoints.proxy_pages)
        limits = overload_manager(max_heap_bytes=settings.max_heap_bytes, max_connections=settings.max_connections)
        self._bootstrap = bootstrap(surroundings, limits, node_id=f"doorward-proxy-{options.worker}")
        admit_bootstrap(self._bootstrap)
        self._bootstrap_file = options.run_dir / "envoy.json"
        command = EnvoyCommand(
            binary=binary, bootstrap_file=self._bootstrap_file, concurrency=settings.envoy_concurrency
        )
        admin = EnvoyAdmin(endpoints.envoy_admin)
        self.envoy = EnvoyProcess(command, admin, clock, self.metrics)
        self.figures = EnvoyFigures(admin, clock.monotonic)
        self.registry.register(self.figures)
        self.guard_figures = GuardFigures(LocalHttp(endpoints.probes(GUARD, 0), "the guard"))
        self.registry.register(self.guard_figures)
        # Workers on this machine are as many as there were at the start.
        self._beside = tuple(endpoints.authorize_of(number) for number in range(settings.authorize_workers))
        self._guard = GuardProcess(options, settings.planes.authorize_services or self._beside)
        if self.neighbours.identity is not None:
            # Envoy gets the new one as a secret: connections that are open go on.
            self.neighbours.identity.subscribe(lambda _: self.publisher.publish_again())
        self._discovery_server: grpc.aio.Server | None = None
        self._pages_task: asyncio.Task[None] | None = None

    @property
    def _plane_certificate(self) -> PlaneCertificate | None:
        identity = self.neighbours.identity
        return identity.current if identity is not None else None

    async def start(self) -> list[asyncio.Task[None]]:
        """Start everything and return the tasks that must go on running."""
        write_private(self._bootstrap_file, as_json(self._bootstrap))
        self._endpoints.envoy_admin.unlink(missing_ok=True)
        self._discovery_server = await serve_discovery(self.discovery, self._endpoints.discovery)
        self.publisher.submit(self._settings)
        await self._guard.start()
        self._pages_task = asyncio.create_task(self._pages.serve(), name="pages")
        return [
            self._pages_task,
            asyncio.create_task(self.publisher.run(), name="publisher"),
            asyncio.create_task(self._guard.run(), name="guard"),
            asyncio.create_task(self.envoy.run(), name="envoy"),
            asyncio.create_task(self.figures.run(), name="figures"),
            asyncio.create_task(self.guard_figures.run(), name="guard's figures"),
            asyncio.create_task(self.neighbours.run(), name="certificate"),
            asyncio.create_task(self._reporter.run(), name="report"),
        ]

    def change(self, settings: Settings) -> None:
        """Serve ``settings`` from now on."""
        self._guard.replace_authorizers(settings.planes.authorize_services or self._beside)
        self.publisher.submit(settings)

    async def wait_ready(self) -> None:
        """Return once Envoy serves the whole configuration."""
        await self._pages.wait_started()
        await self.discovery.wait_current()
        await self.envoy.wait_live()

    async def stop(self) -> None:
        """Drain and end Envoy, then everything that it needs. Idempotent."""
        await self.envoy.drain()
        await self._guard.stop()
        if self._discovery_server is not None:
            await self._discovery_server.stop(0.2)
        if self._pages_task is not None and not self._pages_task.done():
            self._pages.shutdown()
            await asyncio.wait({self._pages_task})
        for channel in self._channels:
            await channel.close(None)

    def _describe(self, process: Process) -> None:
        """What this plane reports: the generation that Envoy has taken over, not the one that waits."""
        process.generation = self.discovery.taken_over
        process.ready = self.envoy.pid is not None and bool(self.discovery.taken_over)
        process.fault = (self.publisher.status.fault or "")[:400]
        self.neighbours.describe(process)

    def _on_taken_over(self) -> None:
        self._reporter.soon()
        # What is served now stays for long; looking at ten thousand hosts for cycles would hold the next change up.
        gc.freeze()

    def _on_refusal(self, refusal: Refusal) -> None:
        self.publisher.on_refusal(refusal)


async def _announce(plane: ProxyPlane, stop: Stop) -> None:
    """Say that we serve: with an authorizer that Envoy takes for healthy, or without after a while, for then all are refused."""
    await plane.wait_ready()
    try:
        async with asyncio.timeout(_AUTHORIZER_SECONDS):
            await plane.envoy.wait_healthy(AUTHORIZE_CLUSTER)
    except TimeoutError:
        _log.warning("no authorizer is healthy; every request is refused until one is")
    stop.ready()


async def _check_version(binary: Path) -> None:
    version = await envoy_version(binary)
    text = ".".join(map(str, version))
    if is_supported(version):
        _log.info("envoy found", version=text)
    else:
        _log.warning("this version of envoy was not tried with this configuration", version=text)
