"""``doorward check``: everything wrong with a configuration, and what is legal but probably wrong."""

import sys
from pathlib import Path

from doorward.cli.problems import print_problems, print_rendered
from doorward.config.load import load
from doorward.config.references import read_secret
from doorward.errors import ConfigurationError
from doorward.source import Severity


def check_file(path: Path, *, strict: bool = False) -> int:
    """Print every problem in ``path`` to standard error; 0 when all of it would be served, else 1.

    With ``strict`` warnings count too.
    """
    try:
        loaded = load(path, store_secrets=read_secret)
    except ConfigurationError as error:
        print_rendered(error.problems)
        print(f"{path}: {counted(len(error.problems), 'error')}", file=sys.stderr)
        return 1
    print_problems(loaded.problems)
    errors = sum(problem.severity is Severity.ERROR for problem in loaded.problems)
    warnings = len(loaded.problems) - errors
    routes = len(loaded.settings.routes) if loaded.settings else 0
    found = [counted(number, word) for number, word in ((errors, "error"), (warnings, "warning")) if number]
    summary = f"{path}: {counted(routes, 'route')}, {' and '.join(found) if found else 'no errors, no warnings'}"
    if errors or (strict and warnings):
        print(summary, file=sys.stderr)
        return 1
    print(summary)
    return 0


def counted(number: int, word: str) -> str:
    """``1 route``, ``2 routes``."""
    return f"{number} {word}{'' if number == 1 else 's'}"
