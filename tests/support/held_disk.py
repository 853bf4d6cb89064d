"""A disk that a test holds on to, for one server: how long a sync takes, and what a loss of power would leave."""

import subprocess
from collections.abc import Mapping
from pathlib import Path


class HeldDisk:
    """Takes the place of ``fsync`` and ``fdatasync`` in whatever is started with ``environment``; see ``held_disk.c``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "disk"
        self._folder.mkdir()
        library = self._folder / "held_disk.so"
        source = Path(__file__).with_suffix(".c")
        subprocess.run(
            ["cc", "-O1", "-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", library, source],
            check=True,
        )
        self.environment: Mapping[str, str] = {"LD_PRELOAD": str(library), "HELD_DISK": str(self._folder)}

    def hold(self) -> None:
        """Let no sync return any more."""
        (self._folder / "hold").touch()

    @property
    def is_held(self) -> bool:
        """Whether a sync has begun and waits."""
        return (self._folder / "held").exists()

    @property
    def syncs(self) -> int:
        """How many have returned."""
        synced = self._folder / "synced"
        return len(synced.read_text().splitlines()) if synced.exists() else 0

    def let_go(self) -> None:
        """Let every sync return at once again."""
        (self._folder / "hold").unlink()
        (self._folder / "held").unlink()

    def lose_power(self, log: Path) -> int:
        """Cut ``log`` to what a sync has returned for, and return how many bytes that was less."""
        lines = [line.split() for line in (self._folder / "synced").read_text().splitlines()]
        file = log.stat()
        kept = max((int(length) for inode, length in lines if int(inode) == file.st_ino), default=0)
        with log.open("r+b") as cut:
            cut.truncate(kept)
        return file.st_size - kept
