"""The one channel factory."""

from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

import grpc
import grpc.aio

from doorward.rpc.status import error_of

T = TypeVar("T")

MESSAGE_LIMIT_BYTES = 64 * 1024 * 1024
_OPTIONS = [
    # A service config could turn on retries; a write is repeated only by whoever knows its request id.
    ("grpc.enable_retries", 0),
    # A plane that was restarted must be found again at once, not after gRPC's default of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.default_authority", "localhost"),
    # Each channel its own connection: a watch must not share fate or flow control with short calls elsewhere.
    ("grpc.use_local_subchannel_pool", 1),
]


def open_channel(path: Path) -> grpc.aio.Channel:
    """A channel to the service on a Unix socket; connects on first use, and again after every loss."""
    return grpc.aio.insecure_channel(f"unix:{path}", options=_OPTIONS)


async def call(awaitable: Awaitable[T]) -> T:
    """The answer of a unary call, with gRPC's errors as ours.

    Raises:
        DoorwardError: as ``status.error_of`` says.
    """
    try:
        return await awaitable
    except grpc.aio.AioRpcError as error:
        raise error_of(error) from error
