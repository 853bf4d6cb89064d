"""``doorward check``: everything wrong with a configuration, and what is legal but probably wrong."""

import sys
import time
from pathlib import Path

from doorward.cli.access import Access
from doorward.cli.known_people import people_of_deployment, people_of_file
from doorward.cli.policy_files import read_node
from doorward.cli.problems import print_problems, print_rendered
from doorward.config.load import load
from doorward.config.references import read_secret
from doorward.config.settings import Settings
from doorward.errors import ConfigurationError
from doorward.policy.checker import Known, check_known
from doorward.source import Problems


def check_file(
    path: Path, *, strict: bool = False, people: Path | None = None, deployment: Access | None = None
) -> int:
    """Print every problem in ``path`` to standard error; 0 when all of it would be served, else 1.

    With ``strict`` warnings count too. With ``people`` (a file) or a running ``deployment``, groups and claims that
    nobody has are warned about.
    """
    try:
        loaded = load(path, store_secrets=read_secret)
        unknown = Problems() if loaded.settings is None else _unknown_names(loaded.settings, people, deployment)
    except ConfigurationError as error:
        print_rendered(error.problems)
        print(f"{path}: {counted(len(error.problems), 'error')}", file=sys.stderr)
        return 1
    problems = Problems()
    problems.extend(loaded.problems)
    problems.extend(unknown.all)
    print_problems(problems.all)
    errors = len(problems.errors)
    warnings = len(problems.all) - errors
    routes = len(loaded.settings.routes) if loaded.settings else 0
    found = [counted(number, word) for number, word in ((errors, "error"), (warnings, "warning")) if number]
    summary = f"{path}: {counted(routes, 'route')}, {' and '.join(found) if found else 'no errors, no warnings'}"
    if errors or (strict and warnings):
        print(summary, file=sys.stderr)
        return 1
    apart = loaded.settings is not None and loaded.settings.planes.any
    print(summary + ("; for `doorward serve` (`doorward run` refuses `planes`)" if apart else ""))
    return 0


def _unknown_names(settings: Settings, people: Path | None, deployment: Access | None) -> Problems:
    """Warnings about groups and claims that none of the known people has.

    Raises:
        ConfigurationError: the people cannot be read.
    """
    problems = Problems()
    if people is not None:
        found = people_of_file(read_node(people), problems, time.time())
    elif deployment is not None:
        found = people_of_deployment(deployment, settings)
    else:
        return problems
    known = Known().with_people(person.facts for person in found if person.facts is not None)
    for item in settings.routes:
        check_known(item.policy, known, problems)
    return problems


def counted(number: int, word: str) -> str:
    """``1 route``, ``2 routes``."""
    return f"{number} {word}{'' if number == 1 else 's'}"
