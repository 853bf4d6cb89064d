"""HTTP/2 by hand, on both sides of a proxy: what libraries keep from us, trailers above all."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events

HeaderPairs = Sequence[tuple[str, str]]


@dataclass
class Http2Upstream:
    """Answers 200 to everything over clear-text HTTP/2, and keeps headers and trailers of each request."""

    port: int
    headers: list[list[tuple[str, str]]] = field(default_factory=list)
    trailers: list[list[tuple[str, str]]] = field(default_factory=list)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Http2Upstream"]:
        served: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            served.add(task)
            await self._serve(reader, writer)

        server = await asyncio.start_server(serve, "127.0.0.1", self.port)
        try:
            yield self
        finally:
            server.close()
            for task in served:  # a proxy keeps its connections, and so their handlers, open
                task.cancel()
            await asyncio.gather(*served, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="latin-1", validate_inbound_headers=False)
        )
        connection.initiate_connection()
        writer.write(connection.data_to_send())
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                for event in connection.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        self.headers.append([(str(name), str(value)) for name, value in event.headers])
                    elif isinstance(event, h2.events.TrailersReceived):
                        self.trailers.append([(str(name), str(value)) for name, value in event.headers])
                    if isinstance(event, h2.events.StreamEnded):
                        connection.send_headers(event.stream_id, [(":status", "200")], end_stream=True)
                writer.write(connection.data_to_send())


async def http2_request(
    port: int,
    tls: ssl.SSLContext,
    headers: HeaderPairs,
    *,
    body: bytes = b"",
    trailers: HeaderPairs = (),
    server_name: str,
    wait: float = 5.0,
) -> list[tuple[str, str]]:
    """One request exactly as given; the answer's headers, empty when the stream or connection was reset."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=server_name)
    connection = h2.connection.H2Connection(
        h2.config.H2Configuration(
            header_encoding="latin-1", validate_outbound_headers=False, normalize_outbound_headers=False
        )
    )
    connection.initiate_connection()
    connection.send_headers(1, headers, end_stream=not body and not trailers)
    if body or trailers:
        connection.send_data(1, body, end_stream=not trailers)
    if trailers:
        connection.send_headers(1, trailers, end_stream=True)
    writer.write(connection.data_to_send())
    try:
        async with asyncio.timeout(wait):
            while data := await reader.read(65536):
                for event in connection.receive_data(data):
                    if isinstance(event, h2.events.ResponseReceived):
                        return [(str(name), str(value)) for name, value in event.headers]
                    if isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                        return []
                writer.write(connection.data_to_send())
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()
    return []
