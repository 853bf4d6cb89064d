"""The listener for machines of ours: metrics, life, readiness, and nothing else."""

import asyncio
import contextlib
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry, Counter
from tests.support.deployment import short_folder

from doorward.config.endpoints import Address
from doorward.telemetry.probes import ProbeServer


async def ask(request: bytes, *, is_ready: bool = True, why: Callable[[], str] | None = None) -> bytes:
    registry = CollectorRegistry()
    Counter("planted", "A counter.", registry=registry).inc(3)
    server = ProbeServer(registry, lambda: is_ready, why)
    with short_folder() as folder:
        await server.start(folder / "p.sock")
        assert (folder / "p.sock").stat().st_mode & 0o077 == 0
        reader, writer = await asyncio.open_unix_connection(folder / "p.sock")
        writer.write(request)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        await server.stop()
    return answer


@pytest.mark.parametrize(
    ("path", "is_ready", "status", "part"),
    [
        ("/metrics", True, 200, b"planted_total 3.0"),
        ("/metrics", True, 200, b"process_resident_memory_bytes"),
        ("/healthz", False, 200, b"ok"),
        ("/readyz", True, 200, b"ready"),
        ("/readyz", False, 503, b"not ready"),
        ("/readyz?x=1", True, 200, b"ready"),
        ("/debug", True, 404, b"not found"),
        ("/", True, 404, b"not found"),
    ],
)
async def test_what_is_asked_for_is_answered(path: str, is_ready: bool, status: int, part: bytes):
    answer = await ask(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode(), is_ready=is_ready)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert part in answer


@pytest.mark.parametrize("request_bytes", [b"POST /metrics HTTP/1.1\r\n\r\n", b"garbage\r\n\r\n", b"\r\n\r\n"])
async def test_nothing_but_a_get_is_served(request_bytes: bytes):
    assert (await ask(request_bytes)).startswith(b"HTTP/1.1 405 ")


@pytest.mark.parametrize("request_bytes", [b"GET /healthz HTTP/1.1\r\n", b"x" * 100_000, b""])
async def test_half_a_request_or_an_endless_one_is_not_answered(request_bytes: bytes):
    with contextlib.suppress(ConnectionError):  # closed while we were still sending
        assert await ask(request_bytes) == b""


async def test_whoever_asks_learns_what_keeps_it_from_being_ready():
    for problem, body in (("no key", b"not ready: no key\n"), ("", b"ready\n")):
        answer = await ask(b"GET /readyz HTTP/1.1\r\n\r\n", is_ready=not problem, why=lambda problem=problem: problem)
        assert answer.endswith(b"\r\n\r\n" + body)


async def test_it_listens_at_an_address_too():
    server = ProbeServer(CollectorRegistry(), lambda: True)
    port = await server.start(Address(host="127.0.0.1", port=0))
    assert port > 0
    await server.stop()
