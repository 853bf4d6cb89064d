"""The calls of one HTTP/2 connection of a gRPC server: messages in, answers out, flow control towards the peer.

A unary call is not begun before its message is complete; its answer leaves alone or with a few others. A stream runs as a task.
Every way in which a stream can end ends it with a status that is not OK.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from doorward.rpc import http2_frames as h2
from doorward.rpc.grpc_answers import (
    ANSWER_HEAD,
    ANSWER_TAIL,
    HEAD,
    MESSAGE_HEAD,
    OPENING,
    PREFIX_BYTES,
    TAIL,
    TRAILERS,
    trailers,
)
from doorward.rpc.grpc_methods import (
    CANCELLED,
    DEADLINE_EXCEEDED,
    INTERNAL,
    INVALID_ARGUMENT,
    UNAVAILABLE,
    CallEnded,
    Methods,
    Stream,
    Unary,
)
from doorward.rpc.http2_call import SPARE_BYTES, Call
from doorward.rpc.http2_frames import CallHeaders

WINDOW_BYTES = 32 * 1024 * 1024
"""What all calls of a connection may have sent without being served; twice the longest message where that is more."""
BURST = 32
"""Calls answered in one go; about a millisecond's worth."""
_TOGETHER = 4 * 3
"""Pieces of so many answers leave in one write. Fewer writes cost less, but a peer that gets all answers of a burst together has
nothing to do while we work on them, and neither have we while it does (``bench/README.md``)."""
DEFAULT_WINDOW = 65_535
LINGER_SECONDS = 2.0
"""For what is written to a connection that is to be closed; a peer that reads nothing would keep it for ever."""
_HELD_BYTES = 128 * 1024 * 1024
"""Of answers that a connection's peer has allowed no room for."""
_HELD_CALLS = 1_000
"""Calls whose answers wait for room of their own; whoever lets so many wait does not read them."""

_log = structlog.stdlib.get_logger(__name__)


class _Sender:
    """``Send`` for one call."""

    __slots__ = ("_call", "_calls")

    def __init__(self, calls: "Calls", call: Call) -> None:
        self._calls = calls
        self._call = call

    async def __call__(self, message: bytes) -> None:
        await self._calls.send(self._call, message)

    def at_once(self, message: bytes) -> bool:
        return self._calls.send_at_once(self._call, message)


class Host(Protocol):
    """What the connections of a server share."""

    max_streams: int
    known_headers: dict[bytes, CallHeaders]
    connections: "set[Calls]"

    def admits(self, transport: asyncio.BaseTransport) -> bool:
        """Whether a new connection is wanted."""
        ...

    @property
    def methods_for(self) -> Callable[[asyncio.BaseTransport], Methods]:
        """What is served on a new connection."""
        ...

    @property
    def has_queue(self) -> bool:
        """Whether calls wait; a new one must not overtake them."""
        ...

    def enqueue(self, connection: "Calls", call: Call, message: bytes) -> bool:
        """Let a call wait for its turn; false when there is no room."""
        ...


class Calls:
    """The calls of one connection, and what is to be written to it. Of two parts that only make sense together, the outgoing one."""

    def __init__(self, server: Host) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._calls: dict[int, Call] = {}
        self._last = 0
        """The newest stream that the peer has opened."""
        self._window = DEFAULT_WINDOW
        self._call_window = DEFAULT_WINDOW
        self._frame_limit = h2.FRAME_LIMIT
        self._methods: Methods | None = None
        self._allowed = self._most = WINDOW_BYTES
        self._credit = 0
        self._queued: dict[Call, None] = {}
        """Calls that wait for room on the connection, in order."""
        self._held: dict[Call, None] = {}
        """Calls that wait for room of their own."""
        self._held_bytes = 0
        self._given_up = False
        self._burst = 0
        self._out: list[bytes | memoryview] = []
        self._flushing = False
        self._paused = False
        """The peer does not read."""
        self._going = False

    @property
    def _served(self) -> Methods:
        assert self._methods is not None  # noqa: S101  # said when the connection was made
        return self._methods

    # Unary calls.

    def _message(self, call: Call, body: bytes) -> None:
        """The body of a unary call is complete."""
        size = len(body) - PREFIX_BYTES
        if size < 0 or body[0] or int.from_bytes(body[1:PREFIX_BYTES], "big") != size:
            # None, several, cut short, or compressed, which we do not offer.
            self.refuse(call, INVALID_ARGUMENT)
            return
        server = self._server
        if self._burst >= BURST or server.has_queue:
            if not server.enqueue(self, call, body[PREFIX_BYTES:]):
                self.serve(call, body[PREFIX_BYTES:], self._served.overloaded)
            return
        self._burst += 1
        self.serve(call, body[PREFIX_BYTES:])

    def serve(self, call: Call, message: bytes, handler: Unary | None = None) -> None:
        """Answer a unary call whose message is complete. The caller flushes."""
        if self._calls.get(call.stream) is not call:
            return  # reset while it waited
        try:
            headers = call.headers
            joined = self._served.joined.get(headers.path) if headers.traceparent and handler is None else None
            if joined is not None:
                answer = joined(message, headers.traceparent)
            else:
                answer = (handler or self._served.unary[headers.path])(message)
        except Exception as error:
            self._failed(call, error)
            return
        if isinstance(answer, bytes):
            self._answer(call, answer)
        else:
            self._answer_later(call, answer)

    def _answer_later(self, call: Call, answer: Awaitable[bytes]) -> None:
        """Answer when ``answer`` is there; the caller's deadline cancels it."""

        async def wait() -> bytes:
            return await answer

        task = call.task = self._loop.create_task(answer if asyncio.iscoroutine(answer) else wait())
        seconds = call.headers.timeout_seconds
        timer = None if seconds is None else self._loop.call_later(seconds, task.cancel)

        def done(task: "asyncio.Task[bytes]") -> None:
            late = timer is not None and timer.when() <= self._loop.time()
            if timer is not None:
                timer.cancel()
            if task.cancelled():
                self.refuse(call, DEADLINE_EXCEEDED if late else CANCELLED)
            elif (error := task.exception()) is not None:
                self._failed(call, error)
            elif self._calls.get(call.stream) is call:
                self._answer(call, task.result())
            self._flush_soon()

        task.add_done_callback(done)

    def _failed(self, call: Call, error: BaseException) -> None:
        """A bug in a handler is an error to the peer, and must not take the connection with it."""
        if isinstance(error, CallEnded):
            self.refuse(call, error.status, error.text)
            return
        _log.error("a call failed", path=call.headers.path.decode("latin-1"), error=str(error), exc_info=error)
        self.refuse(call, INTERNAL)

    def _answer(self, call: Call, answer: bytes) -> None:
        size = len(answer)
        length = size + PREFIX_BYTES
        stream = call.stream
        if length <= self._window and length <= self._call_window + call.granted and length <= self._frame_limit:
            self._window -= length
            del self._calls[stream]
            self._out += (
                ANSWER_HEAD.pack(HEAD, stream, OPENING, length >> 16, length & 0xFFFF, h2.DATA, 0, stream, 0, size),
                answer,
                ANSWER_TAIL.pack(TAIL, stream, TRAILERS[0]),
            )
            if len(self._out) >= _TOGETHER:
                self.flush()
            if self._going:
                self._close_if_done()
            return
        self._hold(call, b"\0" + size.to_bytes(4, "big") + answer)
        call.status = 0
        self._pump(call)

    def refuse(self, call: Call, status: int, text: str = "") -> None:
        """End a call without an answer. The caller flushes. Of several ends the first one counts."""
        if self._calls.get(call.stream) is not call or call.status is not None:
            return
        if not call.opened and not call.unsent:
            self._only_headers(call.stream, OPENING + trailers(status, text))
            self._gone(call)
        else:
            call.status, call.text = status, text
            self._pump(call)

    # Streams.

    async def _stream(self, call: Call, handler: Stream) -> None:
        """Run a stream's handler; every way out but one ends the stream with a status that is not OK."""
        status = INTERNAL
        try:
            status = await handler(lambda: self._receive(call), _Sender(self, call)) or INTERNAL
        except asyncio.CancelledError:
            status = UNAVAILABLE
            raise
        except Exception as error:
            self._failed(call, error)
        finally:
            self.refuse(call, status)
            self.flush()

    async def _receive(self, call: Call) -> bytes | None:
        assert call.messages is not None  # noqa: S101  # of streams alone
        while not call.messages:
            if call.ended or self._calls.get(call.stream) is not call:
                return None
            call.waiter = self._loop.create_future()
            try:
                await call.waiter
            finally:
                call.waiter = None
        message = call.messages.popleft()
        counted = len(message) + PREFIX_BYTES
        call.received -= counted
        self._give_back(counted)
        call.credit += counted
        if call.credit >= SPARE_BYTES // 2:
            # Not for each of many small messages: an acknowledgement would cost a write.
            call.allowed += call.credit
            self._out.append(h2.window_update(call.stream, call.credit))
            call.credit = 0
            self.flush()
        return message

    async def send(self, call: Call, message: bytes) -> None:
        """See ``Send``."""
        if self._calls.get(call.stream) is not call:
            return  # nobody is left to be told
        if not self.send_at_once(call, message):
            self._hold(call, b"\0" + len(message).to_bytes(4, "big") + message)
            self._pump(call)
            self.flush()
        while (call.unsent or self._paused) and self._calls.get(call.stream) is call:
            call.sender = self._loop.create_future()
            try:
                await call.sender
            finally:
                call.sender = None

    def send_at_once(self, call: Call, message: bytes) -> bool:
        """See ``Send.at_once``. Many streams are sent the same bytes, which are copied once, into what is written."""
        size = len(message)
        length = size + PREFIX_BYTES
        if self._paused or not call.opened or call.unsent or call.status is not None:
            return False
        if length > self._window or length > self._call_window + call.granted or length > self._frame_limit:
            return False
        if self._calls.get(call.stream) is not call:
            return False
        self._window -= length
        call.granted -= length
        head = MESSAGE_HEAD.pack(length >> 16, length & 0xFFFF, h2.DATA, 0, call.stream, 0, size)
        self._out += (head, message)
        self.flush()
        return True

    def _messages(self, call: Call) -> None:
        """Take whole messages out of a stream's bytes."""
        body = call.body
        assert body is not None and call.messages is not None  # noqa: S101, PT018  # of streams alone
        while len(body) >= PREFIX_BYTES:
            size = int.from_bytes(body[1:PREFIX_BYTES], "big")
            if body[0] or size > self._served.message_limit_bytes:
                text = f"a message holds at most {self._served.message_limit_bytes} bytes, and none is compressed"
                self.refuse(call, INVALID_ARGUMENT, text)
                return
            stop = PREFIX_BYTES + size
            if len(body) < stop:
                return
            call.messages.append(bytes(body[PREFIX_BYTES:stop]))
            del body[:stop]
            self._wake(call)

    @staticmethod
    def _wake(call: Call) -> None:
        for waiter in (call.waiter, call.sender):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    # Bytes out.

    def _hold(self, call: Call, data: bytes) -> None:
        call.unsent.append(data)
        self._held_bytes += len(data)

    def _wait_for_room(self, call: Call) -> None:
        """Note what a call with unsent messages waits for; each change of a window then concerns few calls."""
        of_its_own = self._call_window + call.granted <= 0
        waits, not_there = (self._held, self._queued) if of_its_own else (self._queued, self._held)
        not_there.pop(call, None)
        waits[call] = None
        if (len(self._held) > _HELD_CALLS or self._held_bytes > _HELD_BYTES) and not self._given_up:
            self._given_up = True
            _log.warning("a peer takes no answers and is disconnected", calls=len(self._held), bytes=self._held_bytes)
            self._loop.call_soon(self.abort)

    def _release(self, call: Call) -> None:
        """Nothing of a call waits any more."""
        self._queued.pop(call, None)
        self._held.pop(call, None)
        self._held_bytes -= sum(map(len, call.unsent))
        call.unsent.clear()

    def _pump(self, call: Call) -> None:
        """Send what the windows allow of a call's messages, then its end."""
        if self._calls.get(call.stream) is not call or (not call.unsent and call.status is None):
            return
        if not call.opened:
            call.opened = True
            self._out.append(h2.frame(h2.HEADERS, h2.END_HEADERS, call.stream, OPENING))
        while call.unsent:
            data = memoryview(call.unsent[0])
            room = min(self._window, self._call_window + call.granted, self._frame_limit)
            if room <= 0:
                self._wait_for_room(call)
                return
            part = data[:room]
            self._window -= len(part)
            call.granted -= len(part)
            self._held_bytes -= len(part)
            self._out.append(h2.frame(h2.DATA, 0, call.stream, part))
            if len(part) == len(data):
                call.unsent.popleft()
            else:
                call.unsent[0] = data[room:]
        self._release(call)
        self._wake(call)
        if call.status is not None:
            block = trailers(call.status, call.text)
            self._out.append(h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, call.stream, block))
            self._gone(call)

    def _pump_queued(self) -> None:
        """The connection has room again."""
        for call in tuple(self._queued):
            if self._window <= 0:
                return
            self._pump(call)

    def _pump_held(self) -> None:
        """Every call has room again."""
        for call in tuple(self._held):
            self._pump(call)

    def _only_headers(self, stream: int, block: bytes) -> None:
        self._out.append(h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, stream, block))

    def flush(self) -> None:
        """Write what has been put together."""
        if self._out and self._transport is not None:
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def _flush_soon(self) -> None:
        """Write once for all calls that end in the same turn of the loop."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flushing = False
        self.flush()

    def _give_back(self, counted: int) -> None:
        """``counted`` received bytes are dealt with: the peer may send as many again."""
        self._credit += counted
        if self._credit >= self._most // 2:
            self._out.append(h2.window_update(0, self._credit))
            self._allowed += self._credit
            self._credit = 0

    # Ends.

    def _forget_input(self, call: Call) -> None:
        call.body = None
        self._give_back(call.received)
        call.received = 0

    def _gone(self, call: Call) -> None:
        """We have ended a call; if the peer has not, it need send no more of it."""
        del self._calls[call.stream]
        self._release(call)
        self._forget_input(call)
        if not call.ended:
            self._out.append(h2.reset(call.stream, h2.NO_ERROR))
        self._wake(call)
        if self._going:
            self._close_if_done()

    def _drop(self, call: Call) -> None:
        """The peer has given a call up."""
        del self._calls[call.stream]
        self._release(call)
        self._forget_input(call)
        if call.task is not None:
            call.task.cancel()
        if self._going:
            self._close_if_done()

    def _goodbye(self, code: int) -> bytes:
        return h2.frame(h2.GOAWAY, 0, 0, self._last.to_bytes(4, "big") + code.to_bytes(4, "big"))

    def go_away(self) -> None:
        """Take no new calls."""
        if not self._going:
            self._going = True
            self._out.append(self._goodbye(h2.NO_ERROR))
            self.flush()
            self._close_if_done()

    def _close_if_done(self) -> None:
        if not self._calls:
            self.flush()
            self.close()

    @property
    def is_busy(self) -> bool:
        """Whether calls are going on."""
        return bool(self._calls)

    @property
    def is_waited_at(self) -> bool:
        """Whether somebody waits for what we do; calls of which only a part has come are the peer's to finish."""
        return any(call.ended or call.messages is not None for call in self._calls.values())

    def end_calls(self) -> "list[asyncio.Task[bytes] | asyncio.Task[None]]":
        """Cancel what is running and return it."""
        tasks = [call.task for call in self._calls.values() if call.task is not None and not call.task.done()]
        for task in tasks:
            task.cancel()
        return tasks

    def close(self) -> None:
        """Close the connection once what is written has left, or after a moment."""
        if self._transport is not None:
            self._transport.close()
            self._loop.call_later(LINGER_SECONDS, self._transport.abort)

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()
