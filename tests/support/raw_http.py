"""Bytes over TLS exactly as written: no client library that tidies them up first."""

import socket
import ssl
from pathlib import Path


def raw(ca_file: Path, port: int, server_name: str, text: bytes, certificate: tuple[str, str] | None = None) -> bytes:
    """What comes back for ``text`` until the connection closes; ``certificate`` is the client's chain and key, as files."""
    context = ssl.create_default_context(cafile=str(ca_file))
    if certificate is not None:
        context.load_cert_chain(*certificate)
    with (
        socket.create_connection(("127.0.0.1", port), 5) as plain,
        context.wrap_socket(plain, server_hostname=server_name) as connection,
    ):
        connection.sendall(text)
        connection.settimeout(5)
        received = b""
        try:
            while chunk := connection.recv(65536):
                received += chunk
        except ConnectionResetError:
            pass  # an answer may be cut short by the reset that follows it
        return received


def request_bytes(target: str, host: str, *lines: str, method: str = "GET") -> bytes:
    """One request that closes its connection; ``lines`` are header lines as they go over the wire."""
    head = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Connection: close", *lines, "", ""]
    return "\r\n".join(head).encode("latin-1")


def status_of(answer: bytes) -> int:
    """The status of a raw answer; 400 when the connection was closed without one."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else 400
