"""``doorward check``: everything wrong with a configuration."""

import sys
from pathlib import Path

from doorward.config.load import load
from doorward.errors import ConfigurationError
from doorward.source import Severity


def check_file(path: Path) -> int:
    """Print every problem in ``path`` to standard error; 0 when all of it would be served, else 1."""
    try:
        loaded = load(path)
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 1
    for problem in loaded.problems:
        print(problem.render(), file=sys.stderr)
    errors = sum(problem.severity is Severity.ERROR for problem in loaded.problems)
    if errors:
        print(f"{errors} error{'s' if errors > 1 else ''}", file=sys.stderr)
        return 1
    routes = len(loaded.settings.routes) if loaded.settings else 0
    print(f"{path}: {routes} route{'' if routes == 1 else 's'}, no errors")
    return 0
