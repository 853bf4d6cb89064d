"""The proxy plane as a process; the only place that builds its concrete parts."""

import asyncio
import contextlib
import ssl
from pathlib import Path

import grpc.aio
import structlog
from prometheus_client import CollectorRegistry

from doorward.clock import SystemClock
from doorward.config.endpoints import LocalEndpoints
from doorward.config.load import load_settings
from doorward.config.reload import watch_settings
from doorward.config.settings import Settings
from doorward.keys.flow import FlowSealer
from doorward.keys.local_authority import LocalAuthority
from doorward.keys.sealed import Sealer
from doorward.keys.store import KeyStore, Purpose
from doorward.runtime.service import ServeOptions, Stop, run_service
from doorward_proxy.authorize_status import GrpcAuthorizeStatus
from doorward_proxy.certificates import Certificates
from doorward_proxy.endpoints.app import pages_app, pages_server
from doorward_proxy.endpoints.sessions import GrpcSessions
from doorward_proxy.envoy.admin import EnvoyAdmin
from doorward_proxy.envoy.binary import envoy_version, find_envoy, is_supported
from doorward_proxy.envoy.bootstrap import as_json, bootstrap
from doorward_proxy.envoy.process import EnvoyCommand, EnvoyProcess, write_private
from doorward_proxy.envoy.validator import EnvoyValidator
from doorward_proxy.gate import admit_bootstrap
from doorward_proxy.isolation import Isolation
from doorward_proxy.metrics import ProxyMetrics
from doorward_proxy.publisher import Publisher
from doorward_proxy.resources.build import build_snapshot
from doorward_proxy.resources.surroundings import Surroundings
from doorward_proxy.xds.server import DiscoveryService, serve_discovery
from doorward_proxy.xds.snapshot import Snapshot

_COMMON_TRUST_STORE = "/etc/ssl/certs/ca-certificates.crt"
_RECONNECT = [
    # A plane that was restarted must be found again at once, not after gRPC's default of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.default_authority", "localhost"),
]

_log = structlog.stdlib.get_logger(__name__)


def run(options: ServeOptions) -> int:
    """Run the plane until a signal ends it, and return the exit status."""
    return run_service(options, serve)


async def serve(options: ServeOptions, stop: Stop) -> None:
    """Serve until ``stop``: pages, discovery and Envoy; Envoy drains first."""
    settings = load_settings(options.config_path)
    binary = find_envoy(settings.envoy_path)
    await _check_version(binary)
    endpoints = LocalEndpoints(options.run_dir)
    clock, metrics = SystemClock(), ProxyMetrics(CollectorRegistry())
    surroundings = Surroundings(
        check_sockets=(endpoints.check(0),),
        pages_socket=endpoints.proxy_pages,
        authenticate_socket=endpoints.authenticate_pages,
        discovery_socket=endpoints.discovery,
        admin_socket=endpoints.envoy_admin,
        trust_store=Path(ssl.get_default_verify_paths().cafile or _COMMON_TRUST_STORE),
    )
    certificates = Certificates(LocalAuthority(options.data_dir / "authority", clock))

    def build(wanted: Settings) -> Snapshot:
        return build_snapshot(wanted, certificates.current(wanted), surroundings)

    bootstrap_file = options.run_dir / "envoy.json"
    start = bootstrap(surroundings, node_id=f"doorward-proxy-{options.worker}")
    admit_bootstrap(start)
    write_private(bootstrap_file, as_json(start))
    endpoints.envoy_admin.unlink(missing_ok=True)
    keys = KeyStore(options.keys_dir)
    channels = [
        grpc.aio.insecure_channel(f"unix:{path}", options=_RECONNECT)
        for path in (endpoints.authorize, endpoints.authenticate)
    ]
    discovery = DiscoveryService(lambda refusal: publisher.on_refusal(refusal), metrics)
    publisher = Publisher(
        build=build,
        discovery=discovery,
        authorize=GrpcAuthorizeStatus(channels[0]),
        isolation=Isolation(build, EnvoyValidator(binary, options.run_dir)),
        clock=clock,
        metrics=metrics,
    )
    pages = pages_server(
        pages_app(
            sessions=GrpcSessions(channels[1]),
            flows=FlowSealer(Sealer(keys.keyring(Purpose.FLOW), Purpose.FLOW)),
            jwks=keys.assertion_jwks(),
            clock=clock,
            metrics=metrics,
        ),
        endpoints.proxy_pages,
    )
    command = EnvoyCommand(binary=binary, bootstrap_file=bootstrap_file, concurrency=settings.envoy_concurrency)
    envoy = EnvoyProcess(command, EnvoyAdmin(endpoints.envoy_admin), clock, metrics)

    async def on_change(changed: Settings) -> None:
        publisher.submit(changed)

    discovery_server = await serve_discovery(discovery, endpoints.discovery)
    publisher.submit(settings)
    tasks = [
        asyncio.create_task(pages.serve(), name="pages"),
        asyncio.create_task(publisher.run(), name="publisher"),
        asyncio.create_task(envoy.run(), name="envoy"),
        asyncio.create_task(watch_settings(options.config_path, settings, on_change), name="reload"),
    ]
    try:
        await _first_of(stop, [*tasks, asyncio.create_task(_announce(envoy, discovery, stop), name="start")])
    finally:
        await envoy.drain()
        pages.shutdown()
        await discovery_server.stop(0.2)
        for task in tasks:
            if task.get_name() != "pages":
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for channel in channels:
            await channel.close()


async def _announce(envoy: EnvoyProcess, discovery: DiscoveryService, stop: Stop) -> None:
    """Say that the plane serves once Envoy has the whole configuration."""
    await discovery.wait_current()
    await envoy.wait_live()
    stop.ready()


async def _first_of(stop: Stop, tasks: list[asyncio.Task[None]]) -> None:
    """Return when asked to stop; raise when a part that must run ends before."""
    waiter = asyncio.create_task(stop.wait())
    running = set(tasks)
    try:
        while not waiter.done():
            done, _ = await asyncio.wait({waiter, *running}, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {waiter}:
                running.discard(task)
                await task
                if task.get_name() != "start":
                    raise RuntimeError(f"the part `{task.get_name()}` ended")
    finally:
        for task in [waiter, *(task for task in running if task.get_name() == "start")]:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _check_version(binary: Path) -> None:
    version = await envoy_version(binary)
    text = ".".join(map(str, version))
    if is_supported(version):
        _log.info("envoy found", version=text)
    else:
        _log.warning("this version of envoy was not tried with this configuration", version=text)
