"""What this authorizer decides by: compiled routes, immutable, swapped whole.

A route remembers what it was. While Envoy still asks by the old digest, it is decided as what it was and as what it is, and both must
allow: an edit that moves a route and opens its policy at once must not open the old place, and one that opens a route and takes a part
of it out for few must not open that part. What passes is answered for the old place: its headers, and no token that only the new one is
to get. That holds for several edits in a row, while some Envoy is still before the first of them. A removed route goes on deciding by its last policy until every proxy reports that
its Envoy has lost it, or for half a minute.
"""

import asyncio
from collections.abc import Generator
from dataclasses import dataclass
from typing import cast

from doorward.config.settings import RoutePolicy, Settings
from doorward.policy import CompiledPolicy, compile_policy
from doorward.route.headers import Told, told_by, told_headers
from doorward.route.route import Route
from doorward_authorize.neighbours import Neighbours

REMOVED_SECONDS = 30.0
"""The longest that a proxy may stay behind."""
HISTORY = 8
"""Earlier forms of a route that Envoy may still ask by."""
_SLICE = 200
"""Work done before other callbacks get their turn: this many routes that have not changed, well under a millisecond."""
_COMPILING = 100
"""What a route that has changed counts for."""
PATH_OF_ANOTHER = "path-of-another-route"
"""The reason where a path is written so that Envoy does not find the route that it is for."""
_LET_GO = 50
"""Routes that are freed before other callbacks get their turn."""


@dataclass(frozen=True, slots=True)
class CompiledRoute:
    """A route with its policy, and with what it was before it last changed what it reaches."""

    route: Route
    policy: CompiledPolicy
    earlier: tuple["CompiledRoute", ...] = ()
    """What it was before, newest first, each with the policy of its time."""
    removed_at: float | None = None
    """Monotonic time at which the configuration lost it."""

    @property
    def reads(self) -> frozenset[str]:
        """Names of the facts that its decisions may depend on."""
        return self.policy.reads

    def forms_for(self, digest: str) -> tuple["CompiledRoute", ...]:
        """As what a request must be allowed that Envoy routes by ``digest``; the last is what Envoy has. None: refuse."""
        if digest == self.route.digest:
            return (self,)
        for number, form in enumerate(self.earlier, 1):
            if form.route.digest == digest:
                return (self, *self.earlier[:number])
        return ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One generation."""

    settings: Settings
    routes: dict[str, CompiledRoute]
    neighbours: dict[str, Neighbours]
    """For each host with several routes, those that the configuration has lost included."""
    told_headers: frozenset[str]
    """What some route sets, and no client's request may hold."""

    @property
    def generation(self) -> str:
        """Hash of the configuration."""
        return self.settings.generation

    def parts(self) -> list[object]:
        """Everything that it is made of, for ``let_go``."""
        entries = [entry for host in self.neighbours.values() for entry in host.parts()]
        return [*self.routes.values(), *self.settings.routes, *entries]

    def is_anothers(self, route: Route, written: str, meant: str) -> bool:
        """Whether a path that Envoy found ``route`` for is meant for one before it; ``meant`` is what is ``written``, decoded."""
        neighbours = self.neighbours.get(route.host)
        return neighbours is not None and neighbours.takes(route.id, written, meant)

    @property
    def has_removed(self) -> bool:
        """Whether it holds routes that the configuration has lost."""
        return any(route.removed_at is not None for route in self.routes.values())

    def without_removed(self) -> "Snapshot":
        """The same without routes that the configuration has lost."""
        kept = {route_id: route for route_id, route in self.routes.items() if route.removed_at is None}
        return Snapshot(self.settings, kept, self.neighbours, self.told_headers)


def compile_snapshot(settings: Settings, before: Snapshot | None, now: float) -> Snapshot:
    """The snapshot for ``settings``; compiles only policies that ``before`` does not hold. ``now`` is monotonic.

    Pure: raises nothing that a checked configuration can cause, and changes nothing that is in use.
    """
    steps = _steps(settings, before, now)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return cast("Snapshot", done.value)


async def compile_in_slices(settings: Settings, before: Snapshot | None, now: float) -> Snapshot:
    """The same, a few routes at a time: checks are answered in between."""
    steps = _steps(settings, before, now)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return cast("Snapshot", done.value)
        await asyncio.sleep(0)


async def let_go(parts: list[object]) -> None:
    """Empty ``parts``, what a snapshot was made of, a few at a time: to free ten thousand routes at once holds every check.

    The caller lets go of the snapshot itself first.
    """
    while parts:
        del parts[-_LET_GO:]
        await asyncio.sleep(0)


def _steps(settings: Settings, before: Snapshot | None, now: float) -> Generator[None, None, Snapshot]:
    """Compile; yields after every few routes."""
    known: dict[str, CompiledPolicy] = {}
    old_routes = before.routes if before is not None else {}
    for position, old in enumerate(old_routes.values()):
        known[old.policy.digest] = old.policy
        if position % _SLICE == 0:
            yield
    routes: dict[str, CompiledRoute] = {}
    by_host: dict[str, list[Route]] = {}
    told: set[Told] = set()
    spent = 0
    for item in settings.routes:
        before_it = old_routes.get(item.route.id)
        compiled = routes[item.route.id] = _compiled(item, before_it, known)
        by_host.setdefault(item.route.host, []).append(item.route)
        told.update(told_by(item.route))
        spent += 1 if compiled is before_it else _COMPILING
        if spent >= _SLICE:
            spent = 0
            yield
    for position, (route_id, old) in enumerate(old_routes.items()):
        if position % _SLICE == 0:
            yield
        if route_id in routes:
            continue
        removed_at = old.removed_at if old.removed_at is not None else now
        if now - removed_at < REMOVED_SECONDS:
            routes[route_id] = CompiledRoute(old.route, old.policy, old.earlier, removed_at)
            # Behind what is there now, but as before among themselves.
            by_host.setdefault(old.route.host, []).append(old.route)
    neighbours: dict[str, Neighbours] = {}
    for host, several in by_host.items():
        if len(several) > 1:
            found = neighbours[host] = Neighbours()
            for route in several:
                found.add(route)
                spent += 1
                if spent >= _SLICE:
                    spent = 0
                    yield
    return Snapshot(settings, routes, neighbours, told_headers(told))


def _compiled(item: RoutePolicy, old: CompiledRoute | None, known: dict[str, CompiledPolicy]) -> CompiledRoute:
    if old is not None and old.policy.policy == item.policy:
        if old.removed_at is None and old.route == item.route:
            return old
        policy = old.policy
    else:
        # Equal policies share what was compiled; each keeps its own text, so that explanations point at it.
        policy = compile_policy(item.policy, known)
        known.setdefault(policy.digest, policy)
    if old is None:
        return CompiledRoute(item.route, policy)
    if old.route.digest == item.route.digest:
        return CompiledRoute(item.route, policy, old.earlier)
    return CompiledRoute(item.route, policy, (CompiledRoute(old.route, old.policy), *old.earlier)[:HISTORY])
