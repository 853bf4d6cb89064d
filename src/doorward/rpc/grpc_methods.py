"""What a gRPC server of ours serves, and the statuses that it ends calls with."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

MESSAGE_LIMIT_BYTES = 4 * 1024 * 1024

# https://grpc.io/docs/guides/status-codes
CANCELLED = 1
INVALID_ARGUMENT = 3
DEADLINE_EXCEEDED = 4
PERMISSION_DENIED = 7
RESOURCE_EXHAUSTED = 8
UNIMPLEMENTED = 12
INTERNAL = 13
UNAVAILABLE = 14

Unary = Callable[[bytes], bytes | Awaitable[bytes]]
"""Message in, message out. Bytes are sent at once; anything else is awaited in a task."""
Receive = Callable[[], Awaitable[bytes | None]]
"""The next message, or ``None`` when the peer has ended its side or the call."""
Send = Callable[[bytes], Awaitable[None]]
Stream = Callable[[Receive, Send], Awaitable[int]]
"""Serves a stream and returns the gRPC status that ends it. 0 is taken for a mistake and becomes INTERNAL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Methods:
    """What is served, by path."""

    unary: Mapping[bytes, Unary]
    streams: Mapping[bytes, Stream]
    overloaded: Unary
    """Answers unary calls for which there is no room."""
