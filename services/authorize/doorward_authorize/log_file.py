"""A file of lines that several processes append to, with a size at which a new one begins and a number of old ones to keep."""

import fcntl
import os
import sys
import time
from pathlib import Path


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
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
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

    def _rotate(self) -> None:
        """Set the full file aside and drop what is beyond the retention; one process at a time."""
        assert self._path is not None  # noqa: S101  # standard output is not rotated
        lock = os.open(self._path.with_name(f".{self._path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._path.exists() and self._path.stat().st_size >= self._rotate_bytes:  # nobody else was first
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
