"""A collector of spans (OTLP over HTTP): takes what Envoy sends in protobuf and what we send in JSON, and remembers it."""

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import h2corn
from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tests.support.deployment import free_port

_SECONDS = 10.0


@dataclass(frozen=True)
class Seen:
    """One span as it arrived."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, str]
    text: str
    """All of it."""


@dataclass
class Collector:
    """Listens on the loopback address."""

    port: int = field(default_factory=free_port)
    spans: list[Seen] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    """How many spans came at once."""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def of(self, service: str, name: str = "") -> list[Seen]:
        """The spans of one service whose name holds ``name``."""
        return [span for span in self.spans if span.service == service and name in span.name]

    async def wait(self, found: Callable[[], Any]) -> Any:
        """What ``found`` returns, once that is something."""
        async with asyncio.timeout(_SECONDS):
            while not (result := found()):
                await asyncio.sleep(0.02)
        return result

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message["type"] == "http.request" and bool(message.get("more_body"))
        if scope["path"] == "/v1/traces":
            self._take(dict(scope["headers"])[b"content-type"], body)
        await send({"type": "http.response.start", "status": 200 if scope["path"] == "/v1/traces" else 404})
        await send({"type": "http.response.body", "body": b""})

    def _take(self, content_type: bytes, body: bytes) -> None:
        if content_type == b"application/json":
            # In JSON, OTLP has its ids in hexadecimal where protobuf has base64.
            request = ParseDict(_with_ids(json.loads(body)), ExportTraceServiceRequest())
        else:
            request = ExportTraceServiceRequest.FromString(body)
        before = len(self.spans)
        for resource in request.resource_spans:
            names = {item.key: item.value.string_value for item in resource.resource.attributes}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.spans.append(
                        Seen(
                            service=names.get("service.name", ""),
                            name=span.name,
                            trace_id=span.trace_id.hex(),
                            span_id=span.span_id.hex(),
                            parent_id=span.parent_span_id.hex(),
                            attributes={item.key: item.value.string_value for item in span.attributes},
                            text=str(span),
                        )
                    )
        self.batches.append(len(self.spans) - before)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Collector"]:
        """Take spans until the context ends."""
        config = h2corn.Config(
            bind=(f"127.0.0.1:{self.port}",), access_log=False, lifespan="off", timeout_graceful_shutdown=0.2
        )
        server = h2corn.Server(self, config)
        task = asyncio.create_task(server.serve())
        await server.wait_started()
        try:
            yield self
        finally:
            server.shutdown()
            await asyncio.wait({task})


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector in a thread of its own, for tests that wait for processes."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def wait(what: Coroutine[Any, Any, bool | None]) -> None:
        asyncio.run_coroutine_threadsafe(what, loop).result(_SECONDS)

    collector = Collector()
    running = collector.running()
    wait(_entered(running))
    try:
        yield collector
    finally:
        wait(running.__aexit__(None, None, None))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _entered(running: AbstractAsyncContextManager[Collector]) -> None:
    await running.__aenter__()


def _with_ids(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_ids(item) for item in value]
    if not isinstance(value, dict):
        return value
    ids = {"traceId", "spanId", "parentSpanId"}
    return {
        key: base64.b64encode(bytes.fromhex(item)).decode() if key in ids else _with_ids(item)
        for key, item in value.items()
    }
