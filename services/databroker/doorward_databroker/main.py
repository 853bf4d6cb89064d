"""The databroker as a process; the only place that builds its concrete parts."""

import asyncio
import gc
import itertools
import secrets
from collections.abc import Sequence

import grpc.aio
import structlog
import uvloop
from prometheus_client import CollectorRegistry

from doorward import __version__
from doorward.api.databroker.v1.operations_pb2_grpc import add_OperationsServiceServicer_to_server
from doorward.api.process.v1.process_pb2 import Process
from doorward.api.process.v1.process_pb2_grpc import add_ProcessServiceServicer_to_server
from doorward.clock import SystemClock
from doorward.config.apart import ConfigurationReader
from doorward.config.endpoints import LocalEndpoints
from doorward.config.load import load_settings
from doorward.config.references import no_secret, read_secret
from doorward.config.reload import watch_settings
from doorward.config.settings import RedisSettings, Settings
from doorward.keys.store import KeyStore, Purpose
from doorward.rpc.planes import Plane
from doorward.rpc.server import PlaneServer, start_all, stop_all
from doorward.runtime.neighbours import Neighbours
from doorward.runtime.parts import until_stopped
from doorward.runtime.reporter import INTERVAL_SECONDS
from doorward.runtime.service import ServeOptions, Stop, run_service
from doorward.telemetry.probes import ProbeServer
from doorward_databroker.damage import Rereader
from doorward_databroker.heartbeat import Heartbeat
from doorward_databroker.metrics import DatabrokerMetrics
from doorward_databroker.operations import SERVICE_NAME as OPERATIONS_NAME
from doorward_databroker.operations import OperationsServicer
from doorward_databroker.peers import Peers
from doorward_databroker.processes import SERVICE_NAME as PROCESS_SERVICE_NAME
from doorward_databroker.processes import ProcessServicer
from doorward_databroker.revoke import Revoker
from doorward_databroker.server import SERVICE_NAME, DatabrokerServicer, register
from doorward_databroker.store.codec import SealedCodec
from doorward_databroker.store.connection import Link
from doorward_databroker.store.keyspace import Keyspace
from doorward_databroker.store.maintenance import Maintenance
from doorward_databroker.store.metered import MeteredStore
from doorward_databroker.store.redis import RedisStore
from doorward_databroker.store.servers import Credentials, Servers
from doorward_databroker.store.types import RECORD_TYPES
from doorward_databroker.sweeper import Resealer, Sweeper
from doorward_databroker.watch import WatchHub

_CALLERS = (Plane.AUTHENTICATE, Plane.AUTHORIZE, Plane.PROXY, Plane.DIRECTORY, Plane.OPERATOR)
_STOP_SECONDS = 1.0
_COLLECT_AFTER = (10_000, 50, 1_000)
"""When the collector looks for cycles. Ten thousand recent records are kept, and looking at them again and again holds the loop."""

_log = structlog.stdlib.get_logger(__name__)


def run(options: ServeOptions) -> int:
    """Run the plane until a signal ends it, and return the exit status."""
    # A put takes a dozen turns of the loop, and these turns cost less. Not so for checks, whose answers it would hold back.
    return run_service(options, serve, uvloop.new_event_loop)


async def serve(options: ServeOptions, stop: Stop) -> None:
    """Serve until ``stop``. A store that is away makes calls fail, and never ends the process."""
    gc.set_threshold(*_COLLECT_AFTER)
    settings = load_settings(options.config_path, secrets=no_secret, store_secrets=read_secret).in_brief
    reader = ConfigurationReader(options.config_path, secrets=no_secret, in_brief=True)
    clock = SystemClock()
    neighbours = Neighbours(Plane.DATABROKER, options, settings.planes, clock)
    keys = KeyStore(options.keys_dir)
    neighbours.watch_keys(keys)
    keyring = keys.keyring(Purpose.RECORDS)
    codec = SealedCodec(keyring)
    registry = CollectorRegistry()
    metrics = DatabrokerMetrics(registry)
    replicas = settings.redis.replicas if settings.redis else 0
    link = Link(store_servers(settings.redis, neighbours.local), replicas=replicas)
    keyspace = Keyspace()
    redis = RedisStore(link, codec, clock, keyspace)
    store = MeteredStore(redis, metrics.store_operations, metrics.store_operation_seconds)
    maintenance = Maintenance(link, keyspace, codec)
    databroker_id = secrets.token_hex(8)
    hub = WatchHub(store, clock)
    peers = Peers(hub, clock, databroker_id, settings.staleness.longest)
    heartbeat = Heartbeat(store, hub, peers, clock, metrics)
    revoker = Revoker(store, hub, peers, clock, metrics)
    servicer = DatabrokerServicer(store, hub, heartbeat, revoker, peers, clock, metrics)
    processes = ProcessServicer(peers.processes)

    def register_all(server: grpc.aio.Server) -> None:
        register(servicer, server)
        add_OperationsServiceServicer_to_server(operations, server)
        add_ProcessServiceServicer_to_server(processes, server)

    def report() -> None:
        process = Process(plane=Plane.DATABROKER, id=databroker_id, version=__version__, data_age_ms=-1)
        process.generation = current.generation
        process.ready = heartbeat.unready is None
        process.sequence = next(reports)
        neighbours.describe(process)
        peers.processes.report(process)

    async def report_always() -> None:
        while True:
            report()
            await asyncio.sleep(INTERVAL_SECONDS)

    current = settings

    async def on_change(changed: Settings) -> None:
        """Nothing here but what `status` shows: where the store is does not change while it runs."""
        nonlocal current
        if _place(changed) != _place(settings) or changed.staleness != settings.staleness:
            _log.warning("the store's address and the staleness limits count from the next start on")
        current = changed
        report()

    reports = itertools.count(1)
    swept = [kind.name for kind in RECORD_TYPES.values() if kind.in_feed]
    sweeper = Sweeper(store, swept, clock, databroker_id, metrics)
    rereader = Rereader(store, hub)
    resealer = Resealer(store, maintenance, keyring, hub.report, lambda: hub.is_showing)
    operations = OperationsServicer(store, maintenance, codec, keyring, hub, heartbeat, peers, clock)

    servers = neighbours.servers(
        "databroker",
        [(plane, neighbours.local.databroker(plane)) for plane in _CALLERS],
        _CALLERS,
        register_all,
        [SERVICE_NAME, OPERATIONS_NAME, PROCESS_SERVICE_NAME],
    )
    tasks = [
        asyncio.create_task(hub.run(), name="feed"),
        asyncio.create_task(heartbeat.run(), name="heartbeat"),
        asyncio.create_task(sweeper.run(), name="sweeper"),
        asyncio.create_task(resealer.run(), name="resealer"),
        asyncio.create_task(rereader.run(), name="rereader"),
        asyncio.create_task(_serving(servers, heartbeat), name="health"),
        asyncio.create_task(neighbours.run(), name="certificate"),
        asyncio.create_task(report_always(), name="report"),
        asyncio.create_task(watch_settings(reader, settings, on_change), name="reload"),
    ]
    probes = ProbeServer(
        registry, lambda: stop.serving and heartbeat.unready is None, lambda: heartbeat.unready or "it is leaving"
    )
    try:
        await probes.start(options.health or neighbours.local.probes(Plane.DATABROKER, options.worker))
        await start_all(servers)
        stop.ready()
        await until_stopped(stop, tasks)
    finally:
        await probes.stop()
        await stop_all(servers, _STOP_SECONDS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await redis.close()


def _place(settings: Settings) -> tuple[str, str | None, int] | None:
    """Where the records are kept, without the secret, which a reload does not read."""
    redis = settings.redis
    return None if redis is None else (redis.url, redis.username, redis.replicas)


async def _serving(servers: Sequence[PlaneServer], heartbeat: Heartbeat) -> None:
    """Say over the health service whether this databroker is ready; calls are answered either way."""
    while True:
        for server in servers:
            await server.set_serving(serving=heartbeat.unready is None)
        await asyncio.sleep(INTERVAL_SECONDS)


def store_servers(redis: RedisSettings | None, endpoints: LocalEndpoints) -> Servers:
    """Where the records are kept: as configured, or in the embedded store."""
    if redis is None:
        return Servers.parse(f"unix://{endpoints.redis}")
    credentials = Credentials(
        username=redis.username,
        password=redis.password,
        ca_file=redis.ca_file,
        certificate_file=redis.certificate_file,
        key_file=redis.key_file,
    )
    return Servers.parse(redis.url, credentials)
