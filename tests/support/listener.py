"""A TCP server that answers nothing and remembers what it got: the end of a tunnel."""

import socketserver
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.threaded import serving


class Listener(socketserver.ThreadingTCPServer):
    """Keeps the first bytes of every connection; a connection without any counts, too."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        self.received: list[bytes] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Handler(socketserver.BaseRequestHandler):
    server: Listener

    def handle(self) -> None:
        self.server.received.append(self.request.recv(65536))


@contextmanager
def listener() -> Iterator[Listener]:
    with serving(Listener()) as server:
        yield server
