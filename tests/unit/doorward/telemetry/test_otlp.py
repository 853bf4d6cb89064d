"""Sending to a collector: what becomes of what is queued when the process ends."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.support.threaded import serving

from doorward.telemetry import otlp
from doorward.telemetry.otlp import BATCH, OtlpSender

LONG = 5.0


class Collector(ThreadingHTTPServer):
    """Answers once it may."""

    daemon_threads = True

    def __init__(self) -> None:
        self.got: list[int] = []
        self.asked = threading.Event()
        self.answers = threading.Event()
        self.answers.set()
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.set()
        self.server.answers.wait(LONG)
        self.server.got += body
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # whoever asked did not wait
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with serving(Collector()) as server:
        try:
            yield server
        finally:
            server.answers.set()


class Dropped:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self, count: int) -> None:
        self.count += count


def sender(port: int, dropped: Dropped) -> OtlpSender[int]:
    def body(items: Sequence[int]) -> object:
        return list(items)

    return OtlpSender(f"http://127.0.0.1:{port}", "/v1/x", body, dropped)


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(LONG):
        while not holds():
            await asyncio.sleep(0.01)


async def ended(task: asyncio.Task[None]) -> list[Any]:
    task.cancel()
    with capture_logs() as logs:
        await asyncio.gather(task, return_exceptions=True)
    return [entry["lost"] for entry in logs if "lost" in entry]


async def test_what_is_queued_leaves_before_the_end(collector: Collector, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(otlp, "LEAVE_SECONDS", LONG)
    dropped = Dropped()
    sending = sender(collector.server_port, dropped)
    task = asyncio.create_task(sending.run())
    collector.answers.clear()
    sending.offer(range(3))
    await until(collector.asked.is_set)
    sending.offer(range(3, 2 * BATCH))
    asyncio.get_running_loop().call_later(0.05, collector.answers.set)
    assert await ended(task) == []
    assert collector.got == list(range(2 * BATCH)), "what was on its way too, and once"
    assert dropped.count == 0


async def test_a_collector_that_does_not_answer_holds_nobody_up_and_what_is_left_is_counted(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(otlp, "LEAVE_SECONDS", 0.1)
    dropped = Dropped()
    sending = sender(collector.server_port, dropped)
    task = asyncio.create_task(sending.run())
    collector.answers.clear()
    sending.offer(range(3))
    await until(collector.asked.is_set)
    sending.offer(range(3, 10))
    assert await ended(task) == [10]
    assert dropped.count == 10
    sending.offer(range(4))
    assert dropped.count == 14, "what comes after the end is lost as well"
    # The thread that waited for an answer is let go: the process could not end before it.
    await asyncio.wait_for(asyncio.get_running_loop().shutdown_default_executor(), LONG / 2)


async def test_where_no_collector_is_the_end_comes_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(otlp, "LEAVE_SECONDS", 10 * LONG)
    monkeypatch.setattr(otlp, "_PAUSE_SECONDS", 10 * LONG)
    dropped = Dropped()
    with serving(Collector()) as server:
        port = server.server_port
    sending = sender(port, dropped)
    task = asyncio.create_task(sending.run())
    sending.offer(range(3))
    await until(lambda: dropped.count == 3)
    sending.offer(range(2 * BATCH))
    async with asyncio.timeout(LONG):
        assert sum(await ended(task)) == 2 * BATCH
    assert dropped.count == 2 * BATCH + 3
