"""The guard's own HTTP/2, spoken to by a complete implementation, and by bytes that nobody should send."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import h2.config
import h2.connection
import h2.errors
import h2.events
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.deployment import short_folder

from doorward.rpc.http2_frames import PREFACE, frame
from doorward_proxy.guard import http2
from doorward_proxy.guard.http2 import MESSAGE_LIMIT_BYTES, Call, Connection

HEADERS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/envoy.service.ext_proc.v3.ExternalProcessor/Process"),
    (":authority", "guard"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]


@dataclass
class Handler:
    """Answers, ends and fails as the message says."""

    calls: list[Call] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    closed: list[Call] = field(default_factory=list)

    def on_message(self, call: Call, message: bytes) -> None:
        self.calls.append(call)
        self.messages.append(message)
        if message == b"bug":
            raise RuntimeError("planted")
        if message == b"ok":
            call.end(0)
        elif message == b"refuse":
            call.end(7)
        elif message != b"silent":
            call.answer(b"answer")

    def on_closed(self, call: Call) -> None:
        self.closed.append(call)


@dataclass
class Client:
    """h2 on a socket."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    connection: h2.connection.H2Connection
    events: list[h2.events.Event] = field(default_factory=list)

    def open(self, message: bytes | None = None, *, end: bool = False) -> int:
        stream = self.connection.get_next_available_stream_id()
        self.connection.send_headers(stream, HEADERS)
        if message is not None:
            self.send(stream, message, end=end)
        self.flush()
        return stream

    def send(self, stream: int, message: bytes, *, end: bool = False) -> None:
        data = b"\0" + len(message).to_bytes(4, "big") + message
        for first in range(0, len(data), 16_384):
            last = first + 16_384 >= len(data)
            self.connection.send_data(stream, data[first : first + 16_384], end_stream=end and last)
        self.flush()

    def flush(self) -> None:
        self.writer.write(self.connection.data_to_send())

    async def until(self, kind: type[h2.events.Event], stream: int | None = None) -> h2.events.Event:
        async with asyncio.timeout(5):
            while True:
                for event in self.events:
                    if isinstance(event, kind) and stream in (None, getattr(event, "stream_id", None)):
                        self.events.remove(event)
                        return event
                data = await self.reader.read(65536)
                if not data:
                    raise EOFError
                self.events += self.connection.receive_data(data)
                for event in self.events:
                    if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                        self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                        event.flow_controlled_length = 0
                self.flush()

    async def status(self, stream: int) -> int:
        """The gRPC status that ends the call."""
        while True:
            event = await self.until(h2.events.Event, stream)
            if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                found = dict(event.headers).get(b"grpc-status")
                if found is not None:
                    await self.until(h2.events.StreamEnded, stream)
                    return int(found)


@dataclass
class Served:
    handler: Handler
    path: Path
    connections: list[Connection]
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(self.path)
        self.writers.append(writer)
        return reader, writer

    async def client(self) -> Client:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        connection.initiate_connection()
        client = Client(*await self.connect(), connection)
        client.flush()
        await client.until(h2.events.RemoteSettingsChanged)
        return client


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    with short_folder() as folder:
        made = Served(Handler(), folder / "guard.sock", [])

        def connection() -> Connection:
            made.connections.append(Connection(made.handler))
            return made.connections[-1]

        server = await asyncio.get_running_loop().create_unix_server(connection, made.path)
        yield made
        server.close()
        for item in made.connections:
            item.abort()
        for writer in made.writers:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def test_a_message_is_answered_and_the_call_stays_open(served: Served):
    client = await served.client()
    stream = client.open(b"hello")
    response = await client.until(h2.events.ResponseReceived, stream)
    assert isinstance(response, h2.events.ResponseReceived)
    assert dict(response.headers)[b":status"] == b"200"
    data = await client.until(h2.events.DataReceived, stream)
    assert isinstance(data, h2.events.DataReceived)
    assert data.data == b"\0\0\0\0\x06answer"
    served.handler.calls[0].end(7)
    assert await client.status(stream) == 7


@pytest.mark.parametrize(("message", "status"), [(b"bug", 13), (b"ok", 13), (b"refuse", 7)])
async def test_no_call_ends_with_ok(served: Served, message: bytes, status: int):
    """To Envoy OK would mean that the stream needs no watching any more."""
    client = await served.client()
    assert await client.status(client.open(message)) == status
    assert len(served.handler.closed) == 1


@pytest.mark.parametrize("first", [b"silent", b"hello"])
async def test_when_envoy_ends_its_side_the_call_ends_and_not_with_ok(served: Served, first: bytes):
    client = await served.client()
    stream = client.open(first)
    client.connection.end_stream(stream)
    client.flush()
    assert await client.status(stream) == 1
    assert len(served.handler.closed) == 1


async def test_a_reset_ends_the_call(served: Served):
    client = await served.client()
    stream = client.open(b"hello")
    await client.until(h2.events.ResponseReceived, stream)
    client.connection.reset_stream(stream)
    client.connection.ping(b"12345678")
    client.flush()
    await client.until(h2.events.PingAckReceived)
    assert len(served.handler.closed) == 1
    served.handler.calls[0].end(7)
    served.handler.calls[0].answer(b"late")


async def test_a_lost_connection_ends_every_call(served: Served):
    client = await served.client()
    streams = [client.open(b"hello") for _ in range(3)]
    await client.until(h2.events.ResponseReceived, streams[-1])
    client.writer.close()
    async with asyncio.timeout(5):
        while len(served.handler.closed) < 3:
            await asyncio.sleep(0.01)
    assert served.connections[0].calls == 0


async def test_messages_come_whole_however_they_are_cut(served: Served):
    client = await served.client()
    big = bytes(range(256)) * 600
    stream = client.open()
    for byte in b"\0" + len(big).to_bytes(4, "big"):
        client.connection.send_data(stream, bytes((byte,)), pad_length=3)
    client.flush()
    for first in range(0, len(big), 10_000):
        client.connection.send_data(stream, big[first : first + 10_000])
        client.flush()
    await client.until(h2.events.ResponseReceived, stream)
    assert served.handler.messages == [big]


@pytest.mark.parametrize(
    "prefix",
    [
        b"\1\0\0\0\0",
        b"\0" + (MESSAGE_LIMIT_BYTES + 1).to_bytes(4, "big"),
        b"\0\xff\xff\xff\xff",
    ],
    ids=["compressed", "too long", "far too long"],
)
async def test_a_message_that_we_do_not_take_ends_its_call(served: Served, prefix: bytes):
    client = await served.client()
    stream = client.open()
    client.connection.send_data(stream, prefix)
    client.flush()
    assert await client.status(stream) == 13
    other = client.open(b"hello")
    await client.until(h2.events.ResponseReceived, other)


async def test_a_call_that_never_stops_sending_ends(served: Served):
    client = await served.client()
    stream = client.open(b"hello")
    message = bytes(MESSAGE_LIMIT_BYTES // 2)
    for _ in range(5):
        client.send(stream, message)
    assert await client.status(stream) == 13


async def test_answers_wait_for_the_peers_window(served: Served):
    """More calls than fit through the first window of a connection; none may be lost and none sent too early."""
    client = await served.client()
    reader, connection = client.reader, client.connection
    message, count = b"x" * 1_000, 150  # a first window is 65,535 bytes
    for _ in range(count):
        stream = connection.get_next_available_stream_id()
        connection.send_headers(stream, HEADERS)
        connection.send_data(stream, b"\0" + len(message).to_bytes(4, "big") + message)
        client.flush()
    seen = 0
    async with asyncio.timeout(20):
        while seen < count:
            for event in connection.receive_data(await reader.read(65536)):
                if isinstance(event, h2.events.DataReceived):
                    seen += 1
                    if seen % 50 == 0:
                        connection.increment_flow_control_window(50 * (len(message) + 5))
            client.flush()


async def test_a_ping_is_answered_and_a_health_check_is_nothing(served: Served):
    _, writer = await served.connect()
    writer.close()
    client = await served.client()
    client.connection.ping(b"abcdefgh")
    client.flush()
    event = await client.until(h2.events.PingAckReceived)
    assert isinstance(event, h2.events.PingAckReceived)
    assert event.ping_data == b"abcdefgh"


SETTINGS = frame(4, 0, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        PREFACE[:10] + b"x" * 20,
        PREFACE + frame(6, 0, 0, bytes(8)),
        PREFACE + SETTINGS + frame(4, 0, 0, b"\0"),
        PREFACE + SETTINGS + frame(4, 1, 0, bytes(6)),
        PREFACE + SETTINGS + frame(4, 0, 1),
        PREFACE + frame(4, 0, 0, b"\0\4" + (10).to_bytes(4, "big")),
        PREFACE + SETTINGS + frame(5, 4, 1, bytes(4)),
        PREFACE + SETTINGS + frame(0, 0, 1, b"data of nothing"),
        PREFACE + SETTINGS + frame(0, 0, 0, b"data of nothing"),
        PREFACE + SETTINGS + frame(1, 4, 2),
        PREFACE + SETTINGS + frame(1, 4, 1) + frame(1, 4, 1),
        PREFACE + SETTINGS + frame(1, 0, 1) + frame(6, 0, 0, bytes(8)),
        PREFACE + SETTINGS + frame(1, 0, 1) + frame(9, 0, 3),
        PREFACE + SETTINGS + frame(9, 4, 1),
        PREFACE + SETTINGS + frame(1, 0, 1) + frame(9, 0, 1, bytes(16_000)) * 9,
        PREFACE + SETTINGS + frame(1, 4, 1) + frame(0, 8, 1, b"\x09abc"),
        PREFACE + SETTINGS + frame(3, 0, 1, bytes(4)),
        PREFACE + SETTINGS + frame(1, 4, 1) + frame(3, 0, 1, bytes(3)),
        PREFACE + SETTINGS + frame(8, 0, 0, bytes(4)),
        PREFACE + SETTINGS + frame(8, 0, 0, b"\x7f\xff\xff\xff"),
        PREFACE + SETTINGS + frame(6, 0, 0, bytes(7)),
        PREFACE + SETTINGS + b"\x00\x40\x01\x00\x00" + bytes(4),
    ],
)
async def test_a_peer_that_breaks_the_protocol_loses_its_connection(served: Served, data: bytes):
    reader, writer = await served.connect()
    writer.write(data)
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                pass
    assert all(item.calls == 0 for item in served.connections)


class _Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.closing = False
        self.written = b""

    def write(self, data: bytes) -> None:  # type: ignore[override]  # bytes are what is written
        self.written += data

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.closing = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


def _speaking() -> tuple[Connection, _Transport]:
    connection, transport = Connection(Handler()), _Transport()
    connection.connection_made(transport)
    connection.data_received(PREFACE + SETTINGS)
    return connection, transport


async def test_s82_more_calls_than_were_allowed_end_the_connection(monkeypatch: pytest.MonkeyPatch):
    """Each costs some hundred bytes here and ten on the wire."""
    monkeypatch.setattr(http2, "_STREAMS_LIMIT", 10)
    connection, transport = _speaking()
    for stream in range(1, 21, 2):
        connection.data_received(frame(1, 4, stream, b"\x82"))
    assert not transport.closing
    connection.data_received(frame(1, 4, 21, b"\x82"))
    assert transport.closing


async def test_s82_messages_that_are_never_whole_are_bounded_for_all_calls_together(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http2, "_UNFINISHED_LIMIT_BYTES", 100_000)
    connection, transport = _speaking()
    piece = b"\0" + (200_000).to_bytes(4, "big") + bytes(10_000)
    for stream in range(1, 61, 2):
        connection.data_received(frame(1, 4, stream, b"\x82") + frame(0, 0, stream, piece))
        assert connection._unfinished <= 100_000
    assert connection.calls == 9
    for stream in range(1, 61, 2):
        connection.data_received(frame(3, 0, stream, bytes(4)))
    assert (connection.calls, connection._unfinished, transport.closing) == (0, 0, False)
    whole = frame(1, 4, 61, b"\x82") + frame(0, 0, 61, b"\0\0\0\0\x02h") + frame(0, 0, 61, b"i")
    connection.data_received(whole)
    assert (connection.calls, connection._unfinished) == (1, 0)


_FRAMES = st.lists(
    st.builds(
        frame,
        st.integers(0, 12),
        st.sampled_from([0, 1, 4, 5, 8, 12, 255]),
        st.sampled_from([0, 1, 3, 5, 2, 7]),
        st.one_of(st.binary(max_size=40), st.just(b"\0\0\0\0\2hi"), st.just(bytes(4)), st.just(bytes(8))),
    ),
    max_size=30,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(frames=_FRAMES, cuts=st.lists(st.integers(1, 50), max_size=20))
def test_no_bytes_at_all_end_a_call_with_ok(frames: list[bytes], cuts: list[int]):
    """Whatever comes in, in whatever pieces: nothing is raised, and no trailer says that all is well."""

    async def run() -> bytes:
        transport = _Transport()
        connection = Connection(Handler())
        connection.connection_made(transport)
        data = PREFACE + SETTINGS + b"".join(frames)
        for cut in [*cuts, len(data)]:
            piece, data = data[:cut], data[cut:]
            if piece and not transport.closing:
                connection.data_received(piece)
        await asyncio.sleep(0)
        connection.connection_lost(None)
        assert connection.calls == 0
        return transport.written

    assert b"\x0bgrpc-status\x010" not in asyncio.run(run())
