"""One of the directories of ``rest_directory`` on a loopback port, for whole deployments."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
from tests.support.rest_directory import FakeDirectory
from tests.support.threaded import serving


@contextmanager
def serve_directory(fake: FakeDirectory) -> Iterator[str]:
    """The address at which ``fake`` answers."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            url = f"http://127.0.0.1:{self.server.server_address[1]}{self.path}"
            request = httpx.Request(self.command, url, headers=list(self.headers.items()), content=body)
            response = fake._serve(request)
            content = response.read()
            self.send_response(response.status_code)
            self.send_header("content-length", str(len(content)))
            for name, value in response.headers.items():
                if name not in {"content-length", "transfer-encoding"}:
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        yield f"http://127.0.0.1:{server.server_address[1]}"
