"""What a gRPC server of ours serves, and the statuses that it ends calls with."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from doorward.rpc.http2_frames import CallHeaders

MESSAGE_LIMIT_BYTES = 4 * 1024 * 1024

# https://grpc.io/docs/guides/status-codes
OK = 0
CANCELLED = 1
INVALID_ARGUMENT = 3
DEADLINE_EXCEEDED = 4
NOT_FOUND = 5
PERMISSION_DENIED = 7
RESOURCE_EXHAUSTED = 8
FAILED_PRECONDITION = 9
UNIMPLEMENTED = 12
INTERNAL = 13
UNAVAILABLE = 14

Unary = Callable[[bytes], bytes | Awaitable[bytes]]
"""Message in, message out. Bytes are sent at once; anything else is awaited in a task."""
Joined = Callable[[bytes, bytes], bytes | Awaitable[bytes]]
"""The same, with ``CallHeaders.traceparent`` after the message."""
Receive = Callable[[], Awaitable[bytes | None]]
"""The next message, or ``None`` when the peer has ended its side or the call."""


class Send(Protocol):
    """Sends the messages of a stream, one at a time."""

    async def __call__(self, message: bytes) -> None:
        """Send a message and return once there is room for another one."""

    def at_once(self, message: bytes) -> bool:
        """Send a message if the peer takes it now; else nothing is done. Only while no other one is being sent."""
        ...


Stream = Callable[[Receive, Send], Awaitable[int]]
"""Serves a stream and returns the gRPC status that ends it. 0 is taken for a mistake and becomes INTERNAL; see ``CallEnded``."""


class CallEnded(Exception):  # noqa: N818  # most ends are no errors
    """Raised by a handler to end its call with a status and a text for the caller. A stream ends with OK in no other way."""

    def __init__(self, status: int, text: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(frozen=True, slots=True, kw_only=True)
class Methods:
    """What is served, by path."""

    unary: Mapping[bytes, Unary]
    streams: Mapping[bytes, Stream]
    overloaded: Unary
    """Answers unary calls for which there is no room."""
    joined: Mapping[bytes, Joined] = field(default_factory=dict)
    """Unary methods that also want to hear of a caller's `traceparent`; asked in the place of ``unary`` when there is one."""
    refused: Callable[[CallHeaders], CallEnded | None] | None = None
    """Says whether a call is refused by its headers alone."""
    message_limit_bytes: int = MESSAGE_LIMIT_BYTES
    """The longest message that a caller may send."""
