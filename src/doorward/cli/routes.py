"""``doorward routes``: what another gateway must say when it asks about a route."""

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from doorward.cli.terminal import add_row
from doorward.config.load import load_settings
from doorward.config.references import no_secret


def list_routes(config: Path, *, as_json: bool) -> int:
    """Print id, host and digest of every route that is served.

    Raises:
        ConfigurationError: the configuration cannot be used.
    """
    routes = [item.route for item in load_settings(config, secrets=no_secret).routes if item.route.broken is None]
    if as_json:
        for route in routes:
            print(
                json.dumps({"route": route.id, "host": route.host, "digest": route.digest, "match": route.match.value})
            )
        return 0
    table = Table("route", "host", "match", "digest")
    for route in routes:
        add_row(table, route.id, route.host, route.match.value, route.digest)
    Console().print(table)
    return 0
