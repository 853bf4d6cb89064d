"""Our gRPC server without a socket, python-hyper's client in front of it, and calls made of frames by hand."""

import asyncio

import h2.config
import h2.connection
import h2.events
import h2.settings

from doorward.rpc import http2_frames as frames
from doorward.rpc.grpc_methods import OK, CallEnded, Methods, Receive, Send
from doorward.rpc.grpc_server import GrpcServer
from doorward.rpc.http2_connection import Connection

HEADERS = [
    (":method", "POST"),
    (":path", "/a/Check"),
    (":scheme", "http"),
    (":authority", "x"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]
GREETING = frames.PREFACE + frames.settings({})
# The same headers as literals: a block that refers to no table.
BLOCK = frames.header_block([(name.encode(), value.encode()) for name, value in HEADERS])


class Wire(asyncio.Transport):
    """What a connection writes to."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = False
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def taken(self) -> bytes:
        data, self.written = bytes(self.written), bytearray()
        return data


class Server:
    """A server with one connection, without a socket."""

    def __init__(self, max_streams: int = 100) -> None:
        self.served: list[bytes] = []
        self.waiting: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.cancelled = self.sent = 0
        self.at_once: list[bool] = []
        methods = Methods(
            unary={b"/a/Check": self.check, b"/a/Later": self.later},
            streams={b"/a/Stream": self.stream},
            overloaded=lambda _: b"overloaded",
        )
        self.host = GrpcServer(methods, max_streams=max_streams)
        self.wire = Wire()
        self.connection = Connection(self.host)
        self.connection.connection_made(self.wire)

    def check(self, message: bytes) -> bytes:
        self.served.append(message)
        return message[::-1]

    async def later(self, message: bytes) -> bytes:
        try:
            return message + await self.waiting
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def stream(self, receive: Receive, send: Send) -> int:
        while (message := await receive()) is not None:
            if message == b"end":
                return 7
            if message == b"bug":
                raise RuntimeError("planted")
            if message == b"over":
                raise CallEnded(OK)
            if message == b"denied":
                raise CallEnded(7, "not für `you`: 100 %\n" + "x" * 200)
            if message.startswith(b"now"):
                self.at_once.append(send.at_once(message[::-1]))
                continue
            await send(message[::-1])
            self.sent += 1
        return 0

    def feed(self, data: bytes) -> list[tuple[int, int, int, bytes]]:
        self.connection.data_received(data)
        return self.answers()

    def answers(self) -> list[tuple[int, int, int, bytes]]:
        """The frames written since the last look: type, flags, stream, payload."""
        data, found = self.wire.taken(), []
        while data:
            high, low, kind, flags, stream = frames.FRAME.unpack_from(data)
            assert not high
            found.append((kind, flags, stream, data[9 : 9 + low]))
            data = data[9 + low :]
        return found


def prefixed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def call(stream: int, message: bytes = b"abc", block: bytes = BLOCK) -> bytes:
    return frames.frame(frames.HEADERS, frames.END_HEADERS, stream, block) + frames.frame(
        frames.DATA, frames.END_STREAM, stream, prefixed(message)
    )


def with_path(path: str, method: str = "POST", content_type: str = "application/grpc") -> bytes:
    changed = {":path": path, ":method": method, "content-type": content_type}
    return frames.header_block([(name.encode(), changed.get(name, value).encode()) for name, value in HEADERS])


class Client:
    """python-hyper's HTTP/2 in front of our connection."""

    def __init__(self, server: Server, *, acknowledges: bool = True, **initial: int) -> None:
        self.server = server
        self.acknowledges = acknowledges
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        if initial:
            self.h2.local_settings = h2.settings.Settings(
                client=True, initial_values={h2.settings.SettingCodes[name]: value for name, value in initial.items()}
            )
        self.h2.initiate_connection()
        self.events: list[h2.events.Event] = []
        self.step()

    def step(self) -> None:
        while (data := self.h2.data_to_send()) or self.server.wire.written:
            if data:
                self.server.connection.data_received(data)
            answer = self.server.wire.taken()
            if answer:
                events = self.h2.receive_data(answer)
                self.events += events
                for event in events:
                    if isinstance(event, h2.events.DataReceived) and self.acknowledges and event.stream_ended is None:
                        self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    def open(self, path: str = "/a/Check", **more: str) -> int:
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, [(n, path if n == ":path" else v) for n, v in HEADERS] + list(more.items()))
        return stream

    def ask(self, message: bytes, path: str = "/a/Check") -> int:
        stream = self.open(path)
        body = prefixed(message)
        while body:
            room = min(len(body), self.h2.local_flow_control_window(stream), 16_384)
            self.h2.send_data(stream, body[:room], end_stream=room == len(body))
            body = body[room:]
            self.step()
        self.step()
        return stream

    def answer(self, stream: int) -> tuple[bytes, dict[str, str], bool]:
        """Body, all headers and trailers together, and whether the stream has ended."""
        body, headers, ended = b"", {}, False
        for event in self.events:
            if getattr(event, "stream_id", None) != stream:
                continue
            if isinstance(event, h2.events.DataReceived):
                body += event.data
            elif isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                headers |= {_text(n): _text(v) for n, v in event.headers}
            elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                ended = True
        return body, headers, ended


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
