"""Latency at a fixed rate, counted from when a request should have been sent: a slow answer does not hide the ones behind it.

Two parts, each with what the instrument itself costs beside it. The whole path: requests through Envoy, bare and with our check. The check
alone: CheckRequests on the authorizer's socket at half the rate that saturates it, from a client in C, and the same server's health answer,
which decides nothing. ``changes.py`` asks the same while much changes. The last line is JSON.

    bench/open_loop.py --seconds 120       ten minutes, by hand
    bench/open_loop.py --seconds 4         half a minute, as in CI
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
from envoy_cases import (
    CHECK_PATH,
    Case,
    Front,
    answers,
    cluster,
    envoy_process,
    fixed_reply,
    loopback,
    pipe,
    static_server,
)
from ext_authz import check_request, our_answer, sign_in, sockets_of
from paced_calls import PacedCalls
from tests.support.deployment import Running, free_port, short_folder, start, wait_for

CONNECTIONS = 16
SATURATING = 100_000
"""Calls of the closed loop that finds the rate."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=int, default=30, help="each case")
    arguments.add_argument("--rate", type=int, default=500, help="requests per second of the whole path")
    arguments.add_argument(
        "--check-rate", type=int, default=0, help="checks per second on the socket; 0: half of what saturates it"
    )
    arguments.add_argument(
        "--reloads", type=int, default=1, help="configuration changes during each case of the whole path"
    )
    options = arguments.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(short_folder())
        running = start(["demo", "--port", "0"], folder / "data")
        stack.callback(running.stop)
        print(json.dumps(measure(stack, folder, running, options)))


def measure(stack: ExitStack, folder: Path, running: Running, options: argparse.Namespace) -> dict[str, Any]:
    cookie, context = sign_in(running)
    check_socket = next(Path(c.laddr) for c in sockets_of(running) if Path(c.laddr).name == "check.0.sock")
    upstream, ceiling = free_port(), free_port()
    stack.enter_context(static_server(folder / "upstream", "/", b"ok\n", upstream))
    fixed = stack.enter_context(fixed_reply(folder / "ceiling", our_answer(check_socket, cookie, context), ceiling))
    clusters = [
        cluster("upstream", [loopback(upstream)]),
        cluster("ceiling", [loopback(ceiling)]),
        cluster("doorward", [pipe(check_socket)]),
    ]
    cases = [
        Case("bare", free_port(), []),
        Case("ceiling", free_port(), [psutil.Process(fixed.pid)]),
        Case("doorward", free_port(), [running.member("authorize")]),
    ]
    front = Front("h1", running)
    stack.enter_context(envoy_process(folder, cases, clusters, context, front))
    report: dict[str, Any] = {"rate": options.rate, "seconds": options.seconds}
    print(f"{'case':22} {'p50 ms':>8} {'p99 ms':>8} {'p99.9 ms':>9} {'max ms':>8}")
    for case in cases:
        wait_for(lambda case=case: answers(case.port, cookie, front), 20, what=f"the listener `{case.name}`")
        request = f"GET / HTTP/1.1\r\nhost: x\r\ncookie: {cookie}\r\n\r\n".encode()
        times = asyncio.run(http1(case.port, request, options, running))
        report[case.name] = shown(case.name, times)
    report |= on_the_socket(folder, check_socket, check_request(cookie, context), options)
    for quantile in ("p50", "p99", "p999"):
        report[f"added_{quantile}_ms"] = round(report["doorward"][quantile] - report["bare"][quantile], 3)
    return report


def on_the_socket(folder: Path, socket: Path, check: bytes, options: argparse.Namespace) -> dict[str, Any]:
    """The check beside a handler that does nothing."""
    client = PacedCalls(folder)
    checks, nothing = ("/" + CHECK_PATH, check), ("/grpc.health.v1.Health/Check", b"")
    saturated = client.saturated(socket, *checks, SATURATING)
    rate = options.check_rate or round(saturated / 2)
    report: dict[str, Any] = {"check_saturated_rps": round(saturated), "check_rate": rate}
    print(f"on the socket, {rate} calls a second of {saturated:.0f}:")
    for name, call in (("empty handler", nothing), ("check", checks)):
        times = client.start(socket, *call, rate, rate * options.seconds).times()
        key = name.replace(" ", "_")
        report[key] = shown(name, times.from_due)
        report[key + "_from_written"] = shown(name + ", written", times.from_written)
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
    deadline = time.perf_counter() + 20
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


if __name__ == "__main__":
    main()
