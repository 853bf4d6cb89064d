"""Lists of routes from several files become one: what is wrong between them, each of which may be sound alone."""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from doorward.config.settings import RoutePolicy
from doorward.policy import Policy, compile_policy, parse_policy
from doorward.route.route import Match, MatchKind, broader
from doorward.source import Position, Problem, Problems
from doorward.source import Sequence as SequenceNode


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RouteList:
    """What became of the routes in one file; depends on nothing that other files say of routes."""

    routes: tuple[tuple[RoutePolicy, Position], ...] = ()
    broken_hosts: tuple[tuple[str, str], ...] = ()
    used_files: tuple[Path, ...] = ()
    fatal: tuple[Problem, ...] = ()
    """What leaves no safe way to go on: a route whose host is unknown has no place to answer 503 in."""
    contained: tuple[Problem, ...] = ()
    """What breaks a single route or host."""


@dataclasses.dataclass(frozen=True, slots=True)
class RouteReading:
    """What became of all routes."""

    routes: tuple[RoutePolicy, ...]
    broken_hosts: tuple[tuple[str, str], ...]
    used_files: tuple[Path, ...]


def join(lists: Sequence[RouteList], places: "Places", fatal: Problems, contained: Problems) -> RouteReading:
    """All routes in the order of ``lists``."""
    for found in lists:
        fatal.extend(found.fatal)
        contained.extend(found.contained)
    kept = places.placed(_without_duplicates((item for found in lists for item in found.routes), fatal, contained))
    _check_path_parameters(kept, fatal)
    broken = {host: reason for found in lists for host, reason in found.broken_hosts}
    used = tuple(path for found in lists for path in found.used_files)
    return RouteReading(tuple(kept), tuple(sorted(broken.items())), used)


def nobody(position: Position) -> Policy:
    """The policy of what cannot be served: nothing may be allowed by it meanwhile."""
    return parse_policy(SequenceNode((), position), Problems())


def _without_duplicates(
    routes: Iterable[tuple[RoutePolicy, Position]], fatal: Problems, contained: Problems
) -> list[RoutePolicy]:
    """Each match once, and each id once. A match that stands twice is nobody's: it keeps its place and answers 503."""
    by_match: dict[tuple[str, Match], list[tuple[RoutePolicy, Position]]] = {}
    for item, position in routes:
        by_match.setdefault((item.route.host, item.route.match), []).append((item, position))
    ids: set[str] = set()
    kept = []
    for claims in by_match.values():
        item, position = claims[0]
        if len(claims) > 1:
            item = _ambiguous(claims, contained)
        if item.route.id in ids:
            # Two routes of one name on different matches: neither may be decided by the other's policy.
            fatal.error(position, f"two routes are named `{item.route.id}`", "names must be unique")
            continue
        ids.add(item.route.id)
        kept.append(item)
    return kept


def _ambiguous(claims: list[tuple[RoutePolicy, Position]], contained: Problems) -> RoutePolicy:
    """What stands in place of several routes of one match, each of them reported."""
    for item, position in claims:
        others = ", ".join(f"`{other.route.name}` ({place})" for other, place in claims if place != position)
        contained.error(
            position,
            f"`{item.route.name}` matches exactly what {others} matches; such requests are answered 503",
            "keep one of them",
        )
    (first, position), *_ = claims
    reason = f"{len(claims)} routes have this match: {', '.join(str(place) for _, place in claims)}"
    return RoutePolicy(route=dataclasses.replace(first.route, upstreams=(), broken=reason), policy=nobody(position))


class Places:
    """Tells each route what it yields to, and remembers it: a host whose routes are the same is looked at once."""

    def __init__(self) -> None:
        self._hosts: dict[str, tuple[list[RoutePolicy], dict[str, RoutePolicy]]] = {}

    def placed(self, routes: list[RoutePolicy]) -> list[RoutePolicy]:
        """``routes`` with what each yields to: with another narrower route before it, a route reaches something else."""
        by_host: dict[str, list[RoutePolicy]] = {}
        for item in routes:
            by_host.setdefault(item.route.host, []).append(item)
        hosts: dict[str, tuple[list[RoutePolicy], dict[str, RoutePolicy]]] = {}
        changed: dict[str, RoutePolicy] = {}
        for host, several in by_host.items():
            if len(several) > 1:
                before = self._hosts.get(host)
                hosts[host] = before if before is not None and before[0] == several else (several, _told(several))
                changed.update(hosts[host][1])
        self._hosts = hosts
        return [changed.get(item.route.id, item) for item in routes] if changed else routes


def _told(items: Sequence[RoutePolicy]) -> dict[str, RoutePolicy]:
    """Those of one host's routes that yield to others, by their ids."""
    by_id = {item.route.id: item for item in items}
    return {
        route_id: dataclasses.replace(
            by_id[route_id], route=dataclasses.replace(by_id[route_id].route, yields_to=yields_to)
        )
        for route_id, yields_to in _yielding(items)
    }


def _yielding(items: Sequence[RoutePolicy]) -> Iterator[tuple[str, str]]:
    """The id of each of one host's routes that others take something from, and a hash of what those match."""
    within: dict[Match, list[str]] = {}
    earlier: set[Match] = set()
    for item in items:
        match = item.route.match
        if item.route.is_tunnel:
            continue  # ports do not overlap
        takers = dict.fromkeys(broader(match))
        taken_by = {*within.get(match, ()), *(_written(taker) for taker in takers if taker in earlier)}
        if taken_by:
            yield item.route.id, hashlib.sha256("\0".join(sorted(taken_by)).encode()).hexdigest()[:32]
        earlier.add(match)
        for taker in takers:
            within.setdefault(taker, []).append(_written(match))


def _written(match: Match) -> str:
    return f"{match.kind} {match.value}"


def _check_path_parameters(routes: list[RoutePolicy], fatal: Problems) -> None:
    """On a host that lets ``;`` through, nothing may depend on how a path is read."""
    lax = {item.route.host for item in routes if item.route.path_parameters}
    for item in routes:
        if item.route.host not in lax:
            continue
        match = item.route.match
        if item.route.is_tunnel:
            continue
        if match != Match(kind=MatchKind.PREFIX, value="/"):
            fatal.error(
                item.policy.position, f"`{item.route.name}` matches a path on a host with `path_parameters: allow`"
            )
        elif "http_path" in compile_policy(item.policy).reads:
            fatal.error(item.policy.position, f"`{item.route.name}` has a path criterion and `path_parameters: allow`")
