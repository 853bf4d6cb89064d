"""Paths that are meant for another route than the one that Envoy found: `/%40team` is `/@team` to an application, and not to Envoy.

Envoy compares paths as they are written, once it has decoded what needs no encoding anywhere (RFC 3986, section 6.2.2.2). Whatever else
is encoded in another way than in the configuration passes by the route that it is for, and a broader one behind that takes it.
"""

from collections.abc import Iterator, Sequence

from doorward.route.paths import decoded_path
from doorward.route.route import Match, MatchKind, Route, broader, overlaps


class Neighbours:
    """The routes of one host, found by what their matches mean. Never changed."""

    def __init__(self, routes: Sequence[Route]) -> None:
        """``routes`` are in the order in which they match."""
        self.routes = tuple(routes)
        self._places = {route.id: place for place, route in enumerate(routes)}
        self._has_encoded = any("%" in route.match.value for route in routes)
        self._by_meaning: dict[Match, list[tuple[int, Match]]] = {}
        for place, route in enumerate(routes):
            if not route.is_tunnel:
                meant = Match(kind=route.match.kind, value=decoded_path(route.match.value) or route.match.value)
                self._by_meaning.setdefault(meant, []).append((place, route.match))

    def takes(self, route_id: str, written: str, meant: str) -> bool:
        """Whether a route before ``route_id`` takes the path that is ``meant``, and does not take it as it is ``written``.

        A route that the configuration has lost stands behind all others.
        """
        if "%" not in written and not self._has_encoded:
            return False
        place = self._places.get(route_id, len(self.routes))
        return any(
            before < place and not overlaps(match, written)
            for path in _readings(meant)
            for candidate in broader(Match(kind=MatchKind.PATH, value=path))
            for before, match in self._by_meaning.get(candidate, ())
        )


def _readings(path: str) -> Iterator[str]:
    """``path``, and what it is to servers that decode it again."""
    further: str | None = path
    while further is not None:
        yield further
        path, further = further, decoded_path(further)
        if further == path:
            return
