"""One HTTP/2 connection of a gRPC server (RFC 9113; gRPC over HTTP/2).

Memory is bounded whatever the peer does: a connection buffers at most one frame, one header block and ``WINDOW_BYTES`` of messages; while
the peer does not read what we write, we do not read what it writes. Calls that are reset have cost their headers and nothing else, because
a call is not begun before its message is complete.
"""

import asyncio
import struct
from collections import deque
from typing import cast

import structlog

from doorward.rpc import http2_frames as h2
from doorward.rpc.grpc_answers import OPENING, PREFIX_BYTES, TRAILERS, UNSUPPORTED_MEDIA, trailers
from doorward.rpc.grpc_methods import INVALID_ARGUMENT, UNIMPLEMENTED
from doorward.rpc.http2_call import SPARE_BYTES, Call
from doorward.rpc.http2_calls import DEFAULT_WINDOW, WINDOW_BYTES, Calls, Host
from doorward.rpc.http2_frames import ConnectionFault, HeaderReader, StreamFault

_CONTINUATION_LIMIT = 8
GREETING_SECONDS = 5.0
"""For a peer's first words; who only looks whether somebody listens has long gone."""
_PATIENCE = 10_000
_PATIENCE_SECONDS = 1.0
"""So many frames that carry nothing are taken in so long. Of an honest peer each call has a few."""
_FRAMES_A_CALL = 4
_SETTINGS_COST = 1_000

_log = structlog.stdlib.get_logger(__name__)


class Connection(Calls, asyncio.Protocol):
    """The server's side of one connection: the incoming part."""

    def __init__(self, server: Host) -> None:
        super().__init__(server)
        self._rest = b""
        self._greeted = False
        self._reader = HeaderReader(server.known_headers)
        self._block: tuple[int, bytearray, bool, int] | None = None
        self._patience = _PATIENCE
        self._patient_since = self._loop.time()
        self._has_room = False
        """The peer has allowed more; looked at once for all frames that arrive together."""

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet, unless this peer is not wanted."""
        self._transport = stream = cast("asyncio.Transport", transport)
        server = self._server
        if not server.admits(transport):
            self._transport = None  # what has arrived already is not heard
            stream.abort()
            return
        server.connections.add(self)
        self._methods = methods = server.methods_for(transport)
        call_window = methods.message_limit_bytes + SPARE_BYTES
        self._allowed = self._most = max(WINDOW_BYTES, 2 * call_window)
        values = {
            h2.HEADER_TABLE_SIZE: 0,
            h2.MAX_CONCURRENT_STREAMS: server.max_streams,
            h2.INITIAL_WINDOW_SIZE: call_window,
            h2.MAX_HEADER_LIST: h2.BLOCK_LIMIT,
        }
        stream.write(h2.settings(values) + h2.window_update(0, self._most - DEFAULT_WINDOW))
        self._loop.call_later(GREETING_SECONDS, self._expect_greeting)

    def _expect_greeting(self) -> None:
        if not self._greeted:
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """End everything that was going on here."""
        del error
        self._server.connections.discard(self)
        self._transport = None
        self.end_calls()
        self._forget_calls()

    def _forget_calls(self) -> None:
        for calls in (self._calls, self._queued, self._held):
            calls.clear()

    def pause_writing(self) -> None:
        """The peer does not read: then neither do we."""
        self._paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The peer reads again."""
        self._paused = False
        for call in tuple(self._calls.values()):
            if call.sender is not None:
                self._wake(call)
        if self._transport is not None:
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Take frames apart, serve what is complete, write every answer at once."""
        if self._transport is None:
            return
        if self._rest:
            data = self._rest + data
        self._burst = 0
        try:
            self._rest = data[self._frames(data) :]
        except ConnectionFault as fault:
            self._fail(fault)
            return
        if self._has_room:
            self._has_room = False
            self._pump_queued()
        if self._out:
            self.flush()

    # Frames in.

    def _frames(self, data: bytes) -> int:
        """Serve the whole frames in ``data`` and return where the rest begins.

        Raises:
            ConnectionFault: the peer broke the protocol.
        """
        position, size = 0, len(data)
        if not self._greeted:
            if size < len(h2.PREFACE):
                if not h2.PREFACE.startswith(data):
                    raise ConnectionFault(h2.PROTOCOL_ERROR, "not HTTP/2")
                return 0
            if not data.startswith(h2.PREFACE):
                raise ConnectionFault(h2.PROTOCOL_ERROR, "not HTTP/2")
            self._greeted = True
            position = len(h2.PREFACE)
        while size - position >= h2.FRAME_BYTES:
            high, low, kind, flags, stream = h2.FRAME.unpack_from(data, position)
            if high or low > h2.FRAME_LIMIT:
                raise ConnectionFault(h2.FRAME_SIZE_ERROR, "a frame is too long")
            start = position + h2.FRAME_BYTES
            position = start + low
            if position > size:
                return start - h2.FRAME_BYTES
            stream &= h2.WINDOW_LIMIT
            if self._block is not None and kind != h2.CONTINUATION:
                raise ConnectionFault(h2.PROTOCOL_ERROR, "a header block is interrupted")
            if kind == h2.DATA:
                self._data(stream, flags, data[start:position])
            elif kind == h2.HEADERS:
                self._headers(stream, flags, data[start:position])
            else:
                self._other(kind, stream, flags, data[start:position])
        return position

    def _headers(self, stream: int, flags: int, payload: bytes) -> None:
        if flags & (h2.PADDED | h2.WITH_PRIORITY):
            payload = h2.unpadded(flags, payload)
        if not flags & h2.END_HEADERS:
            self._block = (stream, bytearray(payload), bool(flags & h2.END_STREAM), 0)
        else:
            self._whole_block(stream, payload, ends=bool(flags & h2.END_STREAM))

    def _continuation(self, stream: int, flags: int, payload: bytes) -> None:
        if self._block is None or self._block[0] != stream:
            raise ConnectionFault(h2.PROTOCOL_ERROR, "a continuation of nothing")
        _, block, ends, count = self._block
        block += payload
        if count >= _CONTINUATION_LIMIT or len(block) > h2.BLOCK_LIMIT:
            raise ConnectionFault(h2.ENHANCE_YOUR_CALM, "a header block is too long")
        self._block = (stream, block, ends, count + 1)
        if flags & h2.END_HEADERS:
            self._block = None
            self._whole_block(stream, bytes(block), ends=ends)

    def _whole_block(self, stream: int, block: bytes, *, ends: bool) -> None:
        call = self._calls.get(stream)
        if call is not None or (stream <= self._last and stream % 2):
            # Trailers, or headers for a call that we have ended; read because the table may depend on them.
            self._reader.decode(block)
            if call is not None:
                if not ends or call.ended:
                    raise ConnectionFault(h2.PROTOCOL_ERROR, "a second block of headers")
                self._end_of_input(call)
            return
        if stream % 2 == 0:
            raise ConnectionFault(h2.PROTOCOL_ERROR, "not a client's stream")
        self._last = stream
        try:
            headers = self._reader.call(block)
        except StreamFault as fault:
            self._out.append(h2.reset(stream, fault.code))
            return
        if self._going or len(self._calls) >= self._server.max_streams:
            # Refused before anything was done with it: the peer may try elsewhere.
            self._out.append(h2.reset(stream, h2.REFUSED_STREAM))
            return
        methods = self._served
        call = Call(stream, headers, allowed=methods.message_limit_bytes + SPARE_BYTES)
        if not headers.is_grpc:
            self._only_headers(stream, UNSUPPORTED_MEDIA)
            return
        refused = methods.refused(headers) if methods.refused is not None else None
        if refused is not None:
            self._only_headers(stream, OPENING + trailers(refused.status, refused.text))
            return
        if headers.path not in methods.unary:
            handler = methods.streams.get(headers.path)
            if handler is None:
                self._only_headers(stream, OPENING + TRAILERS[UNIMPLEMENTED])
                return
            call.messages = deque()
            call.task = self._loop.create_task(self._stream(call, handler))
        self._calls[stream] = call
        if self._patience < _PATIENCE:
            self._patience += _FRAMES_A_CALL
        if ends:
            self._end_of_input(call)

    def _data(self, stream: int, flags: int, payload: bytes) -> None:
        counted = len(payload)
        self._allowed -= counted
        if self._allowed < 0:
            raise ConnectionFault(h2.FLOW_CONTROL_ERROR, "more than the connection may carry")
        if flags & h2.PADDED:
            payload = h2.unpadded(h2.PADDED, payload)
        if not payload:
            self._lose_patience(1)
        call = self._calls.get(stream)
        if call is None:
            if stream > self._last or not stream % 2:
                raise ConnectionFault(h2.PROTOCOL_ERROR, "data before headers")
            self._give_back(counted)  # of a call that we have ended
            return
        if call.ended:
            raise ConnectionFault(h2.STREAM_CLOSED, "data after the end")
        if flags & h2.END_STREAM and call.messages is None and call.body is None and not call.received:
            # Nearly always: the whole message in one frame.
            self._give_back(counted)
            call.ended = True
            self._message(call, payload)
            return
        call.received += len(payload)
        call.allowed -= counted
        if call.allowed < 0:
            raise ConnectionFault(h2.FLOW_CONTROL_ERROR, "more than the stream may carry")
        if counted > len(payload):
            # Padding is dealt with at once.
            self._give_back(counted - len(payload))
            call.credit += counted - len(payload)
        if call.body is None:
            call.body = bytearray()
        call.body += payload
        if call.messages is not None:
            self._messages(call)
        elif len(call.body) >= PREFIX_BYTES and self._is_too_long(call.body):
            text = f"a message holds at most {self._served.message_limit_bytes} bytes"
            self.refuse(call, INVALID_ARGUMENT, text)  # now: its end would never fit through the window
            return
        if flags & h2.END_STREAM:
            self._end_of_input(call)

    def _is_too_long(self, body: bytearray) -> bool:
        return int.from_bytes(body[1:PREFIX_BYTES], "big") > self._served.message_limit_bytes

    def _end_of_input(self, call: Call) -> None:
        call.ended = True
        if call.messages is None:
            body = bytes(call.body or b"")
            self._forget_input(call)
            self._message(call, body)
        else:
            self._wake(call)

    def _lose_patience(self, cost: int) -> None:
        """A frame that carries nothing was taken.

        Raises:
            ConnectionFault: there are too many of them.
        """
        self._patience -= cost
        if self._patience < 0:
            now = self._loop.time()
            if now - self._patient_since < _PATIENCE_SECONDS:
                raise ConnectionFault(h2.ENHANCE_YOUR_CALM, "too many frames that carry nothing")
            self._patience, self._patient_since = _PATIENCE, now

    def _other(self, kind: int, stream: int, flags: int, payload: bytes) -> None:
        self._lose_patience(_SETTINGS_COST if kind == h2.SETTINGS else 1)
        if kind == h2.WINDOW_UPDATE:
            self._window_update(stream, payload)
        elif kind == h2.CONTINUATION:
            self._continuation(stream, flags, payload)
        elif kind == h2.SETTINGS:
            self._settings(stream, flags, payload)
        elif kind == h2.PING:
            if stream or len(payload) != 8:
                raise ConnectionFault(h2.FRAME_SIZE_ERROR, "a malformed ping")
            if not flags & h2.ACK:
                self._out.append(h2.frame(h2.PING, h2.ACK, 0, payload))
        elif kind == h2.RST_STREAM:
            if len(payload) != 4 or stream == 0 or stream > self._last:
                raise ConnectionFault(h2.PROTOCOL_ERROR, "a malformed reset")
            call = self._calls.get(stream)
            if call is not None:
                self._drop(call)
        elif kind == h2.GOAWAY:
            self._going = True
            self._close_if_done()
        elif kind == h2.PUSH_PROMISE:
            raise ConnectionFault(h2.PROTOCOL_ERROR, "a client does not push")
        # PRIORITY and what is not known: ignored (RFC 9113, sections 5.3.2 and 4.1).

    def _settings(self, stream: int, flags: int, payload: bytes) -> None:
        if stream or len(payload) % 6 or (flags & h2.ACK and payload):
            raise ConnectionFault(h2.FRAME_SIZE_ERROR, "malformed settings")
        if flags & h2.ACK:
            self._reader.acknowledged()
            return
        wider = False
        for name, value in struct.iter_unpack(">HI", payload):
            if name == h2.INITIAL_WINDOW_SIZE:
                if value > h2.WINDOW_LIMIT:
                    raise ConnectionFault(h2.FLOW_CONTROL_ERROR, "a window is too large")
                wider, self._call_window = wider or value > self._call_window, value
            elif name == h2.MAX_FRAME_SIZE:
                if not h2.FRAME_LIMIT <= value < 2**24:
                    raise ConnectionFault(h2.PROTOCOL_ERROR, "a frame size is out of range")
                self._frame_limit = value
        self._out.append(h2.frame(h2.SETTINGS, h2.ACK, 0))
        if wider:
            self._pump_held()

    def _window_update(self, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(h2.FRAME_SIZE_ERROR, "a malformed window update")
        increment = int.from_bytes(payload, "big") & h2.WINDOW_LIMIT
        if stream == 0:
            self._window += increment
            if not increment or self._window > h2.WINDOW_LIMIT:
                raise ConnectionFault(h2.FLOW_CONTROL_ERROR, "a window out of range")
            self._has_room = True
            return
        if stream > self._last:
            raise ConnectionFault(h2.PROTOCOL_ERROR, "a window of no stream")
        call = self._calls.get(stream)
        if call is not None:
            call.granted += increment
            if not increment or self._call_window + call.granted > h2.WINDOW_LIMIT:
                self._out.append(h2.reset(stream, h2.FLOW_CONTROL_ERROR))
                self._drop(call)
            else:
                self._pump(call)

    def _fail(self, fault: ConnectionFault) -> None:
        _log.warning("a peer broke the protocol and is disconnected", reason=str(fault), code=fault.code)
        self._rest = b""
        self.end_calls()
        self._forget_calls()
        self._out.append(self._goodbye(fault.code))
        self.flush()
        self.close()
        self._transport = None  # what may still arrive is not heard
