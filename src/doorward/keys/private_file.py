"""Files of keys, written whole or not at all; most of them only their owner may read."""

import os
import stat
from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Write ``text`` to a file of mode 0600; a reader sees the old content or the new one, never half of it."""
    _write(path, text, 0o600)


def write_public(path: Path, text: str) -> None:
    """The same, for a file that everybody may read."""
    _write(path, text, 0o644)


def _write(path: Path, text: str, mode: int) -> None:
    scratch = path.with_name(f"{path.name}.tmp")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)


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
