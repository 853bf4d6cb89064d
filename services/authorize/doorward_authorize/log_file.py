"""A file of lines that several processes append to, with a size at which a new one begins and a number of old ones to keep."""

import fcntl
import os
import re
import sys
import time
from pathlib import Path

LONGEST_FILE_SECONDS = 86_400.0
"""The span of one file: so much longer than their retention may records be kept."""
_TIME = re.compile(rb'"time":([0-9]{1,12}(?:\.[0-9]{1,9})?)[,}]')
_HEAD_BYTES = 4096


class LogFile:
    """Opened anew for each write, so that whoever moves it away need not tell us. Every method may block; call them in a thread."""

    def __init__(self, path: Path | None, rotate_bytes: int, keep: int, keep_seconds: float) -> None:
        """``None`` is standard output, which others rotate."""
        self._path = path
        self._rotate_bytes = rotate_bytes
        self._keep = keep
        self._keep_seconds = keep_seconds

    def append(self, text: str, *, durable: bool) -> None:
        """Write ``text`` at the end in one piece; when ``durable``, return once it is on the disk.

        Raises:
            OSError: it could not be written.
        """
        if self._path is None:
            sys.stdout.write(text)
            sys.stdout.flush()
            return
        data = text.encode()
        created = not self._path.exists()
        descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            if _is_torn(descriptor):
                data = b"\n" + data
            written = os.write(descriptor, data)
            while written < len(data):
                written += os.write(descriptor, data[written:])
            if durable:
                os.fsync(descriptor)
            size = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
        if created and durable:
            self._sync_folder()
        if size >= self._rotate_bytes:
            self._rotate()

    def tidy(self) -> None:
        """Drop what is beyond the retention; where little is decided, no file fills, and a day's is set aside all the same.

        Raises:
            OSError: it could not be done.
        """
        if self._path is None:
            return
        began = _first_time(self._path)
        self._rotate(is_old=began is not None and time.time() - began >= LONGEST_FILE_SECONDS)

    def _rotate(self, *, is_old: bool = False) -> None:
        """Set the full file aside and drop what is beyond the retention; one process at a time."""
        assert self._path is not None  # noqa: S101  # standard output is not rotated
        lock = os.open(self._path.with_name(f".{self._path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            is_full = self._path.exists() and self._path.stat().st_size >= self._rotate_bytes
            if is_old:
                began = _first_time(self._path)
                is_full = began is not None and time.time() - began >= LONGEST_FILE_SECONDS
            if is_full:  # nobody else was first
                self._path.rename(self._aside(time.time_ns()))
            horizon = time.time() - self._keep_seconds
            for position, old in enumerate(self.old_files()):
                if position >= self._keep or old.stat().st_mtime < horizon:
                    old.unlink(missing_ok=True)
        finally:
            os.close(lock)

    def old_files(self) -> list[Path]:
        """The files set aside, newest first."""
        assert self._path is not None  # noqa: S101  # standard output is not rotated
        return sorted(self._path.parent.glob(f"{self._path.name}.[0-9]*"), reverse=True)

    def _aside(self, nanoseconds: int) -> Path:
        """The name of a file set aside at this moment; sorts by time."""
        assert self._path is not None  # noqa: S101  # standard output is not rotated
        seconds, fraction = divmod(nanoseconds, 10**9)
        return self._path.with_name(
            f"{self._path.name}.{time.strftime('%Y%m%dT%H%M%S', time.gmtime(seconds))}.{fraction:09}"
        )

    def _sync_folder(self) -> None:
        """Make the new name durable too."""
        assert self._path is not None  # noqa: S101  # standard output is not rotated
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _is_torn(descriptor: int) -> bool:
    """Whether a file ends within a line: a full disk, or the end of a process, has cut a record short.

    What is written next must not become a part of it: a record that is promised to be there would be in a line that nobody can read.
    """
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) not in {b"\n", b""}


def _first_time(path: Path) -> float | None:
    """When the first record of a file was made; ``None`` when there is none to read."""
    try:
        with path.open("rb") as file:
            found = _TIME.search(file.read(_HEAD_BYTES))
    except FileNotFoundError:
        return None
    return float(found[1]) if found else None
