"""Parts of a plane that must go on for as long as it serves.

None of them ever ends by itself. One that does is a bug, and a plane that goes on without it would be wrong in a way that
nobody sees: the plane is unready at once, says which part it was, and ends; its supervisor starts it again.
"""

import asyncio
from collections.abc import Collection, Coroutine
from typing import Any

import structlog

from doorward.errors import ConfigurationError
from doorward.runtime.service import Stop

_log = structlog.stdlib.get_logger(__name__)


class PartEndedError(Exception):
    """A part that must go on has ended."""


async def until_stopped(
    stop: Stop, parts: Collection[asyncio.Task[None]], start: Coroutine[Any, Any, None] | None = None
) -> None:
    """Return when asked to stop. ``start`` is run beside the parts, and may end.

    Raises:
        PartEndedError: a part has returned, failed or was cancelled, or ``start`` has failed.
        ConfigurationError: that is why it failed.
    """
    stopping = asyncio.create_task(stop.wait(), name="stop")
    starting = set() if start is None else {asyncio.create_task(start, name="start")}
    watched = {stopping, *parts, *starting}
    try:
        while not stopping.done():
            done, watched = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                if task not in starting or task.cancelled() or task.exception() is not None:
                    raise _ended(stop, task)
    finally:
        for task in (stopping, *starting):
            task.cancel()
        await asyncio.gather(stopping, *starting, return_exceptions=True)


def _ended(stop: Stop, task: asyncio.Task[None]) -> Exception:
    stop.request()
    error = None if task.cancelled() else task.exception()
    if isinstance(error, ConfigurationError):
        return error  # the operator's to mend
    how = "it was cancelled" if task.cancelled() else "it returned" if error is None else str(error) or repr(error)
    _log.critical("a part has ended", part=task.get_name(), error=how, exc_info=error)
    found = PartEndedError(f"the part `{task.get_name()}` has ended: {how}")
    found.__cause__ = error
    return found
