"""One call of an HTTP/2 connection: what has come of it, and what is to go."""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from doorward.rpc.grpc_methods import MESSAGE_LIMIT_BYTES
from doorward.rpc.http2_frames import CallHeaders

SPARE_BYTES = 64 * 1024
"""What a call may have sent beyond its longest message."""
CALL_WINDOW_BYTES = MESSAGE_LIMIT_BYTES + SPARE_BYTES


@dataclass(eq=False, slots=True)
class Call:
    """One call that has not ended."""

    stream: int
    headers: CallHeaders
    granted: int = 0
    """Bytes that the peer allows us to send, beyond what it allows every call at first; negative for what is sent of that."""
    body: bytearray | None = None
    received: int = 0
    """Bytes of its messages that count against the connection's window."""
    allowed: int = CALL_WINDOW_BYTES
    """Bytes that we allow the peer to send."""
    credit: int = 0
    """Bytes dealt with that we have not yet allowed again."""
    ended: bool = False
    """The peer has ended its side."""
    opened: bool = False
    """Our headers are sent."""
    task: "asyncio.Task[bytes] | asyncio.Task[None] | None" = None
    messages: "deque[bytes] | None" = None
    waiter: "asyncio.Future[None] | None" = None
    sender: "asyncio.Future[None] | None" = None
    unsent: deque[bytes | memoryview] = field(default_factory=deque)
    status: int | None = None
    """Set once the call is to end when everything unsent is sent."""
    text: str = ""
    """What is said with the status."""
