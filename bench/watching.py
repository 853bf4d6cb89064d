"""Many watchers of a databroker in one process, cheap enough that they are not what is measured.

Each has a connection of its own and reads frames by hand; a message that every watcher gets is looked into once. grpcio would spend
more on a hundred streams than the databroker that feeds them.
"""

import asyncio
import contextlib
import json
import struct
import sys
import time
from pathlib import Path

from doorward.api.databroker.v1 import databroker_pb2 as pb
from doorward.config.endpoints import LocalEndpoints
from doorward.rpc import http2_frames as frames

WATCH = "/doorward.api.databroker.v1.DatabrokerService/Watch"
_WINDOW = 2**31 - 1
_HEADERS = frames.header_block(
    [
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", WATCH.encode()), (b":authority", b"localhost"),
        (b"te", b"trailers"), (b"content-type", b"application/grpc"),
    ]
)  # fmt: skip


class Watchers:
    """What all of them share: how late each change was, in milliseconds."""

    def __init__(self) -> None:
        self.late: list[float] = []
        self.consistent = 0
        self.ended = 0
        self.messages = 0
        self._seen: dict[bytes, list[float]] = {}

    def take(self, message: bytes) -> None:
        now = time.time()
        written = self._seen.get(message)
        if written is None:
            if len(self._seen) > 1_000:
                self._seen.clear()
            response = pb.WatchResponse.FromString(message)
            self.consistent += response.WhichOneof("message") == "consistent"
            written = [float(record.data) for record in response.batch.records if record.data]
            if response.WhichOneof("message") == "batch":
                self._seen[message] = written
        self.messages += 1
        self.late += [(now - at) * 1000 for at in written]


class Watcher(asyncio.Protocol):
    """One connection with one Watch on it."""

    def __init__(self, shared: Watchers, name: str, types: list[str]) -> None:
        self._shared = shared
        self._start = pb.WatchRequest(start=pb.WatchRequest.Start(types=types, watcher_id=name)).SerializeToString()
        self._rest = b""
        self._body = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        message = b"\0" + len(self._start).to_bytes(4, "big") + self._start
        transport.write(
            frames.PREFACE
            + frames.settings({frames.INITIAL_WINDOW_SIZE: _WINDOW, frames.MAX_FRAME_SIZE: 2**20})
            + frames.window_update(0, _WINDOW - 65_535)
            + frames.frame(frames.HEADERS, frames.END_HEADERS, 1, _HEADERS)
            + frames.frame(frames.DATA, 0, 1, message)
        )

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        place = 0
        while len(data) - place >= frames.FRAME_BYTES:
            high, low, kind, flags, _ = frames.FRAME.unpack_from(data, place)
            start = place + frames.FRAME_BYTES
            stop = start + (high << 16) + low
            if stop > len(data):
                break
            place = stop
            if kind == frames.DATA:
                self._body += data[start:stop]
            elif kind == frames.PING and not flags & frames.ACK:
                self._transport.write(frames.frame(frames.PING, frames.ACK, 0, data[start:stop]))
            elif kind == frames.HEADERS and flags & frames.END_STREAM:
                self._shared.ended += 1
        self._rest = data[place:]
        body = self._body
        while len(body) >= 5:
            (size,) = struct.unpack_from(">xI", body)
            if len(body) < 5 + size:
                return
            self._shared.take(bytes(body[5 : 5 + size]))
            del body[: 5 + size]


async def watch(folder: Path, count: int, seconds: float) -> None:
    """In a process of its own: watch users, say when all are up to date, and print how late the changes since then were."""
    shared = Watchers()
    loop = asyncio.get_running_loop()
    socket = str(LocalEndpoints(folder).databroker("authorize"))
    transports = [
        (await loop.create_unix_connection(lambda n=n: Watcher(shared, f"w{n}", ["User"]), socket))[0]  # type: ignore[misc]
        for n in range(count)
    ]
    async with asyncio.timeout(60):
        while shared.consistent < count:
            assert not shared.ended, "a watch has ended"
            await asyncio.sleep(0.01)
    shared.late.clear()
    shared.messages = 0
    began = time.process_time()
    print("ready", flush=True)
    await asyncio.sleep(seconds + 1.0)
    used = time.process_time() - began
    for transport in transports:
        with contextlib.suppress(OSError):
            transport.abort()
    late = sorted(shared.late)
    if not late:
        sys.exit("no watcher has seen a change; give it more --seconds")
    print(
        json.dumps(
            {
                "seen": len(late),
                "cut": shared.ended,
                "messages": shared.messages,
                "p50": late[len(late) // 2],
                "p99": late[int(len(late) * 0.99)],
                "max": late[-1],
                "cores": used / (seconds + 1.0),
            }
        )
    )
