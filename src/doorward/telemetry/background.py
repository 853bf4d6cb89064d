"""Work in the background that nobody awaits: when it fails, that is said."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

import structlog

_Result = TypeVar("_Result")

_log = structlog.stdlib.get_logger(__name__)


def watched(
    task: asyncio.Task[_Result], what: str, on_failure: Callable[[], object] = lambda: None
) -> asyncio.Task[_Result]:
    """Log it when ``task`` fails, and call ``on_failure``: for work that others would not miss, or only later.

    Parts without which a plane must not go on are for ``doorward.runtime.parts``.
    """

    def ended(task: asyncio.Task[_Result]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("work in the background has failed", what=what, error=str(error) or repr(error), exc_info=error)
            on_failure()

    task.add_done_callback(ended)
    return task
