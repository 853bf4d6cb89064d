"""S82: whoever floods the check's socket keeps nobody else from being answered, and nothing of it stays."""

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import grpc.aio
import pytest
from tests.contract.test_check_transport import Echo, answered
from tests.support.deployment import short_folder
from tests.support.grpc_wire import BLOCK, GREETING, prefixed, with_path

from doorward.rpc import http2_frames as frames
from doorward.rpc.grpc_server import GrpcServer
from doorward_authorize.transport import CHECK_METHOD, check_methods

_ROUNDS = 40
_ANSWERS = 3
"""How often the honest one must be answered before the flood ends."""
_GROWTH_KILOBYTES = 64 * 1024
HONEST = with_path(CHECK_METHOD)


def stream_ids() -> Iterator[int]:
    """Each once, in order."""
    yield from range(1, 2**31, 2)


def opened(stream: int, block: bytes = HONEST, flags: int = frames.END_HEADERS) -> bytes:
    return frames.frame(frames.HEADERS, flags, stream, block)


def rapid_reset(ids: Iterator[int]) -> bytes:
    return b"".join(opened(stream) + frames.reset(stream, 8) for stream in (next(ids) for _ in range(500)))


def settings_flood(_: Iterator[int]) -> bytes:
    return frames.settings({frames.INITIAL_WINDOW_SIZE: 1}) * 2_000


def ping_flood(_: Iterator[int]) -> bytes:
    return frames.frame(frames.PING, 0, 0, bytes(8)) * 2_000


def priority_flood(_: Iterator[int]) -> bytes:
    return frames.frame(2, 0, 1, bytes(5)) * 2_000


def unknown_flood(_: Iterator[int]) -> bytes:
    return frames.frame(0xAB, 0xFF, 0, b"x" * 20) * 2_000


def empty_data_flood(ids: Iterator[int]) -> bytes:
    stream = next(ids)
    return opened(stream) + frames.frame(frames.DATA, 0, stream, b"") * 4_000


def continuation_flood(ids: Iterator[int]) -> bytes:
    stream = next(ids)
    return opened(stream, flags=0) + frames.frame(frames.CONTINUATION, 0, stream, b"") * 4_000


def tiny_windows(ids: Iterator[int]) -> bytes:
    """Calls whose answers may leave by one byte at a time."""
    found = frames.settings({frames.INITIAL_WINDOW_SIZE: 0})
    for _ in range(50):
        stream = next(ids)
        found += opened(stream) + frames.frame(frames.DATA, frames.END_STREAM, stream, prefixed(b"x" * 1000))
        found += frames.window_update(stream, 1)
    return found


def slow_bodies(ids: Iterator[int]) -> bytes:
    """Calls that never end."""
    return b"".join(
        opened(stream) + frames.frame(frames.DATA, 0, stream, b"\0\0\0\x10\0x")
        for stream in (next(ids) for _ in range(50))
    )


def no_slash(ids: Iterator[int]) -> bytes:
    block = with_path(CHECK_METHOD.lstrip("/"))
    return b"".join(
        opened(stream, block, frames.END_HEADERS | frames.END_STREAM) for stream in (next(ids) for _ in range(300))
    )


FLOODS: dict[str, Callable[[Iterator[int]], bytes]] = {
    flood.__name__: flood
    for flood in (
        rapid_reset, settings_flood, ping_flood, priority_flood, unknown_flood, empty_data_flood, continuation_flood,
        tiny_windows, slow_bodies, no_slash,
    )
}  # fmt: skip


@pytest.fixture
async def socket() -> AsyncIterator[Path]:
    with short_folder() as folder:
        server = GrpcServer(check_methods(Echo(), lambda: True))
        await server.listen_unix(folder / "check.sock")
        yield folder / "check.sock"
        await server.drain(0.2)


async def flooding(path: Path, flood: Callable[[Iterator[int]], bytes], enough: asyncio.Event, *, reads: bool) -> int:
    """Floods for some rounds, and on until there is ``enough``; how many connections that took."""
    connections = rounds = 0
    ids: Iterator[int] = iter(())
    writer: asyncio.StreamWriter | None = None
    taking: asyncio.Task[bytes] | None = None
    while rounds < _ROUNDS or not enough.is_set():
        rounds += 1
        if writer is None or writer.is_closing() or (taking is not None and taking.done()):
            if writer is not None:
                writer.close()
            reader, writer = await asyncio.open_unix_connection(path)
            taking = asyncio.create_task(reader.read(-1)) if reads else None
            writer.write(GREETING)
            ids, connections = stream_ids(), connections + 1
        writer.write(flood(ids))
        # A server that does not read on is one of the right answers.
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(0.02):
                await writer.drain()
    if writer is not None:
        writer.transport.abort()
    if taking is not None:
        await asyncio.gather(taking, return_exceptions=True)
    return connections


@pytest.mark.parametrize("reads", [True, False], ids=["reads", "reads-nothing"])
@pytest.mark.parametrize("name", FLOODS)
async def test_s82_others_are_answered_while_somebody_floods(socket: Path, name: str, reads: bool):
    assert BLOCK != HONEST
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    channel = grpc.aio.insecure_channel(f"unix:{socket}", options=[("grpc.default_authority", "localhost")])
    try:
        enough = asyncio.Event()
        flood = asyncio.create_task(flooding(socket, FLOODS[name], enough, reads=reads))
        asked = 0
        while not flood.done():
            assert await channel.unary_unary(CHECK_METHOD)(b"honest", timeout=2) == answered(b"honest")
            asked += 1
            if asked == _ANSWERS:
                enough.set()
        assert await flood >= 1
        assert asked >= _ANSWERS
        assert await channel.unary_unary(CHECK_METHOD)(b"after", timeout=2) == answered(b"after")
    finally:
        await channel.close()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < _GROWTH_KILOBYTES
