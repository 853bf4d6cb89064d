"""The directory worker as a process; the only place that builds its concrete parts."""

import asyncio
import contextlib

from prometheus_client import CollectorRegistry

from doorward.api.directory.v1.directory_pb2_grpc import add_DirectoryServiceServicer_to_server
from doorward.clock import SystemClock
from doorward.config.apart import ConfigurationReader
from doorward.config.load import load_settings
from doorward.config.references import no_secret
from doorward.config.reload import watch_settings
from doorward.config.settings import Settings
from doorward.priority import Priority
from doorward.records.client import RecordClient
from doorward.rpc.planes import Plane
from doorward.rpc.server import start_all, stop_all
from doorward.runtime.neighbours import Neighbours
from doorward.runtime.parts import until_stopped
from doorward.runtime.service import ServeOptions, Stop, run_service
from doorward.telemetry.probes import ProbeServer
from doorward_databroker.directory.scim.listener import serve_pushed
from doorward_databroker.directory.server import SERVICE_NAME, DirectoryServicer
from doorward_databroker.directory.sources.all import make_source
from doorward_databroker.directory.sources.rest import http_client
from doorward_databroker.directory.synchroniser import new_holder
from doorward_databroker.directory.worker import DirectoryMetrics, Worker

_STOP_SECONDS = 1.0
NICE = 5
"""A directory is a matter of minutes; checks must not wait behind it."""


def run(options: ServeOptions) -> int:
    """Run the worker until a signal ends it, and return the exit status."""
    priority = Priority()
    priority.lower()
    priority.become(NICE)
    return run_service(options, serve)


async def serve(options: ServeOptions, stop: Stop) -> None:
    """Serve until ``stop``. Directories that are away are looked for until they are back."""
    settings = load_settings(options.config_path, secrets=no_secret).in_brief
    reader = ConfigurationReader(options.config_path, secrets=no_secret, in_brief=True)
    clock = SystemClock()
    neighbours = Neighbours(Plane.DIRECTORY, options, settings.planes, clock)
    client = http_client()
    registry = CollectorRegistry()
    holder = new_holder()
    channel = neighbours.databroker()
    worker = Worker(
        RecordClient(channel),
        lambda directory: make_source(directory, client, clock),
        clock,
        holder,
        DirectoryMetrics(registry),
    )
    servicer = DirectoryServicer(worker)
    services = neighbours.servers(
        "directory",
        [(Plane.OPERATOR, neighbours.local.directory)],
        [Plane.OPERATOR],
        lambda server: add_DirectoryServiceServicer_to_server(servicer, server),
        [SERVICE_NAME],
    )
    current = settings
    records = RecordClient(channel)

    async def work(on: Settings) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(worker.run(list(on.directories)))
            if on.scim_listen is not None:
                group.create_task(
                    serve_pushed(list(on.directories), on.scim_listen, on.scim_tls, records, clock, holder)
                )

    replaced = asyncio.Event()

    async def keep_working() -> None:
        while True:
            replaced.clear()
            working = asyncio.create_task(work(current))
            waiting = asyncio.create_task(replaced.wait())
            try:
                await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
                if working.done():
                    return await working
            finally:
                working.cancel()
                waiting.cancel()
                await asyncio.gather(working, waiting, return_exceptions=True)

    async def on_change(changed: Settings) -> None:
        nonlocal current
        if (changed.directories, changed.scim_listen, changed.scim_tls) == (
            current.directories,
            current.scim_listen,
            current.scim_tls,
        ):
            return
        current = changed
        replaced.set()

    tasks = {
        asyncio.create_task(keep_working(), name="directories"),
        asyncio.create_task(watch_settings(reader, settings, on_change), name="reload"),
        asyncio.create_task(neighbours.run(), name="certificate"),
    }
    # A directory that is away makes nothing of ours unready: what it said last goes on counting.
    probes = ProbeServer(registry, lambda: stop.serving)
    try:
        await probes.start(options.health or neighbours.local.probes(Plane.DIRECTORY, options.worker))
        await start_all(services)
        stop.ready()
        await until_stopped(stop, tasks)
    finally:
        await probes.stop()
        await stop_all(services, _STOP_SECONDS)
        for task in tasks:
            task.cancel()
        with contextlib.suppress(Exception):
            await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), _STOP_SECONDS * 4)
        await client.aclose()
        await channel.close(None)
