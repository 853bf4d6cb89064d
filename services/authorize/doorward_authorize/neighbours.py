"""Paths that are meant for another route than the one that Envoy found: `/%40team` is `/@team` to an application, and not to Envoy.

Envoy compares paths as they are written, once it has decoded what needs no encoding anywhere (RFC 3986, section 6.2.2.2). Whatever else
is encoded in another way than in the configuration passes by the route that it is for, and a broader one behind that takes it.
"""

from collections.abc import Iterator

from doorward.route.paths import decoded_path
from doorward.route.route import Match, MatchKind, Route, overlaps


class Neighbours:
    """The routes of one host, found by what their matches mean. What a question costs depends on no client and no number of routes."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._has_encoded = False
        self._paths: dict[str, list[tuple[int, Match]]] = {}
        self._prefixes: dict[str, list[tuple[int, Match]]] = {}
        self._longest = 1

    def add(self, route: Route) -> None:
        """Add the next route, in the order in which they match."""
        place = self._places[route.id] = len(self._places)
        if route.is_tunnel:
            return
        value = route.match.value
        self._has_encoded = self._has_encoded or "%" in value
        meant = decoded_path(value) or value
        self._longest = max(self._longest, len(meant))
        by_meaning = self._paths if route.match.kind is MatchKind.PATH else self._prefixes
        by_meaning.setdefault(meant, []).append((place, route.match))

    def parts(self) -> list[object]:
        """What it is made of, to be let go piece by piece."""
        return [*self._paths.values(), *self._prefixes.values()]

    def takes(self, route_id: str, written: str, meant: str) -> bool:
        """Whether a route before ``route_id`` takes the path that is ``meant``, and does not take it as it is ``written``.

        Routes that the configuration has lost stand behind those that it has, and as they stood among themselves.
        """
        if "%" not in written and not self._has_encoded:
            return False
        place = self._places.get(route_id, len(self._places))
        return any(
            before < place and not overlaps(match, written)
            for path in _readings(meant)
            for before, match in self._candidates(path)
        )

    def _candidates(self, path: str) -> Iterator[tuple[int, Match]]:
        """The routes whose matches mean ``path`` or a prefix of it. Clients write paths of any length: none is cut behind the longest match."""
        if len(path) <= self._longest:
            yield from self._paths.get(path, ())
            yield from self._prefixes.get(path, ())
        end = 0
        while 0 <= end <= self._longest:
            yield from self._prefixes.get(path[:end] or "/", ())
            end = path.find("/", end + 1)


def _readings(path: str) -> Iterator[str]:
    """``path``, and what it is to servers that decode it again; how often is bounded by what is refused before (``ambiguity``)."""
    further: str | None = path
    while further is not None:
        yield further
        path, further = further, decoded_path(further)
        if further == path:
            return
