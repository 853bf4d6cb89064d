"""Where a configuration stands, and how its files look: by that a change is noticed."""

import os
from collections.abc import Iterable
from pathlib import Path

from doorward.config.settings import Source

MAIN_FILE = "doorward.yaml"
ROUTES_FOLDER = "routes.d"


def sources_of(paths: Iterable[Path | str], began_ns: int | None) -> tuple[Source, ...]:
    """How files and folders look now. What has changed since ``began_ns`` looks like nothing, so that it is read again."""
    found = []
    for name in dict.fromkeys(map(str, paths)):
        try:
            state = os.stat(name)  # noqa: PTH116  # of hundreds of files on the loop of a plane, which a path makes twice as dear
        except OSError:
            found.append((name, 0, 0, 0))
            continue
        if began_ns is not None and state.st_mtime_ns >= began_ns:
            found.append((name, 0, 0, 0))
        else:
            found.append((name, state.st_mtime_ns, state.st_size, state.st_ino))
    return tuple(found)


def main_file(path: Path) -> Path:
    """The file that everything but further routes stands in: ``path`` itself, or ``doorward.yaml`` in the folder ``path``."""
    return path / MAIN_FILE if path.is_dir() else path
