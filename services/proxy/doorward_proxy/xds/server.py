"""The aggregated discovery service (delta variant) for the Envoy beside us.

Concurrency: everything belongs to the event loop's thread. Each stream is one task; ``publish`` may be called at any
time and returns at once.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import grpc.aio
import structlog

from doorward.envoy_api.envoy.service.discovery.v3.ads_pb2_grpc import (
    AggregatedDiscoveryServiceServicer,
    add_AggregatedDiscoveryServiceServicer_to_server,
)
from doorward.envoy_api.envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)
from doorward.telemetry.background import watched
from doorward_proxy.metrics import ProxyMetrics
from doorward_proxy.xds.snapshot import Snapshot
from doorward_proxy.xds.stream import ClientStream, Refusal

ANSWER_SECONDS = 3.0
"""How long a stage waits for its answer before the next one is sent all the same."""
REMOVAL_SECONDS = 5.0
"""How long a cluster stays that no route names any more: a request may have chosen it and still be checked."""
_MESSAGE_BYTES = 64 * 1024 * 1024

_log = structlog.stdlib.get_logger(__name__)


class DiscoveryService(AggregatedDiscoveryServiceServicer):
    """Brings every connected Envoy to the latest snapshot."""

    def __init__(
        self,
        on_refusal: Callable[[Refusal], None],
        metrics: ProxyMetrics,
        on_taken_over: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_refusal = on_refusal
        self._metrics = metrics
        self._snapshot: Snapshot | None = None
        self._streams: dict[ClientStream, asyncio.Event] = {}
        self._progress = asyncio.Event()
        self._on_taken_over = on_taken_over
        self.taken_over = ""
        """Generation of the newest snapshot that every connected client runs; empty before the first."""

    @property
    def snapshot(self) -> Snapshot | None:
        """What is being served."""
        return self._snapshot

    def publish(self, snapshot: Snapshot) -> None:
        """Serve ``snapshot`` from now on."""
        self._snapshot = snapshot
        for stream, wake in self._streams.items():
            stream.move_to(snapshot)
            wake.set()

    def _note_progress(self) -> None:
        """Remember what every client runs, and tell of a change."""
        snapshot = self._snapshot
        if snapshot is None or snapshot.generation == self.taken_over:
            return
        if all(stream.current for stream in self._streams):
            self.taken_over = snapshot.generation
            self._on_taken_over()

    async def wait_current(self) -> None:
        """Return when at least one client is connected and all of them have taken over the latest snapshot."""
        while not (self._streams and all(stream.current for stream in self._streams)):
            self._progress.clear()
            await self._progress.wait()

    async def DeltaAggregatedResources(  # the contract's name
        self,
        request_iterator: AsyncIterator[DeltaDiscoveryRequest],
        context: grpc.aio.ServicerContext[DeltaDiscoveryRequest, DeltaDiscoveryResponse],  # noqa: ARG002  # the contract
    ) -> AsyncIterator[DeltaDiscoveryResponse]:
        """One client's stream, until it goes away."""
        stream, wake = ClientStream(), asyncio.Event()
        self._streams[stream] = wake
        if self._snapshot is not None:
            stream.move_to(self._snapshot)
        reader = watched(asyncio.create_task(self._read(request_iterator, stream, wake)), "reading what envoy says")
        try:
            while not reader.done():
                for response in stream.responses():
                    yield response
                if stream.current:
                    self._progress.set()
                    self._note_progress()
                await self._woken(stream, wake)
        finally:
            reader.cancel()
            del self._streams[stream]
            self._progress.set()

    async def StreamAggregatedResources(  # the contract's name
        self,
        request_iterator: AsyncIterator[DiscoveryRequest],  # noqa: ARG002  # the contract
        context: grpc.aio.ServicerContext[DiscoveryRequest, DiscoveryResponse],
    ) -> AsyncIterator[DiscoveryResponse]:
        """Refused: only the delta variant is spoken here."""
        nothing: tuple[DiscoveryResponse, ...] = ()
        for response in nothing:  # makes this a generator, as the contract asks
            yield response
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "only the delta variant is spoken here")

    async def _woken(self, stream: ClientStream, wake: asyncio.Event) -> None:
        waiting = stream.waiting
        limit = ANSWER_SECONDS if waiting else REMOVAL_SECONDS if stream.holds_removed else None
        try:
            async with asyncio.timeout(limit):
                await wake.wait()
        except TimeoutError:
            if waiting:
                _log.warning("envoy takes long to answer; going on without", seconds=ANSWER_SECONDS)
                stream.skip_wait()
            else:
                stream.remove_clusters()
        wake.clear()

    async def _read(
        self, requests: AsyncIterator[DeltaDiscoveryRequest], stream: ClientStream, wake: asyncio.Event
    ) -> None:
        try:
            async for request in requests:
                refusal = stream.take(request)
                if refusal is not None:
                    self._metrics.refused.labels(type=refusal.type_url.rpartition(".")[2]).inc()
                    _log.error(
                        "envoy refuses part of its configuration",
                        type=refusal.type_url,
                        resources=refusal.names,
                        reason=refusal.message,
                        generation=refusal.generation,
                    )
                    self._on_refusal(refusal)
                wake.set()
        finally:
            wake.set()  # the writing half must notice that there is nobody left


async def serve_discovery(service: DiscoveryService, socket: Path) -> grpc.aio.Server:
    """Start the service on a Unix socket; the folder's mode keeps others away."""
    socket.unlink(missing_ok=True)
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", _MESSAGE_BYTES),
            ("grpc.max_send_message_length", -1),
        ]
    )
    add_AggregatedDiscoveryServiceServicer_to_server(service, server)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    return server
