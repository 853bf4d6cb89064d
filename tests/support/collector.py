"""A collector (OTLP over HTTP): keeps every byte that it gets, and reads spans, which Envoy sends in protobuf and we in JSON."""

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tests.support.threaded import serving

_SECONDS = 10.0
_SPANS, _LOGS = "/v1/traces", "/v1/logs"


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


class Collector(ThreadingHTTPServer):
    """Listens on the loopback address."""

    daemon_threads = True

    def __init__(self) -> None:
        self.bodies: list[tuple[str, bytes]] = []
        """Path and body of each request."""
        self.spans: list[Seen] = []
        self.batches: list[int] = []
        """How many spans came at once."""
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def of(self, service: str, name: str = "") -> list[Seen]:
        """The spans of one service whose name holds ``name``."""
        return [span for span in self.spans if span.service == service and name in span.name]

    def received(self, path: str, since: int = 0) -> bytes:
        """Everything that came to ``path``, after the first ``since`` requests."""
        return b"\n".join(body for where, body in self.bodies[since:] if where == path)

    def log_lines(self, since: int = 0) -> list[str]:
        """The bodies of all log records (JSON)."""
        documents: list[Any] = [json.loads(body) for where, body in self.bodies[since:] if where == _LOGS]
        return [
            record["body"]["stringValue"]
            for document in documents
            for resource in document["resourceLogs"]
            for scope in resource["scopeLogs"]
            for record in scope["logRecords"]
        ]

    async def wait(self, found: Callable[[], Any]) -> Any:
        """What ``found`` returns, once that is something."""
        async with asyncio.timeout(_SECONDS):
            while not (result := found()):
                await asyncio.sleep(0.02)
        return result

    def take(self, path: str, content_type: str, body: bytes) -> None:
        """Note a request."""
        self.bodies.append((path, body))
        if path == _SPANS:
            found = list(_spans_in(content_type, body))
            self.spans += found
            self.batches.append(len(found))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Collector

    def do_POST(self) -> None:
        self.server.take(self.path, self.headers.get("content-type") or "", self._body())
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def _body(self) -> bytes:
        """Envoy sends in chunks (RFC 9112, section 7.1)."""
        if "transfer-encoding" not in self.headers:
            return self.rfile.read(int(self.headers["content-length"]))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        pass


def _spans_in(content_type: str, body: bytes) -> Iterator[Seen]:
    if content_type == "application/json":
        # In JSON, OTLP has its ids in hexadecimal where protobuf has base64.
        request = ParseDict(_with_ids(json.loads(body)), ExportTraceServiceRequest())
    else:
        request = ExportTraceServiceRequest.FromString(body)
    for resource in request.resource_spans:
        names = {item.key: item.value.string_value for item in resource.resource.attributes}
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Seen(
                    service=names.get("service.name", ""),
                    name=span.name,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    attributes={item.key: item.value.string_value for item in span.attributes},
                    text=str(span),
                )


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


@contextmanager
def collector() -> Iterator[Collector]:
    with serving(Collector()) as server:
        yield server
