"""What this authorizer decides by: compiled routes, immutable, swapped whole.

A route keeps two generations of what it reaches. While Envoy still asks by the old digest, the old and the new policy must both
allow: an edit that moves a route and opens its policy at once must not open the old place. A removed route goes on deciding by its
last policy for a moment, because Envoy loses it after we do.
"""

from dataclasses import dataclass

from doorward.config.settings import RoutePolicy, Settings
from doorward.policy import CompiledPolicy, Policy, compile_policy
from doorward.route.route import Route

REMOVED_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class CompiledRoute:
    """A route with its policy, and with what it was before it last changed what it reaches."""

    route: Route
    policy: CompiledPolicy
    previous_digest: str | None = None
    previous_policy: CompiledPolicy | None = None
    removed_at: float | None = None
    """Monotonic time at which the configuration lost it."""

    @property
    def reads(self) -> frozenset[str]:
        """Names of the facts that its decisions may depend on."""
        return self.policy.reads

    def policies_for(self, digest: str) -> tuple[CompiledPolicy, ...]:
        """The policies that must all allow a request that Envoy routes by ``digest``; none: refuse."""
        if digest == self.route.digest:
            return (self.policy,)
        if digest == self.previous_digest and self.previous_policy is not None:
            return (self.policy, self.previous_policy)
        return ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One generation."""

    settings: Settings
    routes: dict[str, CompiledRoute]

    @property
    def generation(self) -> str:
        """Hash of the configuration."""
        return self.settings.generation


def compile_snapshot(settings: Settings, before: Snapshot | None, now: float) -> Snapshot:
    """The snapshot for ``settings``; compiles only policies that ``before`` does not hold. ``now`` is monotonic.

    Pure: raises nothing that a checked configuration can cause, and changes nothing that is in use.
    """
    known: dict[str, CompiledPolicy] = {}
    if before is not None:
        for old in before.routes.values():
            known[_identity(old.policy.policy)] = old.policy
    routes: dict[str, CompiledRoute] = {}
    for item in settings.routes:
        routes[item.route.id] = _compiled(item, before, known)
    if before is not None:
        for route_id, old in before.routes.items():
            if route_id in routes:
                continue
            removed_at = old.removed_at if old.removed_at is not None else now
            if now - removed_at < REMOVED_SECONDS:
                routes[route_id] = CompiledRoute(
                    old.route, old.policy, old.previous_digest, old.previous_policy, removed_at
                )
    return Snapshot(settings, routes)


def _compiled(item: RoutePolicy, before: Snapshot | None, known: dict[str, CompiledPolicy]) -> CompiledRoute:
    identity = _identity(item.policy)
    policy = known.get(identity)
    if policy is None:
        policy = known[identity] = compile_policy(item.policy)
    old = before.routes.get(item.route.id) if before is not None else None
    if old is None:
        return CompiledRoute(item.route, policy)
    if old.route.digest == item.route.digest:
        return CompiledRoute(item.route, policy, old.previous_digest, old.previous_policy)
    return CompiledRoute(item.route, policy, old.route.digest, old.policy)


def _identity(policy: Policy) -> str:
    """Equal for policies that are the same text in the same place, so that explanations keep pointing at it."""
    return repr(policy)
