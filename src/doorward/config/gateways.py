"""Other gateways as written, and names of routes that are none."""

from collections import Counter
from collections.abc import Sequence

from doorward.config.document import Document
from doorward.config.settings import GatewaySettings, RoutePolicy
from doorward.config.validation import position_of
from doorward.source import Mapping, Problems, suggestion


def read_gateways(
    document: Document, routes: Sequence[RoutePolicy], node: Mapping, fatal: Problems, contained: Problems
) -> tuple[GatewaySettings, ...]:
    """The gateways in ``document``; two of one name go to ``fatal``, routes that are none, or several, to ``contained``."""
    named = Counter(item.route.name for item in routes)
    ids = {item.route.name: item.route.id for item in routes}
    gateways: dict[str, GatewaySettings] = {}
    for index, written in enumerate(document.gateways):
        if written.name in gateways:
            fatal.error(
                position_of(node, ("gateways", index, "name")),
                f"two gateways are called `{written.name}`",
                "a certificate names one; give each its own name",
            )
        for place, name in enumerate(written.routes):
            if named[name] > 1:
                contained.warning(
                    position_of(node, ("gateways", index, "routes", place)),
                    f"{named[name]} routes are called `{name}`: `{written.name}` can ask nothing about them",
                    "give each a `name` of its own",
                )
            elif name not in ids:
                contained.warning(
                    position_of(node, ("gateways", index, "routes", place)),
                    f"there is no route `{name}`: `{written.name}` can ask nothing about it",
                    suggestion(name, ids),
                )
        gateways[written.name] = GatewaySettings(
            name=written.name,
            routes=frozenset(ids[name] for name in written.routes if named[name] == 1),
            trust_client_address=written.trust_client_address,
            trust_client_certificate=written.trust_client_certificate,
            may_explain=written.may_explain,
        )
    return tuple(gateways.values())
