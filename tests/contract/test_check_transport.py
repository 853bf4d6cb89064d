"""Envoy's calls over a real socket: well-formed gRPC is served, everything else gets a status that is not OK."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.rpc.status_pb2 import Status
from grpc_health.v1.health_pb2 import HealthCheckResponse
from tests.support.deployment import short_folder

from doorward.envoy_api.envoy.service.auth.v3.external_auth_pb2 import (
    CheckResponse,
    DeniedHttpResponse,
    OkHttpResponse,
)
from doorward.rpc.grpc_server import GrpcServer
from doorward_authorize.transport import CHECK_METHOD, HEALTH_METHOD, check_methods

YES = CheckResponse(status=Status(code=0), ok_response=OkHttpResponse()).SerializeToString()
NO = CheckResponse(status=Status(code=7), denied_response=DeniedHttpResponse()).SerializeToString()


def answered(data: bytes) -> bytes:
    """A yes with something of the question behind it, as a field that nobody knows."""
    return YES + b"\xa2\x06" + _varint(len(data)) + data[::-1]


def _varint(number: int) -> bytes:
    low = number & 0x7F
    return bytes([low]) if number < 128 else bytes([low | 0x80]) + _varint(number >> 7)


class Echo:
    def check(self, data: bytes, *, traceparent: bytes = b"") -> bytes | Awaitable[bytes]:
        del traceparent
        if data == b"bug":
            raise RuntimeError("planted")
        if data.startswith(b"say "):
            return data[4:]
        return self.later(data) if data.startswith(b"later") else answered(data)

    async def later(self, data: bytes) -> bytes:
        await asyncio.sleep(0)
        if data == b"later bug":
            raise RuntimeError("planted")
        if data == b"later never":
            await asyncio.Event().wait()
        if data.startswith(b"later say "):
            return data[10:]
        return answered(data)

    def overloaded(self, data: bytes) -> bytes:
        del data
        return NO


class Health:
    well = True


@pytest.fixture
async def served() -> AsyncIterator[tuple[grpc.aio.Channel, Health, Path]]:
    with short_folder() as folder:
        health = Health()
        path = folder / "check.sock"
        server = GrpcServer(check_methods(Echo(), lambda: health.well))
        await server.listen_unix(path)
        channel = grpc.aio.insecure_channel(f"unix:{path}", options=[("grpc.default_authority", "localhost")])
        try:
            yield channel, health, path
        finally:
            await channel.close()
            await server.drain(1)


Served = tuple[grpc.aio.Channel, Health, Path]


async def test_a_check_is_answered(served: Served):
    assert await served[0].unary_unary(CHECK_METHOD)(b"abc", timeout=5) == answered(b"abc")
    assert await served[0].unary_unary(CHECK_METHOD)(b"later", timeout=5) == answered(b"later")
    big = bytes(range(256)) * 4000
    assert await served[0].unary_unary(CHECK_METHOD)(big, timeout=5) == answered(big)


@pytest.mark.parametrize(
    ("method", "message", "code"),
    [
        (CHECK_METHOD, b"bug", grpc.StatusCode.INTERNAL),
        (CHECK_METHOD, b"later bug", grpc.StatusCode.INTERNAL),
        (CHECK_METHOD, bytes(5 * 1024 * 1024), grpc.StatusCode.INVALID_ARGUMENT),
        ("/other.Service/Method", b"x", grpc.StatusCode.UNIMPLEMENTED),
        ("/envoy.service.auth.v3.Authorization/Other", b"x", grpc.StatusCode.UNIMPLEMENTED),
    ],
)
async def test_what_cannot_be_served_is_never_ok(served: Served, method: str, message: bytes, code: grpc.StatusCode):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served[0].unary_unary(method)(message, timeout=5)
    assert caught.value.code() is code


def test_yes_and_no_begin_as_protobuf_writes_them():
    assert (YES, NO) == (b"\x0a\x00\x1a\x00", b"\x0a\x02\x08\x07\x12\x00")


@pytest.mark.parametrize("when", [b"say ", b"later say "])
@pytest.mark.parametrize(
    "answer",
    [b"", b"\x1a\x00", b"\x12\x00", b"\x0a\x00", b"\x0a\x02\x08\x07", b"\x0a\x00\x12\x00", b"\x0a\x02\x08\x07\x1a\x00"],
    ids=["empty", "yes-without-status", "no-without-status", "bare-ok", "bare-no", "ok-and-denied", "no-and-ok"],
)
async def test_s07_an_answer_that_says_nothing_is_not_sent(served: Served, when: bytes, answer: bytes):
    """To Envoy a CheckResponse without a status is a yes, an empty one above all."""
    ask = served[0].unary_unary(CHECK_METHOD)
    for said in (YES, NO):
        assert await ask(when + said, timeout=5) == said
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(when + answer, timeout=5)
    assert caught.value.code() is grpc.StatusCode.INTERNAL


async def test_a_compressed_message_is_refused(served: Served):
    call = served[0].unary_unary(CHECK_METHOD)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"a" * 5000, timeout=5, compression=grpc.Compression.Gzip)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_the_socket_is_private(served: Served):
    assert served[2].stat().st_mode & 0o077 == 0


async def test_the_callers_deadline_ends_a_check_that_waits(served: Served):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served[0].unary_unary(CHECK_METHOD)(b"later never", timeout=0.1)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_envoy_is_told_whether_this_worker_can_decide(served: Served):
    ask = served[0].unary_unary(HEALTH_METHOD, response_deserializer=HealthCheckResponse.FromString)
    assert (await ask(b"", timeout=5)).status == HealthCheckResponse.SERVING
    served[1].well = False
    assert (await ask(b"", timeout=5)).status == HealthCheckResponse.NOT_SERVING
