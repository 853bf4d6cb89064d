"""A collector that keeps every byte that it gets: for tests of what must not be in there."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Collected(ThreadingHTTPServer):
    """Takes OTLP over HTTP, in whatever form."""

    daemon_threads = True

    def __init__(self) -> None:
        self.bodies: list[tuple[str, bytes]] = []
        """Path and body of each request."""
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def of(self, path: str, since: int = 0) -> bytes:
        """Everything that came to ``path``, after the first ``since`` requests."""
        return b"\n".join(body for where, body in self.bodies[since:] if where == path)

    def log_lines(self, since: int = 0) -> list[str]:
        """The bodies of all log records (JSON)."""
        documents: list[Any] = [json.loads(body) for where, body in self.bodies[since:] if where == "/v1/logs"]
        return [
            record["body"]["stringValue"]
            for document in documents
            for resource in document["resourceLogs"]
            for scope in resource["scopeLogs"]
            for record in scope["logRecords"]
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Collected

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.bodies.append((self.path, body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        pass


@contextmanager
def collector() -> Iterator[Collected]:
    with Collected() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
