"""One connection to the store's server: commands out, as many answers in, in order.

The library's own connections and their pool cost a put as much as everything else that the databroker does for it: four coroutines,
a timer and a lock for each command, and a task for each return to the pool. Here a batch of commands is one write and one future.

Concurrency: one exchange at a time; whoever gives it up gives up the connection.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import hiredis
from redis.asyncio.connection import DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse
from redis.exceptions import TimeoutError as RedisTimeoutError

_NOT_YET = object()


class Wire(asyncio.Protocol):
    """A connection. Errors of the server's are answers like others, as the library's exceptions."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse, replyError=DefaultParser.parse_error, notEnoughData=_NOT_YET
        )
        self._transport: asyncio.Transport | None = None
        self._answers: list[Any] = []
        self._wanted = 0
        self._exchange: asyncio.Future[list[Any]] | None = None
        self._heard_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether another exchange can be begun."""
        return self._transport is not None and not self._transport.is_closing() and self._exchange is None

    async def exchange(self, commands: Sequence[Sequence[Any]], silence_seconds: float) -> list[Any]:
        """The answers to ``commands``. The connection is closed unless all of them came.

        Raises:
            RedisConnectionError: the connection has ended.
            RedisTimeoutError: nothing was heard for ``silence_seconds``.
        """
        transport = self._transport
        if transport is None or self._exchange is not None:
            raise RedisConnectionError("the connection is closed or in use")
        self._answers = []
        self._wanted = len(commands)
        answered: asyncio.Future[list[Any]] = self._loop.create_future()
        self._exchange = answered
        self._heard_at = self._loop.time()
        timer = self._loop.call_later(silence_seconds, self._look, answered, silence_seconds)
        packed = [hiredis.pack_command(tuple(command)) for command in commands]
        transport.write(packed[0] if len(packed) == 1 else b"".join(packed))
        try:
            return await answered
        except BaseException:
            # Also when cancelled: an answer that nobody has read must not be taken for the next caller's.
            self.abort()
            raise
        finally:
            timer.cancel()
            self._exchange = None

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def _look(self, answered: "asyncio.Future[list[Any]]", silence_seconds: float) -> None:
        """Give up when the server has been silent for too long; a long answer may take longer than that."""
        if answered.done():
            return
        silent_until = self._heard_at + silence_seconds
        if self._loop.time() < silent_until:
            self._loop.call_at(silent_until, self._look, answered, silence_seconds)
        else:
            self._end(RedisTimeoutError("no answer in time"))

    def _end(self, error: Exception) -> None:
        self.abort()
        if self._exchange is not None and not self._exchange.done():
            self._exchange.set_exception(error)

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready for an exchange."""
        self._transport = cast("asyncio.Transport", transport)

    def eof_received(self) -> None:
        """The server has closed the connection: nobody may take it up again, from now on and not from the loop's next turn."""
        self._end(RedisConnectionError("the server has closed the connection"))

    def connection_lost(self, error: Exception | None) -> None:
        """Tell who waits."""
        self._transport = None
        self._end(RedisConnectionError("the server has closed the connection" if error is None else str(error)))

    def data_received(self, data: bytes) -> None:
        """Take answers out of ``data``."""
        self._heard_at = self._loop.time()
        reader, answers = self._reader, self._answers
        try:
            reader.feed(data)
            while (answer := reader.gets()) is not _NOT_YET:
                if not isinstance(answer, hiredis.PushNotification):  # which we ask for none of
                    answers.append(answer)
        except InvalidResponse as error:
            self._end(RedisConnectionError(f"not an answer of a store: {error}"))
            return
        exchange = self._exchange
        if exchange is None or len(answers) > self._wanted:
            if exchange is None and not answers:
                return
            self._end(RedisConnectionError("an answer that nobody has asked for"))
        elif len(answers) == self._wanted and not exchange.done():
            exchange.set_result(answers)
