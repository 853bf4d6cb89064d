"""Streams that stay open: upstreams that hold them, and clients that notice their end. Plain sockets on both sides."""

import contextlib
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import h2.config
import h2.connection
import h2.events
import h2.settings
from tests.support.threaded import serving

BOUND_SECONDS = 1.0
"""How long after `applied` a stream may last in a test. Published is 150 ms for a session's streams; a machine that does other
things as well takes longer, and a bound that fails without a fault helps nobody. Benches hold the figure itself."""


class HoldingServer(socketserver.ThreadingTCPServer):
    """Holds event streams, downloads and upgraded connections open until they are ended, and counts them."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, *, tcp: bool) -> None:
        self.held = 0
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Echo if tcp else _Holder)

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Echo(socketserver.BaseRequestHandler):
    server: HoldingServer

    def handle(self) -> None:
        with self._held():
            self._echo()

    def _echo(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.request.recv(65536):
                self.request.sendall(data)

    @contextmanager
    def _held(self) -> Iterator[None]:
        with self.server.lock:
            self.server.held += 1
        try:
            yield
        finally:
            with self.server.lock:
                self.server.held -= 1


class _Holder(_Echo):
    def handle(self) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            data = self.request.recv(65536)
            if not data:
                return
            head += data
        with self._held(), contextlib.suppress(OSError):
            if b"upgrade: websocket" in head.lower():
                self.request.sendall(
                    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
                )
                self._echo()
            elif head.startswith(b"GET /download"):
                self.request.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
                while True:
                    self.request.sendall(bytes(1000))
                    time.sleep(0.05)  # a slow download is what is tested
            elif not head.startswith(b"GET /events"):
                self.request.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
            else:
                self.request.sendall(
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                    b"8\r\ndata: 1\n\r\n"
                )
                self.request.recv(1)


@contextmanager
def holding_server(*, tcp: bool = False) -> Iterator[HoldingServer]:
    with serving(HoldingServer(tcp=tcp)) as server:
        yield server


@dataclass
class Place:
    """Where a proxy listens, and as what."""

    port: int
    host: str
    tls: ssl.SSLContext


class OpenStream:
    """A stream over HTTP/1.1; ``head`` is the response's."""

    def __init__(self, place: Place, request: str) -> None:
        raw = socket.create_connection(("127.0.0.1", place.port), 10)
        self._socket = place.tls.wrap_socket(raw, server_hostname=place.host)
        self._socket.sendall(request.replace("\n", "\r\n").encode())
        received = b""
        while b"\r\n\r\n" not in received:
            data = self._socket.recv(65536)
            if not data:
                break
            received += data
        head, _, self._rest = received.partition(b"\r\n\r\n")
        self.head = head.decode()

    @property
    def status(self) -> int:
        return int(self.head.split(" ", 2)[1]) if self.head else 0

    def echo(self, data: bytes) -> bytes:
        self._socket.sendall(data)
        received = b""
        while len(received) < len(data):
            piece = self._socket.recv(65536)
            if not piece:
                break
            received += piece
        return received

    def read(self) -> bytes:
        """Everything until the end."""
        received = self._rest
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while data := self._socket.recv(65536):
                received += data
        return received

    def is_open(self, seconds: float = 0.3) -> bool:
        """Whether it has not ended after a moment."""
        return not self.has_ended(seconds)

    def has_ended(self, seconds: float = 5.0) -> bool:
        """Whether it ends within this time."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                if not self._socket.recv(65536):
                    return True
            except TimeoutError:
                break
            except OSError:
                return True
        return False

    def close(self) -> None:
        self._socket.close()


class Http2Stream:
    """A stream over HTTP/2, an extended CONNECT (RFC 8441) when ``protocol`` is given."""

    def __init__(
        self, place: Place, path: str, cookie: str, *, method: str = "GET", protocol: str | None = None
    ) -> None:
        context = place.tls
        raw = socket.create_connection(("127.0.0.1", place.port), 10)
        self._socket = context.wrap_socket(raw, server_hostname=place.host)
        assert self._socket.selected_alpn_protocol() == "h2"
        self._connection = h2.connection.H2Connection(
            h2.config.H2Configuration(header_encoding="utf-8", validate_outbound_headers=False)
        )
        self._connection.initiate_connection()
        self._flush()
        self.status = 0
        self.ended = False
        self.data = b""
        if protocol is not None:
            while not self._connection.remote_settings.enable_connect_protocol:
                self._receive()
        headers = [
            (":method", method),
            (":scheme", "https"),
            (":authority", f"{place.host}:{place.port}"),
            (":path", path),
        ]
        if protocol is not None:
            headers.insert(1, (":protocol", protocol))
        self._connection.send_headers(1, [*headers, ("cookie", cookie)])
        self._flush()
        while not self.status and not self.ended:
            self._receive()

    def echo(self, data: bytes) -> bytes:
        self.data = b""
        self._connection.send_data(1, data)
        self._flush()
        while len(self.data) < len(data) and not self.ended:
            self._receive()
        return self.data

    def is_open(self, seconds: float = 0.3) -> bool:
        """Whether it has not ended after a moment."""
        return not self.has_ended(seconds)

    def has_ended(self, seconds: float = 5.0) -> bool:
        """Whether it ends within this time."""
        deadline = time.monotonic() + seconds
        while not self.ended and (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                self._receive()
            except TimeoutError:
                break
            except OSError:
                self.ended = True
        return self.ended

    def close(self) -> None:
        self._socket.close()

    def _flush(self) -> None:
        self._socket.sendall(self._connection.data_to_send())

    def _receive(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            self.ended = True
            return
        for event in self._connection.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                self.status = int(dict(event.headers)[":status"])
            elif isinstance(event, h2.events.DataReceived):
                self.data += event.data
                self._connection.acknowledge_received_data(event.flow_controlled_length, 1)
            elif isinstance(event, h2.events.StreamReset | h2.events.StreamEnded | h2.events.ConnectionTerminated):
                self.ended = True
        self._flush()
