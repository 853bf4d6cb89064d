"""One way to a Redis or Valkey, with its behaviours pinned and its errors made ours."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)

from doorward.errors import OutcomeUnknownError, UnavailableError

ANSWER_SECONDS = 2.0
CONNECT_SECONDS = 1.0


def connect(url: str, *, block_seconds: float = 0.0) -> Redis:
    """A client for ``url`` (``redis://``, ``rediss://`` or ``unix://``); connects on first use.

    The library's own retries are off: it would repeat a write whose answer was lost. ``block_seconds`` is for the
    connection that waits for the feed, whose answers take that much longer.
    """
    return Redis.from_url(
        url,
        protocol=3,
        legacy_responses=False,
        decode_responses=False,
        socket_timeout=ANSWER_SECONDS + block_seconds,
        socket_connect_timeout=CONNECT_SECONDS,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
        max_connections=64,
    )


@asynccontextmanager
async def translated(*, writing: bool = False) -> AsyncIterator[None]:
    """Turns the library's errors into ours.

    Raises:
        UnavailableError: nothing was done.
        OutcomeUnknownError: only when ``writing``: sent, but no answer.
    """
    try:
        yield
    except (BusyLoadingError, ReadOnlyError, OutOfMemoryError) as error:
        raise UnavailableError(f"the store takes no writes now: {type(error).__name__}") from error
    except (RedisConnectionError, RedisTimeoutError, OSError) as error:
        if writing:
            raise OutcomeUnknownError(f"no answer from the store: {type(error).__name__}") from error
        raise UnavailableError(f"the store does not answer: {type(error).__name__}") from error
    except RedisError as error:
        raise UnavailableError(f"the store refuses: {error}") from error
