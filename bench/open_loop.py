"""Latency at a fixed rate, counted from when a request should have been sent: a slow answer does not hide the ones behind it.

Two parts, each with what the instrument itself costs beside it. The whole path: requests through Envoy, bare and with our check. The check
alone: CheckRequests on the authorizer's socket, and the same server's health answer, which decides nothing. The last line is JSON.

    bench/open_loop.py --seconds 600 --rate 1000      the long run, by hand
    bench/open_loop.py --seconds 30 --reloads 1       as in CI, with a reload in the middle
"""

import argparse
import asyncio
import gc
import json
import time
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
from ext_authz import (
    CHECK_PATH,
    Case,
    Front,
    answers,
    check_request,
    envoy_process,
    fixed_reply,
    our_answer,
    sign_in,
    sockets_of,
    static_server,
)
from tests.support.deployment import Running, free_port, short_folder, start, wait_for

from doorward.rpc import http2_frames as h2

CONNECTIONS = 16


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=int, default=30, help="each case")
    arguments.add_argument("--rate", type=int, default=500, help="requests per second of the whole path")
    arguments.add_argument("--check-rate", type=int, default=2_000, help="checks per second on the socket")
    arguments.add_argument("--reloads", type=int, default=1, help="configuration changes during each case")
    options = arguments.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(short_folder())
        running = start(["demo", "--port", "0"], folder / "data")
        stack.callback(running.stop)
        print(json.dumps(measure(stack, folder, running, options)))


def measure(stack: ExitStack, folder: Path, running: Running, options: argparse.Namespace) -> dict[str, Any]:
    cookie, context = sign_in(running)
    check_socket = next(Path(c.laddr) for c in sockets_of(running) if Path(c.laddr).name == "check.0.sock")
    ports = (free_port(), free_port(), free_port())
    stack.enter_context(static_server(folder / "upstream", "/", b"ok\n", ports[0]))
    fixed = stack.enter_context(fixed_reply(folder / "ceiling", our_answer(check_socket, cookie, context), ports[1]))
    cases = [
        Case("bare", free_port(), []),
        Case("ceiling", free_port(), [psutil.Process(fixed.pid)]),
        Case("doorward", free_port(), [running.member("authorize")]),
    ]
    front = Front("h1", running)
    stack.enter_context(envoy_process(folder, cases, ports, check_socket, context, front))
    report: dict[str, Any] = {"rate": options.rate, "check_rate": options.check_rate, "seconds": options.seconds}
    print(f"{'case':22} {'p50 ms':>8} {'p99 ms':>8} {'p99.9 ms':>9} {'max ms':>8}")
    for case in cases:
        wait_for(lambda case=case: answers(case.port, cookie, front), 20, what=f"the listener `{case.name}`")
        request = f"GET / HTTP/1.1\r\nhost: x\r\ncookie: {cookie}\r\n\r\n".encode()
        times = asyncio.run(http1(case.port, request, options, running))
        report[case.name] = shown(case.name, times)
    for name, path, body in (
        ("check", "/" + CHECK_PATH, check_request(cookie, context)),
        ("empty handler", "/grpc.health.v1.Health/Check", b""),
    ):
        times = asyncio.run(grpc(check_socket, path, body, options, running))
        report[name.replace(" ", "_")] = shown(name, times)
    for quantile in ("p50", "p99", "p999"):
        report[f"added_{quantile}_ms"] = round(report["doorward"][quantile] - report["bare"][quantile], 3)
    return report


def shown(name: str, seconds: list[float]) -> dict[str, float]:
    seconds.sort()
    last = len(seconds) - 1
    found = {
        key: round(seconds[int(last * part)] * 1e3, 3) for key, part in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999))
    }
    found["max"] = round(seconds[-1] * 1e3, 3)
    print(f"{name:22} {found['p50']:8.3f} {found['p99']:8.3f} {found['p999']:9.3f} {found['max']:8.3f}")
    return found


class Schedule:
    """When requests are due, and how late their answers were."""

    def __init__(self, rate: int, seconds: int) -> None:
        self.began = time.perf_counter()
        self.gap = 1 / rate
        self.total = rate * seconds
        self.sent = 0
        self.times: list[float] = []

    def due(self) -> float:
        """When the next request is due."""
        return self.began + self.sent * self.gap

    def answered(self, due: float) -> None:
        self.times.append(time.perf_counter() - due)


async def paced(schedule: Schedule, send: Any, options: argparse.Namespace, running: Running) -> list[float]:
    """Send what is due, whatever is still unanswered; change the configuration meanwhile."""
    gc.collect()
    gc.freeze()
    reloads = [schedule.total * (number + 1) // (options.reloads + 1) for number in range(options.reloads)]
    while schedule.sent < schedule.total:
        now = time.perf_counter()
        while schedule.sent < schedule.total and schedule.due() <= now:
            if reloads and schedule.sent >= reloads[0]:
                reloads.pop(0)
                touched(running.data / "demo.yaml")
            send(schedule.due())
            schedule.sent += 1
        await asyncio.sleep(max(0.0, schedule.due() - time.perf_counter()))
    deadline = time.perf_counter() + 5
    while len(schedule.times) < schedule.total and time.perf_counter() < deadline:  # noqa: ASYNC110  # of many
        await asyncio.sleep(0.01)
    if len(schedule.times) < schedule.total:
        raise SystemExit(f"{schedule.total - len(schedule.times)} requests were not answered")
    return schedule.times


def touched(config: Path) -> None:
    """Another generation of the same configuration."""
    text = config.read_text()
    config.write_text(text.replace("# again\n", "") if "# again\n" in text else text + "# again\n")


async def http1(port: int, request: bytes, options: argparse.Namespace, running: Running) -> list[float]:
    """Requests over kept-alive connections; one that finds none free waits, and its clock runs."""
    schedule = Schedule(options.rate, options.seconds)
    waiting: deque[float] = deque()
    free: deque[Http1Client] = deque()
    loop = asyncio.get_running_loop()

    def next_one(client: "Http1Client") -> None:
        if waiting:
            client.send(request, waiting.popleft())
        else:
            free.append(client)

    for _ in range(CONNECTIONS):
        _, client = await loop.create_connection(lambda: Http1Client(schedule, next_one), "127.0.0.1", port)
        free.append(client)

    def send(due: float) -> None:
        if free:
            free.popleft().send(request, due)
        else:
            waiting.append(due)

    schedule.began = time.perf_counter() + 0.1
    return await paced(schedule, send, options, running)


class Http1Client(asyncio.Protocol):
    """One connection with one request at a time."""

    def __init__(self, schedule: Schedule, done: Any) -> None:
        self.schedule, self.done = schedule, done
        self.transport: Any = None
        self.due = 0.0
        self.seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def send(self, request: bytes, due: float) -> None:
        self.due, self.seen = due, b""
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.seen += data
        head, separator, body = self.seen.partition(b"\r\n\r\n")
        if separator and body.endswith(b"ok\n"):
            if not head.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"not every request passed: {head[:40]!r}")
            self.schedule.answered(self.due)
            self.done(self)


async def grpc(socket: Path, path: str, body: bytes, options: argparse.Namespace, running: Running) -> list[float]:
    """Calls over one HTTP/2 connection, each as soon as it is due."""
    schedule = Schedule(options.check_rate, options.seconds)
    _, client = await asyncio.get_running_loop().create_unix_connection(
        lambda: GrpcClient(schedule, path, body), str(socket)
    )
    schedule.began = time.perf_counter() + 0.1
    return await paced(schedule, client.send, options, running)


class GrpcClient(asyncio.Protocol):
    """As little of HTTP/2 as it takes to call and to see that an answer has ended."""

    def __init__(self, schedule: Schedule, path: str, body: bytes) -> None:
        self.schedule = schedule
        fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x")]
        fields += [("content-type", "application/grpc"), ("te", "trailers")]
        self.block = h2.header_block([(name.encode(), value.encode()) for name, value in fields])
        self.message = b"\0" + len(body).to_bytes(4, "big") + body
        self.pending: dict[int, float] = {}
        self.stream = 1
        self.rest = b""
        self.credit = 0
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.transport.write(h2.PREFACE + h2.settings({h2.INITIAL_WINDOW_SIZE: 2**30}) + h2.window_update(0, 2**30))
        self.transport.write(h2.frame(h2.SETTINGS, h2.ACK, 0))

    def send(self, due: float) -> None:
        self.pending[self.stream] = due
        self.transport.write(
            h2.frame(h2.HEADERS, h2.END_HEADERS, self.stream, (b"\x20" if self.stream == 1 else b"") + self.block)
            + h2.frame(h2.DATA, h2.END_STREAM, self.stream, self.message)
        )
        self.stream += 2

    def data_received(self, data: bytes) -> None:
        data = self.rest + data
        position = 0
        while len(data) - position >= h2.FRAME_BYTES:
            high, low, kind, flags, stream = h2.FRAME.unpack_from(data, position)
            stop = position + h2.FRAME_BYTES + (high << 16 | low)
            if stop > len(data):
                break
            if kind == h2.HEADERS and flags & h2.END_STREAM:
                if b"grpc-status\x010" not in data[position:stop]:
                    raise SystemExit("a call failed")
                self.schedule.answered(self.pending.pop(stream))
            elif kind == h2.DATA:
                self.credit += low
                if self.credit > 2**20:
                    self.transport.write(h2.window_update(0, self.credit))
                    self.credit = 0
            position = stop
        self.rest = data[position:]


if __name__ == "__main__":
    main()
