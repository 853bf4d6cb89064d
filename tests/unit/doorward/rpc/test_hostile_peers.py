"""S82: what a hostile peer can make our HTTP/2 server do for a few bytes, and what it may keep."""

import asyncio
import time
from pathlib import Path

import pytest
from tests.support.deployment import short_folder
from tests.support.grpc_wire import BLOCK, GREETING, Server, call, prefixed, with_path

from doorward.rpc import grpc_server, http2_call, http2_calls, http2_connection
from doorward.rpc import http2_frames as frames
from doorward.rpc.grpc_methods import Methods
from doorward.rpc.grpc_server import GrpcServer
from doorward.rpc.http2_connection import Connection

MANY = 10_000
HELD_SECONDS = 0.5
"""How long a few kilobytes may hold the loop on a busy machine; what they did before was seconds."""


def opened(stream: int, block: bytes = BLOCK) -> bytes:
    return frames.frame(frames.HEADERS, frames.END_HEADERS, stream, block)


def held(server: Server, data: bytes) -> float:
    """Seconds that ``data`` hold the loop."""
    began = time.perf_counter()
    server.connection.data_received(data)
    return time.perf_counter() - began


@pytest.mark.parametrize(
    "data",
    [
        frames.frame(frames.SETTINGS, 0, 0, b"\0\4\0\0\xff\xff" * 2_730),
        frames.settings({frames.INITIAL_WINDOW_SIZE: 70_000}) * 5,
        frames.window_update(0, 1) * 1_000,
    ],
    ids=["one long SETTINGS", "several SETTINGS", "windows of the connection"],
)
@pytest.mark.parametrize("answered", [False, True], ids=["calls without an end", "answers without room"])
async def test_s82_a_window_that_changes_concerns_no_call_that_does_not_wait_for_it(data: bytes, answered: bool):
    server = Server(max_streams=MANY)
    server.feed(GREETING)
    if answered:
        server.feed(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
        server.connection.data_received(b"".join(call(stream) for stream in range(1, 1_800, 2)))
    server.connection.data_received(b"".join(opened(stream) for stream in range(2_001, 2_001 + 2 * MANY - 2_000, 2)))
    assert held(server, data) < HELD_SECONDS
    assert not server.wire.closed


async def test_answers_that_waited_for_room_leave_when_there_is_some(monkeypatch: pytest.MonkeyPatch):
    """Of their own, of the connection, and of both one after the other."""
    monkeypatch.setattr(http2_calls, "BURST", 1_000)
    server = Server()
    server.feed(GREETING + frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
    server.connection._window = 0
    server.connection.data_received(b"".join(call(stream) for stream in (1, 3, 5, 7)))
    server.answers()
    assert server.feed(frames.window_update(0, 100)) == []
    server.connection._window = 0
    answers = server.feed(frames.settings({frames.INITIAL_WINDOW_SIZE: 4}) + frames.window_update(1, 4))
    assert [kind for kind, *_ in answers] == [frames.SETTINGS]
    sent = server.feed(frames.window_update(0, 4 * 8))
    assert b"".join(payload for kind, _, stream, payload in sent if kind == frames.DATA and stream == 1) == (
        prefixed(b"cba")
    )
    assert [stream for kind, flags, stream, _ in sent if kind == frames.HEADERS and flags & 1] == [1]
    for stream in (3, 5, 7):
        server.feed(frames.window_update(stream, 4))
    server.feed(frames.window_update(0, 100))
    assert not server.connection.is_busy
    assert server.connection._held_bytes == 0
    assert not server.connection._held
    assert not server.connection._queued


@pytest.mark.parametrize(("limit", "value"), [("_HELD_CALLS", 50), ("_HELD_BYTES", 5_000)])
async def test_s82_a_peer_that_takes_no_answers_is_disconnected(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: int
):
    monkeypatch.setattr(http2_calls, limit, value)
    server = Server(max_streams=1_000)
    server.feed(GREETING + frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
    for stream in range(1, 80, 2):
        server.connection.data_received(call(stream, b"x" * 100))
    await asyncio.sleep(0)
    assert not server.wire.closed
    for stream in range(81, 200, 2):
        server.connection.data_received(call(stream, b"x" * 100))
    await asyncio.sleep(0)
    assert server.wire.closed


@pytest.mark.parametrize(
    "flood",
    [
        frames.frame(frames.PING, 0, 0, bytes(8)),
        frames.frame(frames.PING, frames.ACK, 0, bytes(8)),
        frames.settings({}),
        frames.frame(frames.SETTINGS, frames.ACK, 0),
        frames.frame(frames.PRIORITY, 0, 1, bytes(5)),
        frames.frame(frames.DATA, 0, 1),
        frames.frame(frames.DATA, frames.PADDED, 1, b"\3\0\0\0"),
        frames.frame(0xAB, 0, 0, b"x"),
        frames.window_update(0, 1),
        frames.window_update(1, 1),
        frames.reset(1, 8),
    ],
    ids=[
        "ping", "pong", "settings", "acknowledgements", "priority", "empty data", "padding", "unknown", "window",
        "window of a call", "resets",
    ],
)  # fmt: skip
async def test_s82_a_flood_of_frames_that_carry_nothing_ends_the_connection(flood: bytes):
    server = Server()
    server.feed(GREETING + opened(1))
    answers = server.feed(flood * 10_100)
    assert server.wire.closed
    assert answers[-1][0] == frames.GOAWAY
    assert answers[-1][3][4:] == frames.ENHANCE_YOUR_CALM.to_bytes(4, "big")


async def test_frames_that_come_with_calls_or_in_the_course_of_time_are_no_flood(monkeypatch: pytest.MonkeyPatch):
    server = Server()
    server.feed(GREETING)
    extra = frames.window_update(0, 1) + frames.frame(frames.PING, 0, 0, bytes(8))
    for stream in range(1, 20_001, 2):
        server.connection.data_received(call(stream) + extra)
        server.wire.taken()
    assert not server.wire.closed
    monkeypatch.setattr(http2_connection, "_PATIENCE_SECONDS", 0.0)
    server.feed(extra * 15_000)
    assert not server.wire.closed


@pytest.mark.parametrize(
    ("updates", "taken"),
    [(b"\x20", True), (b"\x20\x3f\xe1\x1f", True), (b"\x20" * 3, False), (b"\x3f\xe1\x1f" * 9, False)],
)
async def test_s82_a_header_block_changes_the_size_of_the_table_twice_at_most(updates: bytes, taken: bool):
    """Each update is work, and a block of nothing else is held for a tenth of a second."""
    server = Server()
    server.feed(GREETING + opened(1, updates + BLOCK))
    assert server.wire.closed is not taken


async def test_padding_is_given_back_to_a_peer_that_uses_it():
    """Else a long stream of padded frames would come to a stop."""
    server = Server()
    room = frames.settings({frames.INITIAL_WINDOW_SIZE: frames.WINDOW_LIMIT}) + frames.window_update(0, 2**30)
    server.feed(GREETING + room + opened(1, with_path("/a/Stream")))
    padded = frames.frame(frames.DATA, frames.PADDED, 1, b"\xff" + prefixed(b"x") + bytes(255))
    given = 0
    allowed = http2_call.CALL_WINDOW_BYTES
    while given < 1.3 * http2_call.CALL_WINDOW_BYTES:
        for _ in range(200):
            server.connection.data_received(padded)
            given, allowed = given + len(padded) - 9, allowed - len(padded) + 9
        for _ in range(3):
            await asyncio.sleep(0)
        answers = server.answers()
        assert not server.wire.closed
        allowed += sum(int.from_bytes(payload) for kind, _, stream, payload in answers if (kind, stream) == (8, 1))
        assert allowed > http2_call.SPARE_BYTES, "the stream may not go on"
    assert server.connection._credit + server.connection._allowed > http2_calls.WINDOW_BYTES - 1_000_000
    server.connection.connection_lost(None)
    await asyncio.sleep(0)


async def test_s82_who_says_nothing_is_not_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http2_connection, "GREETING_SECONDS", 0.01)
    silent, spoken = Server(), Server()
    spoken.feed(GREETING)
    await asyncio.sleep(0.05)
    assert silent.wire.closed
    assert not spoken.wire.closed


async def test_s82_who_is_told_to_go_and_does_not_read_is_not_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http2_calls, "LINGER_SECONDS", 0.01)
    aborted: list[None] = []
    server = Server()
    monkeypatch.setattr(server.wire, "abort", lambda: aborted.append(None))
    server.feed(GREETING + frames.window_update(0, 0))
    assert server.wire.closed
    assert not aborted
    await asyncio.sleep(0.05)
    assert aborted


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_server, "CONNECTION_LIMIT", 5)


async def _asks(path: Path, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(GREETING + data)
    return reader, writer


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("keeps", [b"", opened(1), opened(1) + frames.frame(frames.DATA, 0, 1, b"\0\0\0\0\2x")])
async def test_s82_connections_at_which_nobody_waits_make_way(keeps: bytes):
    """Idle ones, and those with calls that never come to their end."""
    methods = Methods(unary={b"/a/Check": lambda message: message}, streams={}, overloaded=lambda _: b"")
    with short_folder() as folder:
        server = GrpcServer(methods)
        await server.listen_unix(folder / "s")
        kept = [await _asks(folder / "s", keeps) for _ in range(9)]
        reader, writer = await _asks(folder / "s", call(1))
        async with asyncio.timeout(5):
            answer = b""
            while prefixed(b"abc") not in answer:
                more = await reader.read(1_000)
                assert more, "closed"
                answer += more
        assert len(server.connections) <= 5
        for _, open_one in (*kept, (reader, writer)):
            open_one.close()
        await server.drain(0.1)


@pytest.mark.usefixtures("few")
async def test_connections_at_which_somebody_waits_are_not_given_up():
    first = Server()
    first.feed(GREETING + call(1, block=with_path("/a/Later")))
    for _ in range(4):
        other = Connection(first.host)
        other.connection_made(wire := type(first.wire)())
        other.data_received(GREETING + call(1, block=with_path("/a/Later")))
        assert not wire.closed
    last = Connection(first.host)
    last.connection_made(refused := type(first.wire)())
    assert refused.closed
    assert len(first.host.connections) == 5
    for connection in tuple(first.host.connections):
        connection.end_calls()
    await asyncio.sleep(0)
