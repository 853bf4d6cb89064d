"""Upstreams that say what they received: HTTP, WebSocket and gRPC, each in a thread of the test."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from tests.support.threaded import serving
from websockets.sync.server import ServerConnection
from websockets.sync.server import serve as serve_websocket


class EchoServer(ThreadingHTTPServer):
    """Answers every request with what arrived, and remembers it."""

    daemon_threads = True

    def __init__(self, name: str, host: str) -> None:
        self.name = name
        self.seen: list[dict[str, object]] = []
        super().__init__((host, 0), _Handler)

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Handler(BaseHTTPRequestHandler):
    disable_nagle_algorithm = True  # or each answer would wait for the acknowledgement of its own headers
    protocol_version = "HTTP/1.1"
    server: EchoServer

    def _answer(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length) if length else b""
        seen = {
            "upstream": self.server.name,
            "method": self.command,
            "target": self.path,
            "headers": [[name.lower(), value] for name, value in self.headers.items()],
            "body": body.decode("latin-1"),
        }
        self.server.seen.append(seen)
        text = json.dumps(seen).encode()
        self.send_response(200)
        if self.path.startswith("/set-cookie"):
            self.send_header("set-cookie", "__Host-doorward=stolen; Path=/; Secure")
            self.send_header("set-cookie", "theirs=kept; Path=/")
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = do_PROPFIND = _answer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        pass


@contextmanager
def echo_server(name: str, host: str = "127.0.0.1") -> Iterator[EchoServer]:
    with serving(EchoServer(name, host)) as server:
        yield server


@contextmanager
def websocket_echo() -> Iterator[int]:
    """The port of a WebSocket server that sends everything back."""

    def echo(connection: ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    with serve_websocket(echo, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.socket.getsockname()[1]
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def grpc_echo() -> Iterator[int]:
    """The port of a gRPC server with ``/echo.Echo/Unary``, ``Stream`` and ``Hold``, all on bytes."""

    def unary(request: bytes, context: grpc.ServicerContext) -> bytes:
        names = sorted(key for key, _ in context.invocation_metadata())
        return request + b"|" + ",".join(names).encode()

    def stream(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        for number in range(int(request)):
            yield b"%d" % number

    def hold(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        ended = threading.Event()
        context.add_callback(ended.set)
        yield b"held"
        ended.wait(60)

    server = grpc.server(ThreadPoolExecutor(8))
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Hold": grpc.unary_stream_rpc_method_handler(hold),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo.Echo", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()
