"""Just enough HTTP/2 (RFC 9113) and gRPC to hold many idle calls from one Envoy.

A general server keeps kilobytes for each stream; ten thousand guarded streams need little more here than their own
description. The socket serves one method to one caller, so header blocks are not looked at: neither side keeps a table
of them that could get out of step. Whatever is not as it must be ends the connection, and with it every call on it: to
Envoy that is an error, and it resets the streams.

Concurrency: everything belongs to one event loop. Nothing here waits.
"""

import asyncio
import struct
from collections import deque
from typing import Protocol, cast

import structlog

CANCELLED = 1
PERMISSION_DENIED = 7
INTERNAL = 13
UNAVAILABLE = 14
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MESSAGE_LIMIT_BYTES = 256 * 1024
"""Of one gRPC message; Envoy lets headers of 60 KiB in."""

_DATA, _HEADERS, _SETTINGS, _PING, _WINDOW_UPDATE, _CONTINUATION = 0, 1, 4, 6, 8, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED = 0x1, 0x1, 0x4, 0x8
_FRAME_HEADER_BYTES = 9
_FRAME_LIMIT_BYTES = 16_384
_HEADER_BLOCK_LIMIT_BYTES = 128 * 1024
_STREAM_WINDOW = 1024 * 1024
"""More than a call may send in its whole life, so that it never needs another byte of window."""
_CALL_LIMIT_BYTES = 2 * MESSAGE_LIMIT_BYTES
_CONNECTION_WINDOW = 16 * 1024 * 1024
_FIRST_WINDOW = 65_535
_LEAST_PEER_WINDOW = 1024
"""What a call answers in its whole life is far below this; a peer that grants less is none of ours."""
_STREAMS_LIMIT = 100_000
_PREFIX_BYTES = 5
_BUFFER_LIMIT_BYTES = 8 * 1024 * 1024
"""Bytes that may wait for Envoy to read them; one that does not read is not one that we can speak to."""

# Header blocks ready made (RFC 7541): `:status 200` is entry 8 of the static table, the rest literals without indexing.
_RESPONSE = b"\x88" + b"\x00\x0ccontent-type\x10application/grpc"

_log = structlog.stdlib.get_logger(__name__)


def _status_field(status: int) -> bytes:
    text = b"%d" % status
    return b"\x00\x0bgrpc-status" + bytes((len(text),)) + text


class ProtocolError(Exception):
    """The peer does not speak as it must."""


class CallHandler(Protocol):
    """What is done with calls."""

    def on_message(self, call: "Call", message: bytes) -> None:
        """One whole gRPC message. Whatever this raises ends the call."""
        ...

    def on_closed(self, call: "Call") -> None:
        """The call has ended, from whichever side. Called once for each call that had a message."""
        ...


class Call:
    """One call: a request of Envoy's that is open."""

    __slots__ = ("_answered", "_buffer", "_connection", "_id", "_received", "_seen", "open")

    def __init__(self, connection: "Connection", stream_id: int) -> None:
        self._connection = connection
        self._id = stream_id
        self._buffer: bytes = b""
        self._received = 0
        self._answered = False
        self._seen = False
        self.open = True
        """Whether it can still be answered."""

    @property
    def answered(self) -> bool:
        """Whether Envoy has got an answer."""
        return self._answered

    def answer(self, message: bytes) -> None:
        """Send one gRPC message; does nothing when the call has ended."""
        if not self.open:
            return
        if not self._answered:
            self._answered = True
            self._connection.write(_HEADERS, _END_HEADERS, self._id, _RESPONSE)
        self._connection.write_data(self._id, b"\0" + len(message).to_bytes(4, "big") + message)

    def end(self, status: int) -> None:
        """End the call with a gRPC status. Idempotent.

        INVARIANT: the status is never 0, whoever asks for it.
        """
        if not self.open:
            return
        block = _status_field(status or INTERNAL)
        self._connection.write(
            _HEADERS, _END_HEADERS | _END_STREAM, self._id, block if self._answered else _RESPONSE + block
        )
        self._close()

    def receive(self, data: bytes, handler: CallHandler) -> None:
        """Bytes from Envoy.

        Raises:
            ProtocolError: they are no gRPC message that we take.
        """
        self._received += len(data)
        if self._received > _CALL_LIMIT_BYTES:
            raise ProtocolError("a call sends more than it may")
        buffer = self._buffer + data if self._buffer else data
        while len(buffer) >= _PREFIX_BYTES:
            length = int.from_bytes(buffer[1:_PREFIX_BYTES], "big")
            if buffer[0] or length > MESSAGE_LIMIT_BYTES:
                raise ProtocolError("a compressed or too long message")
            end = _PREFIX_BYTES + length
            if len(buffer) < end:
                break
            message, buffer = bytes(buffer[_PREFIX_BYTES:end]), buffer[end:]
            self._seen = True
            handler.on_message(self, message)
            if not self.open:
                return
        self._buffer = bytes(buffer)

    def lost(self) -> None:
        """The peer has reset the call, or is gone."""
        if self.open:
            self._close()

    def _close(self) -> None:
        self.open = False
        self._buffer = b""
        self._connection.closed(self, self._id, seen=self._seen)


class Connection(asyncio.Protocol):
    """One connection of Envoy's."""

    def __init__(self, handler: CallHandler) -> None:
        self._handler = handler
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._greeted = False
        self._configured = False
        self._calls: dict[int, Call] = {}
        self._last_id = 0
        self._block: tuple[int, int] | None = None
        """Stream and flags of a header block that is not complete."""
        self._block_bytes = 0
        self._unacknowledged = 0
        self._window = _FIRST_WINDOW
        self._waiting: deque[bytes] = deque()
        """DATA frames for which the peer has granted no window yet."""
        self._out: list[bytes] = []
        self._flushing = False

    @property
    def calls(self) -> int:
        """How many calls are open."""
        return len(self._calls)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet. A health check connects and says nothing."""
        self._transport = stream = cast("asyncio.Transport", transport)
        stream.set_write_buffer_limits(high=_BUFFER_LIMIT_BYTES)
        settings = ((1, 0), (3, _STREAMS_LIMIT), (4, _STREAM_WINDOW))
        self.write(_SETTINGS, 0, 0, b"".join(struct.pack(">HI", *setting) for setting in settings))
        self.write(_WINDOW_UPDATE, 0, 0, (_CONNECTION_WINDOW - _FIRST_WINDOW).to_bytes(4, "big"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Every call on it has ended."""
        del exc
        self._transport = None
        for call in tuple(self._calls.values()):
            call.lost()

    def pause_writing(self) -> None:
        """Envoy does not read; end it, and with it what it could not be told to end."""
        self.abort()

    def abort(self) -> None:
        """End the connection at once; Envoy resets its streams."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take what has come in; whatever goes wrong ends the connection."""
        try:
            self._read(data)
        except Exception as error:
            # Every call on a connection that we do not understand must end: Envoy takes the loss for an error.
            _log.error("a connection of envoy's is given up", error=str(error), exc_info=True)
            self.abort()

    def write(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """Queue one frame; all of a turn of the loop leave together."""
        self._out.append(_frame(kind, flags, stream_id, payload))
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def write_data(self, stream_id: int, payload: bytes) -> None:
        """Queue one DATA frame, as soon as the peer's window allows."""
        if self._waiting or self._window < len(payload):
            self._waiting.append(_frame(_DATA, 0, stream_id, payload))
            return
        self._window -= len(payload)
        self.write(_DATA, 0, stream_id, payload)

    def closed(self, call: Call, stream_id: int, *, seen: bool) -> None:
        """``call`` has ended."""
        self._calls.pop(stream_id, None)
        if not seen:
            return
        try:
            self._handler.on_closed(call)
        except Exception as error:
            # It has ended; what is wrong with the books must not keep others from ending.
            _log.error("an ended call could not be struck off", error=str(error), exc_info=True)

    def _flush(self) -> None:
        self._flushing = False
        out, self._out = self._out, []
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(out))

    def _read(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        position = 0
        if not self._greeted:
            if not PREFACE.startswith(buffer[: len(PREFACE)]):
                raise ProtocolError("not HTTP/2")
            if len(buffer) < len(PREFACE):
                self._buffer = buffer
                return
            self._greeted, position = True, len(PREFACE)
        while len(buffer) - position >= _FRAME_HEADER_BYTES:
            length = int.from_bytes(buffer[position : position + 3], "big")
            if length > _FRAME_LIMIT_BYTES:
                raise ProtocolError("a frame is too long")
            end = position + _FRAME_HEADER_BYTES + length
            if len(buffer) < end:
                break
            kind, flags = buffer[position + 3], buffer[position + 4]
            stream_id = int.from_bytes(buffer[position + 5 : position + 9], "big") & 0x7FFF_FFFF
            self._frame(kind, flags, stream_id, buffer[position + _FRAME_HEADER_BYTES : end])
            position = end
        self._buffer = bytes(buffer[position:])

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if not self._configured and (kind != _SETTINGS or flags & _ACK):
            raise ProtocolError("settings must come first")
        if self._block is not None and (kind != _CONTINUATION or stream_id != self._block[0]):
            raise ProtocolError("a header block is interrupted")
        match kind:
            case 0:
                self._data(flags, stream_id, payload)
            case 1:
                self._headers(flags, stream_id, payload)
            case 3:
                self._reset(stream_id, payload)
            case 4:
                self._settings(flags, stream_id, payload)
            case 5:
                raise ProtocolError("clients push nothing")
            case 6:
                if stream_id or len(payload) != 8:
                    raise ProtocolError("a malformed ping")
                if not flags & _ACK:
                    self.write(_PING, _ACK, 0, payload)
            case 8:
                self._window_update(stream_id, payload)
            case 9:
                self._continuation(flags, payload)
            case _:
                pass  # priorities, a farewell whose calls go on, and what later versions may say

    def _data(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id or stream_id > self._last_id:
            raise ProtocolError("data of no stream")
        self._unacknowledged += len(payload)
        if self._unacknowledged >= _CONNECTION_WINDOW // 4:
            self.write(_WINDOW_UPDATE, 0, 0, self._unacknowledged.to_bytes(4, "big"))
            self._unacknowledged = 0
        content = _unpadded(flags, payload)
        call = self._calls.get(stream_id)
        if call is None:
            return  # ended here a moment ago
        try:
            call.receive(content, self._handler)
        except Exception as error:
            # Whatever goes wrong with one stream ends that stream.
            _log.error("a guard's call failed and its stream is cut", error=str(error), exc_info=True)
            call.end(INTERNAL)
        if flags & _END_STREAM:
            call.end(CANCELLED)

    def _headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id % 2:
            raise ProtocolError("a stream that a client cannot open")
        _unpadded(flags, payload)
        if stream_id > self._last_id:
            self._last_id = stream_id
            self._calls[stream_id] = Call(self, stream_id)
        elif not flags & _END_STREAM:
            raise ProtocolError("trailers that do not end their stream")
        self._block, self._block_bytes = (stream_id, flags), len(payload)
        self._end_of_block(flags)

    def _continuation(self, flags: int, payload: bytes) -> None:
        if self._block is None:
            raise ProtocolError("a continuation of nothing")
        self._block_bytes += len(payload)
        if self._block_bytes > _HEADER_BLOCK_LIMIT_BYTES:
            raise ProtocolError("a header block is too long")
        self._end_of_block(flags)

    def _end_of_block(self, flags: int) -> None:
        if self._block is None or not flags & _END_HEADERS:
            return
        (stream_id, first_flags), self._block = self._block, None
        call = self._calls.get(stream_id)
        if call is not None and first_flags & _END_STREAM:
            call.end(CANCELLED)

    def _reset(self, stream_id: int, payload: bytes) -> None:
        if not stream_id or stream_id > self._last_id or len(payload) != 4:
            raise ProtocolError("a malformed reset")
        call = self._calls.get(stream_id)
        if call is not None:
            call.lost()

    def _settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id or len(payload) % 6 or (flags & _ACK and payload):
            raise ProtocolError("malformed settings")
        self._configured = True
        if flags & _ACK:
            return
        for position in range(0, len(payload), 6):
            name, value = struct.unpack_from(">HI", payload, position)
            if name == 4 and not _LEAST_PEER_WINDOW <= value < 1 << 31:
                raise ProtocolError("a window that nothing fits through")
        self.write(_SETTINGS, _ACK, 0, b"")

    def _window_update(self, stream_id: int, payload: bytes) -> None:
        increment = int.from_bytes(payload, "big") & 0x7FFF_FFFF
        if len(payload) != 4 or not increment:
            raise ProtocolError("a malformed window update")
        if stream_id:
            return  # what a call sends fits through its first window
        self._window += increment
        if self._window >= 1 << 31:
            raise ProtocolError("a window that is too large")
        while self._waiting and self._window >= len(self._waiting[0]) - _FRAME_HEADER_BYTES:
            frame = self._waiting.popleft()
            self._window -= len(frame) - _FRAME_HEADER_BYTES
            self._out.append(frame)
        if self._out and not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)


def _frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream_id.to_bytes(4, "big") + payload


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & _PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ProtocolError("more padding than payload")
    return payload[1 : len(payload) - payload[0]]
