"""The guard as a process; the only place that builds its concrete parts."""

import asyncio
import contextlib

from prometheus_client import CollectorRegistry

from doorward.clock import SystemClock
from doorward.config.endpoints import Address, LocalEndpoints, PlaneAddresses
from doorward.rpc.planes import Plane
from doorward.runtime.neighbours import Neighbours
from doorward.runtime.parts import until_stopped
from doorward.runtime.service import ServeOptions, Stop, run_service
from doorward.telemetry.probes import ProbeServer
from doorward_proxy.guard.authorizers import Authorizers, read_authorizers
from doorward_proxy.guard.http2 import Connection
from doorward_proxy.guard.link import AuthorizeLink
from doorward_proxy.guard.metrics import GuardMetrics
from doorward_proxy.guard.process import PLANE
from doorward_proxy.guard.streams import Streams
from doorward_proxy.guard.watchdog import Watchdog

STREAMS_LIMIT = 1_000_000
"""Envoy's circuit breaker has the operator's limit; this only keeps a fault from growing without end."""
_FAREWELL_SECONDS = 0.2


def run(options: ServeOptions) -> int:
    """Run the guard until a signal ends it, and return the exit status."""
    return run_service(options, serve)


async def serve(options: ServeOptions, stop: Stop) -> None:
    """Serve until ``stop``, then cut what is still open."""
    clock = SystemClock()
    endpoints = LocalEndpoints(options.run_dir)
    apart = tuple(place for place in read_authorizers(endpoints.guard_authorizers) if isinstance(place, Address))
    addresses = PlaneAddresses(authorize_services=apart)
    neighbours = Neighbours(Plane.PROXY, options, addresses, clock)
    registry = CollectorRegistry()
    metrics = GuardMetrics(registry)
    streams = Streams(clock, metrics, STREAMS_LIMIT)
    link = AuthorizeLink([], streams, clock, metrics)
    probes = ProbeServer(registry, link.up.is_set, lambda: "no authorizer stands by open streams")
    authorizers = Authorizers(endpoints.guard_authorizers, link, neighbours.authorizer)
    authorizers.look()
    endpoints.guard.unlink(missing_ok=True)
    server = await asyncio.get_running_loop().create_unix_server(lambda: Connection(streams), endpoints.guard)
    endpoints.guard.chmod(0o600)
    await probes.start(options.health or endpoints.probes(PLANE, options.worker))

    tasks = {
        asyncio.create_task(link.run(), name="link"),
        asyncio.create_task(authorizers.run(), name="authorizers"),
        asyncio.create_task(streams.keep(), name="streams"),
        asyncio.create_task(Watchdog().run(), name="watchdog"),
        asyncio.create_task(neighbours.run(), name="certificate"),
    }
    stop.ready()
    try:
        await until_stopped(stop, tasks)
    finally:
        server.close()
        streams.stop()
        await asyncio.sleep(_FAREWELL_SECONDS)  # what was said to Envoy leaves
        await probes.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(Exception):
            await authorizers.close()
