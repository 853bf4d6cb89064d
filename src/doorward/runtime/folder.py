"""The data folder and the run folder of one deployment, held by one process at a time."""

import fcntl
import os
import stat
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from doorward.errors import ConfigurationError

_LOCK = "lock"
_STEP_SECONDS = 0.05


class HeldFolder:
    """Holds a folder, or one ``part`` in it, with a lock that the kernel drops when the holder ends, however it ends."""

    def __init__(self, folder: Path, part: str = "", remedy: str = "use --data", patience_seconds: float = 0.0) -> None:
        """``remedy`` is what somebody can do who does not want to stop the one that holds it.

        One that is about to end is waited for as long as ``patience_seconds``.
        """
        self._path = folder / f"{part}.{_LOCK}" if part else folder / _LOCK
        self._folder = folder
        self._what = f"{folder}: error: `{part}` is" if part else f"{folder}: error:"
        self._remedy = remedy
        self._tries = 1 + int(patience_seconds / _STEP_SECONDS)
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        """Take the lock.

        Raises:
            ConfigurationError: another process holds it; the text names that process.
        """
        private_folder(self._folder)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not self._is_taken(descriptor):
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise ConfigurationError(
                [f"{self._what} in use by process {holder or 'unknown'} (stop it, or {self._remedy})"]
            )
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor
        return self

    def _is_taken(self, descriptor: int) -> bool:
        for left in reversed(range(self._tries)):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if left:
                    # Nothing runs yet that could be kept waiting, and `flock` knows no time limit.
                    time.sleep(_STEP_SECONDS)
            else:
                return True
        return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the lock back; the file stays, so that nobody locks an unlinked one."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None


def private_folder(path: Path) -> Path:
    """Make ``path`` a folder of mode 0700 that belongs to us, and return it.

    Raises:
        ConfigurationError: it is somebody else's, or no folder; sockets and keys there would not be private.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise ConfigurationError([f"{path}: error: cannot be used as a folder: {error.strerror}"]) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ConfigurationError([f"{path}: error: not a folder of this user"])
    if stat.S_IMODE(found.st_mode) & 0o077:
        path.chmod(0o700)
    return path
