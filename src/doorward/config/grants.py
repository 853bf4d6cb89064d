"""Kinds of grants as written, and routes whose policy asks for one that cannot count there."""

from collections.abc import Sequence

from doorward.config.document import Document
from doorward.config.settings import GrantKind, RoutePolicy
from doorward.config.validation import position_of
from doorward.policy.criteria.possession import GRANT
from doorward.policy.nodes import terms
from doorward.source import Mapping, Problems, suggestion


def read_grants(
    document: Document, routes: Sequence[RoutePolicy], node: Mapping, fatal: Problems, contained: Problems
) -> tuple[GrantKind, ...]:
    """The kinds in ``document``; what is wrong with them goes to ``fatal``, what cannot work as meant to ``contained``."""
    ids = {item.route.name: item.route.id for item in routes}
    kinds: dict[str, GrantKind] = {}
    for index, written in enumerate(document.grants):
        if written.name in kinds:
            fatal.error(position_of(node, ("grants", index, "name")), f"two kinds of grant are called `{written.name}`")
        for place, name in enumerate(written.routes):
            if name not in ids:
                contained.warning(
                    position_of(node, ("grants", index, "routes", place)),
                    f"there is no route `{name}`: a grant of `{written.name}` opens nothing there",
                    suggestion(name, ids),
                )
        known = frozenset(ids[name] for name in written.routes if name in ids)
        kinds[written.name] = GrantKind(name=written.name, routes=known, longest_seconds=written.longest)
    counted = {route_id for kind in kinds.values() for route_id in kind.routes}
    for item in routes:
        if item.route.id not in counted and _asks_for_a_grant(item):
            contained.warning(
                item.policy.position,
                f"the policy of `{item.route.name}` asks for a grant, and none counts for this route",
                "name it in the `routes` of one of `grants`",
            )
    return tuple(kinds.values())


def _asks_for_a_grant(item: RoutePolicy) -> bool:
    return any(term.criterion == GRANT.name for rule in item.policy.rules for term in terms(rule.group))
