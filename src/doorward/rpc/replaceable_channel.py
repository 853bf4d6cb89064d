"""A channel whose credentials may be replaced: calls that begin use the newest, calls that run go on as they are.

gRPC's channels carry their certificate for life. This one stands for a row of them: when the certificate is replaced a new
channel takes over, and the old one is closed once its last call has ended.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Self

import grpc
import grpc.aio

_LAST_CALL_SECONDS = 30 * 86400.0
"""How long a replaced channel waits for the calls that it carries: a watch lives as long as its connection."""


class ReplaceableChannel(grpc.aio.Channel):
    """See the module.

    Concurrency: belongs to one event loop.
    """

    def __init__(self, make: Callable[[], grpc.aio.Channel]) -> None:
        self._make = make
        self._inner = make()
        self._methods: dict[tuple[str, str], Any] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def replace(self) -> None:
        """Let calls that begin from now on use a new channel."""
        old, self._inner = self._inner, self._make()
        self._methods.clear()
        task = asyncio.ensure_future(old.close(_LAST_CALL_SECONDS))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def unary_unary(self, *arguments: Any, **options: Any) -> Any:
        """See ``grpc.aio.Channel``."""
        return self._newest("unary_unary", arguments, options)

    def unary_stream(self, *arguments: Any, **options: Any) -> Any:
        """See ``grpc.aio.Channel``."""
        return self._newest("unary_stream", arguments, options)

    def stream_unary(self, *arguments: Any, **options: Any) -> Any:
        """See ``grpc.aio.Channel``."""
        return self._newest("stream_unary", arguments, options)

    def stream_stream(self, *arguments: Any, **options: Any) -> Any:
        """See ``grpc.aio.Channel``."""
        return self._newest("stream_stream", arguments, options)

    def _newest(self, kind: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Callable[..., Any]:
        """A method that is looked up on the newest channel whenever it is called."""
        key = (kind, str(arguments[0]))

        def call(*call_arguments: Any, **call_options: Any) -> Any:
            method = self._methods.get(key)
            if method is None:
                method = self._methods[key] = getattr(self._inner, kind)(*arguments, **options)
            return method(*call_arguments, **call_options)

        return call

    async def close(self, grace: float | None = None) -> None:
        """End every call and every connection."""
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._inner.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """State of the newest channel."""
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """See ``grpc.aio.Channel``."""
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Return once the newest channel is connected."""
        await self._inner.channel_ready()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
