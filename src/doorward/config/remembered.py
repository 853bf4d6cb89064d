"""What a process that reads a configuration again and again remembers: a file that has not changed is not read twice.

A list of routes depends on its file, on the files that it names, and on what the main file says to all routes: the sign-in host, the
named sets and the named policies. If one of these has changed it is read again.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from doorward.config.route_checks import RouteChecks
from doorward.config.route_lists import Places, RouteList
from doorward.source import Node


@dataclass(frozen=True, slots=True)
class _Kept:
    digest: str
    used: str
    """Hash of the files that it names."""
    routes: RouteList


class Remembered:
    """What was read before. Concurrency: belongs to one reader."""

    def __init__(self) -> None:
        self._shared: object = None
        self._routes: dict[Path, _Kept] = {}
        self._trees: dict[Path, tuple[str, Node | None]] = {}
        self.checks = RouteChecks()
        """What was found out about routes together."""
        self.places = Places()

    def tree(self, path: Path, text: str, read: Callable[[], Node | None]) -> Node | None:
        """The tree of a file with this text; ``read`` makes it, and may raise."""
        digest = hashlib.sha256(text.encode()).hexdigest()
        known = self._trees.get(path)
        if known is None or known[0] != digest:
            known = self._trees[path] = (digest, read())
        return known[1]

    def begin(self, shared: object) -> None:
        """Begin a reading in which ``shared`` holds for all routes."""
        if shared != self._shared:
            self._routes.clear()
            self._shared = shared

    def routes(self, path: Path, digest: str, read: Callable[[], RouteList]) -> RouteList:
        """The routes in a file whose text has this ``digest``; ``read`` reads them, and may raise."""
        known = self._routes.get(path)
        if known is None or known.digest != digest or known.used != digest_of(known.routes.used_files):
            found, used = read(), ""
            while found.used_files and (now := digest_of(found.used_files)) != used:
                # Read once more, to be sure that the hash is that of what was read.
                found, used = read(), now
            known = self._routes[path] = _Kept(digest, used or digest_of(()), found)
        return known.routes

    def keep_only(self, paths: Iterable[Path]) -> None:
        """Forget files that are gone."""
        there = set(paths)
        self._routes = {path: kept for path, kept in self._routes.items() if path in there}
        self._trees = {path: kept for path, kept in self._trees.items() if path in there}


def digest_of(files: Iterable[Path]) -> str:
    """Hash of the names and contents of files; one that cannot be read counts as empty."""
    digest = hashlib.sha256()
    for path in files:
        try:
            content = path.read_bytes()
        except OSError:
            content = b""
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(content).digest())
    return digest.hexdigest()
