"""What must hold for all bytes that a peer may send to the two HTTP/2 speakers; run by atheris, and by Hypothesis in the tests.

Nothing is raised, what is written is frames, nothing is answered but whole messages, no stream of the guard ends with OK, and whatever was
kept for calls is gone with them.
"""

import asyncio
from collections.abc import Iterator

from tests.support.grpc_wire import BLOCK, GREETING, Server, call, prefixed, with_path
from tests.unit.proxy.guard.test_endings import Wire, frames

from doorward.rpc import http2_frames as h2
from doorward_proxy.guard.http2 import Call
from doorward_proxy.guard.http2 import Connection as GuardConnection

PIECES = (
    GREETING,
    BLOCK,
    call(1),
    call(3, block=with_path("/a/Later")),
    call(5, block=with_path("/a/Stream")),
    prefixed(b"message"),
    h2.settings({h2.INITIAL_WINDOW_SIZE: 0}),
    h2.window_update(0, 1),
    h2.window_update(1, 9),
    h2.reset(3, h2.CANCEL),
    h2.frame(h2.HEADERS, 0, 7, BLOCK[:20]),
    h2.frame(h2.DATA, h2.PADDED, 1, b"\x02" + prefixed(b"x") + bytes(2)),
)
"""What a mutator may put in as it is."""


def _parts(data: bytes) -> Iterator[bytes]:
    """As the bytes may arrive: the first one says how much at once."""
    size = 1 + 8 * data[0] if data else 1
    for position in range(1, len(data), size):
        yield data[position : position + size]


def server_of_bytes(data: bytes) -> None:
    """Our server, after a greeting."""

    async def run() -> None:
        server = Server()
        server.feed(GREETING)
        for part in _parts(data):
            if not server.wire.closed:
                server.feed(part)
                await asyncio.sleep(0)
        answered = [payload for kind, _, _, payload in server.answers() if kind == h2.DATA]
        assert len(answered) <= len(server.served) + server.sent + 1
        server.connection.connection_lost(None)
        for _ in range(3):
            await asyncio.sleep(0)
        assert not server.connection.is_busy
        assert not server.connection._held
        assert not server.connection._queued

    asyncio.run(run())


class _Answers:
    """Answers every message at once. Implements ``CallHandler``."""

    def on_message(self, call: Call, message: bytes) -> None:
        if message == b"end":
            call.end(0)
        else:
            call.answer(message)

    def on_closed(self, call: Call) -> None:
        assert not call.open


def guard_of_bytes(data: bytes) -> None:
    """The guard, after a greeting."""

    async def run() -> None:
        wire = Wire()
        connection = GuardConnection(_Answers())
        connection.connection_made(wire)
        connection.data_received(GREETING)
        for part in _parts(data):
            if not wire.gone:
                connection.data_received(part)
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        for kind, _, _, payload in frames(wire.sent):
            assert kind != h2.HEADERS or b"grpc-status\x010" not in payload
        connection.connection_lost(None)
        assert (connection.calls, connection._unfinished) == (0, 0)

    asyncio.run(run())
