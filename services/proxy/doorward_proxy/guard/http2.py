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

from doorward.rpc import http2_frames as h2
from doorward.rpc.grpc_methods import CANCELLED, INTERNAL
from doorward.rpc.http2_frames import ConnectionFault

MESSAGE_LIMIT_BYTES = 256 * 1024
"""Of one gRPC message; Envoy lets headers of 60 KiB in."""

_HEADER_BLOCK_LIMIT_BYTES = 128 * 1024
_STREAM_WINDOW = 1024 * 1024
"""More than a call may send in its whole life, so that it never needs another byte of window."""
_CALL_LIMIT_BYTES = 2 * MESSAGE_LIMIT_BYTES
_CONNECTION_WINDOW = 16 * 1024 * 1024
_FIRST_WINDOW = 65_535
_LEAST_PEER_WINDOW = 1024
"""What a call answers in its whole life is far below this; a peer that grants less is none of ours."""
_STREAMS_LIMIT = 100_000
_UNFINISHED_LIMIT_BYTES = 64 * 1024 * 1024
"""Of messages on a connection that are not whole yet; Envoy finishes one before it begins many others."""
_PREFIX_BYTES = 5
_BUFFER_LIMIT_BYTES = 8 * 1024 * 1024
"""Bytes that may wait for Envoy to read them; one that does not read is not one that we can speak to."""

_OPENING = b"\x88" + h2.header_block([(b"content-type", b"application/grpc")])
"""The headers of every answer; `:status 200` is entry 8 of the static table (RFC 7541)."""

_log = structlog.stdlib.get_logger(__name__)


class MalformedError(Exception):
    """What a call sends is no gRPC message that we take."""


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
            self._connection.write(h2.HEADERS, h2.END_HEADERS, self._id, _OPENING)
        self._connection.write_data(self._id, b"\0" + len(message).to_bytes(4, "big") + message)

    def end(self, status: int) -> None:
        """End the call with a gRPC status. Idempotent.

        INVARIANT: the status is never 0, whoever asks for it.
        """
        if not self.open:
            return
        block = h2.header_block([(b"grpc-status", b"%d" % (status or INTERNAL))])
        self._connection.write(
            h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, self._id, block if self._answered else _OPENING + block
        )
        self._close()

    @property
    def unfinished(self) -> int:
        """Bytes of a message that is not whole yet."""
        return len(self._buffer)

    def receive(self, data: bytes, handler: CallHandler) -> None:
        """Bytes from Envoy.

        Raises:
            MalformedError: they are no gRPC message that we take.
        """
        self._received += len(data)
        if self._received > _CALL_LIMIT_BYTES:
            raise MalformedError("a call sends more than it may")
        buffer = self._buffer + data if self._buffer else data
        while len(buffer) >= _PREFIX_BYTES:
            length = int.from_bytes(buffer[1:_PREFIX_BYTES], "big")
            if buffer[0] or length > MESSAGE_LIMIT_BYTES:
                raise MalformedError("a compressed or too long message")
            end = _PREFIX_BYTES + length
            if len(buffer) < end:
                break
            message, buffer = bytes(buffer[_PREFIX_BYTES:end]), buffer[end:]
            self._seen = True
            handler.on_message(self, message)
            if not self.open:
                return
        self._buffer = bytes(buffer)

    def drop(self) -> None:
        """What is not whole will never be."""
        self._buffer = b""

    def lost(self) -> None:
        """The peer has reset the call, or is gone."""
        if self.open:
            self._close()

    def _close(self) -> None:
        self.open = False
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
        self._unfinished = 0
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
        values = {
            h2.HEADER_TABLE_SIZE: 0,
            h2.MAX_CONCURRENT_STREAMS: _STREAMS_LIMIT,
            h2.INITIAL_WINDOW_SIZE: _STREAM_WINDOW,
        }
        stream.write(h2.settings(values) + h2.window_update(0, _CONNECTION_WINDOW - _FIRST_WINDOW))

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
        self._out.append(h2.frame(kind, flags, stream_id, payload))
        self._flush_soon()

    def write_data(self, stream_id: int, payload: bytes) -> None:
        """Queue one DATA frame, as soon as the peer's window allows."""
        if self._waiting or self._window < len(payload):
            self._waiting.append(h2.frame(h2.DATA, 0, stream_id, payload))
            return
        self._window -= len(payload)
        self.write(h2.DATA, 0, stream_id, payload)

    def closed(self, call: Call, stream_id: int, *, seen: bool) -> None:
        """``call`` has ended."""
        self._calls.pop(stream_id, None)
        self._unfinished -= call.unfinished
        call.drop()
        if not seen:
            return
        try:
            self._handler.on_closed(call)
        except Exception as error:
            # It has ended; what is wrong with the books must not keep others from ending.
            _log.error("an ended call could not be struck off", error=str(error), exc_info=True)

    def _flush_soon(self) -> None:
        if not self._flushing:
            asyncio.get_running_loop().call_soon(self._flush)
            self._flushing = True  # only now: what cannot be called must not keep the next from trying

    def _flush(self) -> None:
        try:
            self._flushing = False
            out, self._out = self._out, []
            if self._transport is not None and not self._transport.is_closing():
                self._transport.write(b"".join(out))
        except BaseException:
            # What was to be said is lost, the end of a stream perhaps; nobody else would ever say it.
            self.abort()
            raise

    def _read(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        position = 0
        if not self._greeted:
            if not h2.PREFACE.startswith(buffer[: len(h2.PREFACE)]):
                raise ConnectionFault(h2.PROTOCOL_ERROR, "not HTTP/2")
            if len(buffer) < len(h2.PREFACE):
                self._buffer = buffer
                return
            self._greeted, position = True, len(h2.PREFACE)
        while len(buffer) - position >= h2.FRAME_BYTES:
            length = int.from_bytes(buffer[position : position + 3], "big")
            if length > h2.FRAME_LIMIT:
                raise ConnectionFault(h2.PROTOCOL_ERROR, "a frame is too long")
            end = position + h2.FRAME_BYTES + length
            if len(buffer) < end:
                break
            kind, flags = buffer[position + 3], buffer[position + 4]
            stream_id = int.from_bytes(buffer[position + 5 : position + 9], "big") & h2.WINDOW_LIMIT
            self._frame(kind, flags, stream_id, buffer[position + h2.FRAME_BYTES : end])
            position = end
        self._buffer = bytes(buffer[position:])

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if not self._configured and (kind != h2.SETTINGS or flags & h2.ACK):
            raise ConnectionFault(h2.PROTOCOL_ERROR, "settings must come first")
        if self._block is not None and (kind != h2.CONTINUATION or stream_id != self._block[0]):
            raise ConnectionFault(h2.PROTOCOL_ERROR, "a header block is interrupted")
        match kind:
            case h2.DATA:
                self._data(flags, stream_id, payload)
            case h2.HEADERS:
                self._headers(flags, stream_id, payload)
            case h2.RST_STREAM:
                self._reset(stream_id, payload)
            case h2.SETTINGS:
                self._settings(flags, stream_id, payload)
            case h2.PUSH_PROMISE:
                raise ConnectionFault(h2.PROTOCOL_ERROR, "clients push nothing")
            case h2.PING:
                if stream_id or len(payload) != 8:
                    raise ConnectionFault(h2.PROTOCOL_ERROR, "a malformed ping")
                if not flags & h2.ACK:
                    self.write(h2.PING, h2.ACK, 0, payload)
            case h2.WINDOW_UPDATE:
                self._window_update(stream_id, payload)
            case h2.CONTINUATION:
                self._continuation(flags, payload)
            case _:
                pass  # priorities, a farewell whose calls go on, and what later versions may say

    def _data(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id or stream_id > self._last_id:
            raise ConnectionFault(h2.PROTOCOL_ERROR, "data of no stream")
        self._unacknowledged += len(payload)
        if self._unacknowledged >= _CONNECTION_WINDOW // 4:
            self.write(h2.WINDOW_UPDATE, 0, 0, self._unacknowledged.to_bytes(4, "big"))
            self._unacknowledged = 0
        content = h2.unpadded(flags & h2.PADDED, payload)
        call = self._calls.get(stream_id)
        if call is None:
            return  # ended here a moment ago
        before = call.unfinished
        try:
            call.receive(content, self._handler)
            if call.open:
                self._unfinished += call.unfinished - before
                if self._unfinished > _UNFINISHED_LIMIT_BYTES:
                    raise MalformedError("too many messages that are not whole")
        except Exception as error:
            # Whatever goes wrong with one stream ends that stream.
            _log.error("a guard's call failed and its stream is cut", error=str(error), exc_info=True)
            call.end(INTERNAL)
        if flags & h2.END_STREAM:
            call.end(CANCELLED)

    def _headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id % 2:
            raise ConnectionFault(h2.PROTOCOL_ERROR, "a stream that a client cannot open")
        h2.unpadded(flags, payload)
        if stream_id > self._last_id:
            if len(self._calls) >= _STREAMS_LIMIT:
                raise ConnectionFault(h2.PROTOCOL_ERROR, "more streams than were allowed")
            self._last_id = stream_id
            self._calls[stream_id] = Call(self, stream_id)
        elif not flags & h2.END_STREAM:
            raise ConnectionFault(h2.PROTOCOL_ERROR, "trailers that do not end their stream")
        self._block, self._block_bytes = (stream_id, flags), len(payload)
        self._end_of_block(flags)

    def _continuation(self, flags: int, payload: bytes) -> None:
        if self._block is None:
            raise ConnectionFault(h2.PROTOCOL_ERROR, "a continuation of nothing")
        self._block_bytes += len(payload)
        if self._block_bytes > _HEADER_BLOCK_LIMIT_BYTES:
            raise ConnectionFault(h2.PROTOCOL_ERROR, "a header block is too long")
        self._end_of_block(flags)

    def _end_of_block(self, flags: int) -> None:
        if self._block is None or not flags & h2.END_HEADERS:
            return
        (stream_id, first_flags), self._block = self._block, None
        call = self._calls.get(stream_id)
        if call is not None and first_flags & h2.END_STREAM:
            call.end(CANCELLED)

    def _reset(self, stream_id: int, payload: bytes) -> None:
        if not stream_id or stream_id > self._last_id or len(payload) != 4:
            raise ConnectionFault(h2.PROTOCOL_ERROR, "a malformed reset")
        call = self._calls.get(stream_id)
        if call is not None:
            call.lost()

    def _settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id or len(payload) % 6 or (flags & h2.ACK and payload):
            raise ConnectionFault(h2.PROTOCOL_ERROR, "malformed settings")
        self._configured = True
        if flags & h2.ACK:
            return
        for position in range(0, len(payload), 6):
            name, value = struct.unpack_from(">HI", payload, position)
            if name == h2.INITIAL_WINDOW_SIZE and not _LEAST_PEER_WINDOW <= value <= h2.WINDOW_LIMIT:
                raise ConnectionFault(h2.PROTOCOL_ERROR, "a window that nothing fits through")
        self.write(h2.SETTINGS, h2.ACK, 0, b"")

    def _window_update(self, stream_id: int, payload: bytes) -> None:
        increment = int.from_bytes(payload, "big") & h2.WINDOW_LIMIT
        if len(payload) != 4 or not increment:
            raise ConnectionFault(h2.PROTOCOL_ERROR, "a malformed window update")
        if stream_id:
            return  # what a call sends fits through its first window
        self._window += increment
        if self._window > h2.WINDOW_LIMIT:
            raise ConnectionFault(h2.PROTOCOL_ERROR, "a window that is too large")
        while self._waiting and self._window >= len(self._waiting[0]) - h2.FRAME_BYTES:
            frame = self._waiting.popleft()
            self._window -= len(frame) - h2.FRAME_BYTES
            self._out.append(frame)
        if self._out:
            self._flush_soon()
