"""Files of keys and backups, written whole or not at all; most of them only their owner may read."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from doorward.errors import ConfigurationError


def write_private(path: Path, text: str) -> None:
    """Write ``text`` to a file of mode 0600; a reader sees the old content or the new one, never half of it."""
    _write(path, text, 0o600)


def write_public(path: Path, text: str) -> None:
    """The same, for a file that everybody may read."""
    _write(path, text, 0o644)


def _write(path: Path, text: str, mode: int) -> None:
    with written_whole(path, mode) as file:
        file.write(text)


@contextlib.contextmanager
def written_whole(path: Path, mode: int = 0o600) -> Iterator[TextIO]:
    """A file that takes the place of ``path`` when the block ends; when it fails, what was there stays and nothing is left beside it.

    Raises:
        ConfigurationError: what is there is a link, a device or a folder, whose place no file must take.
        OSError: it cannot be written.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise ConfigurationError([f"{path}: error: not a regular file, so none takes its place (name another one)"])
    scratch = path.with_name(f"{path.name}.tmp")
    # What somebody has put there must not be followed, nor keep its mode.
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(descriptor, mode)
            yield file
            file.flush()
            os.fsync(descriptor)
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def is_private(path: Path) -> bool:
    """Whether only we can read ``path``; also true of a file of root's that our group alone may read.

    The latter is how a container that does not run as root is given its secrets.

    Raises:
        OSError: there is no such file.
    """
    found = path.stat()
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid == 0 and os.getuid() != 0:
        return mode & 0o037 == 0
    return mode & 0o077 == 0
