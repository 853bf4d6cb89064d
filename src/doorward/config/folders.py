"""Hears of changes in folders from Linux itself (inotify(7)): nothing runs until there is one.

A thread that looks every few milliseconds takes the interpreter from whoever answers checks each time.
"""

import asyncio
import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

_MODIFY, _ATTRIBUTES, _CLOSE_WRITE = 0x2, 0x4, 0x8
_WRITTEN = _MODIFY | _ATTRIBUTES | _CLOSE_WRITE
_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x40, 0x80, 0x100, 0x200
_DELETE_SELF, _MOVE_SELF = 0x400, 0x800
_ONLY_FOLDERS = 0x1000000
_WANTED = _WRITTEN | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF | _ONLY_FOLDERS
_EVENT = struct.Struct("iIII")
"""Watch, what happened, cookie, length of the name behind it; in the machine's order."""
_READ_BYTES = 64 * 1024
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
        self._files = frozenset(os.fsencode(name) for name in files)
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise _last_error()
        for folder in folders:
            if libc.inotify_add_watch(self._descriptor, os.fsencode(folder), _WANTED) < 0:
                error = _last_error()
                os.close(self._descriptor)
                raise error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The kernel waits until nobody looks at the watches any more: 5 to 30 ms, in which checks would wait too.
        await asyncio.to_thread(os.close, self._descriptor)

    async def changed(self) -> None:
        """Return once something has happened since the watch began, and then nothing for a moment."""
        loop = asyncio.get_running_loop()
        heard = asyncio.Event()

        def readable() -> None:
            if self._heard():
                heard.set()

        loop.add_reader(self._descriptor, readable)
        try:
            await heard.wait()
            deadline = loop.time() + _LONGEST_SECONDS
            while heard.is_set() and loop.time() < deadline:
                heard.clear()
                await asyncio.sleep(_QUIET_SECONDS)
        finally:
            loop.remove_reader(self._descriptor)

    def _heard(self) -> bool:
        """Take what there is to hear; whether any of it matters."""
        data = os.read(self._descriptor, _READ_BYTES)
        position, matters = 0, False
        while position < len(data):
            _, happened, _, length = _EVENT.unpack_from(data, position)
            position += _EVENT.size
            name = data[position : position + length].rstrip(b"\0")
            position += length
            # Anything else, as that events were lost or a folder is gone: look.
            matters = matters or bool(happened & ~_WRITTEN) or name in self._files
        return matters


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
