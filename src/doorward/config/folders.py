"""Hears of changes in folders from Linux itself (inotify(7)): nothing runs until there is one.

A thread that looks every few milliseconds takes the interpreter from whoever answers checks each time.
"""

import asyncio
import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from asyncinotify import Event, Inotify, Mask

_WRITTEN = Mask.MODIFY | Mask.ATTRIB | Mask.CLOSE_WRITE
_WANTED = _WRITTEN | Mask.MOVE | Mask.CREATE | Mask.DELETE | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ONLYDIR
_QUIET_SECONDS = 0.02
_LONGEST_SECONDS = 0.2
"""Who writes a file in pieces, or several files, is waited for so long."""


class FolderWatch:
    """Watches from when it is made until it is closed. Concurrency: belongs to one event loop."""

    def __init__(self, folders: Iterable[Path], files: Iterable[str]) -> None:
        """Watch ``folders``: what comes and goes in them under any name, and writing to a file with one of the names ``files``.

        Others may write to files beside a configuration all the time; a log, for example.

        Raises:
            OSError: the kernel gives no more watches, or a folder is not there.
        """
        self._files = frozenset(files)
        self._inotify = Inotify()
        try:
            for folder in folders:
                self._inotify.add_watch(folder, _WANTED)
        except OSError:
            self._inotify.close()
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The kernel waits until nobody looks at the watches any more: 5 to 30 ms, in which checks would wait too.
        await asyncio.to_thread(self._inotify.close)

    async def changed(self) -> None:
        """Return once something has happened since the watch began, and then nothing for a moment."""
        await self._next()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST_SECONDS):
                while True:
                    async with asyncio.timeout(_QUIET_SECONDS):
                        await self._next()

    async def _next(self) -> Event:
        """The next event that matters."""
        while True:
            event = await self._inotify.get()
            # Anything but writing, as that events were lost or a folder is gone: look.
            if event.mask & ~_WRITTEN or os.fspath(event.name or "") in self._files:
                return event
