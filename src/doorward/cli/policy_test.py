"""``doorward policy test``: the tests beside the policies, and how well they hold them."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from doorward.cli.policy_files import configured_targets, policy_target, read_node, report, report_problems
from doorward.cli.policy_report import FileReport, PolicyReport, Report, as_json, as_junit, percent, print_report
from doorward.errors import ConfigurationError
from doorward.policy.nodes import Policy
from doorward.policy.testing import (
    Outcome,
    Suite,
    Targets,
    measure_coverage,
    mutate,
    read_header,
    read_suite,
    run_cases,
)
from doorward.policy.testing.run import by_policy
from doorward.source import Mapping, Problems

PATTERNS = ("*.test.yaml", "*.test.yml", "*.test.json")


@dataclass(slots=True)
class _Loaded:
    """Everything read before anything is run, so that all problems are reported at once."""

    suites: list[tuple[Path, Suite]] = field(default_factory=list)
    targets: dict[Path, Targets] = field(default_factory=dict)
    """By file, so that files that test one configuration share its policies."""


def run_policy_tests(
    paths: Sequence[Path],
    *,
    mutation: bool,
    as_json_output: bool,
    junit: Path | None,
    minimum_coverage: float,
    minimum_mutants: float,
    verbose: bool,
) -> int:
    """Run every test file; 0 when all pass and the minima are met, 1 when not, 2 when a file cannot be used."""
    try:
        files = discover(paths)
    except ConfigurationError as error:
        return report(error)
    problems = Problems()
    loaded = _load(files, problems)
    if loaded is None or problems.has_errors:
        return report_problems(problems) if problems.has_errors else 2
    result = _run(loaded, mutation=mutation)
    if junit is not None:
        junit.write_text(as_junit(result))
    if as_json_output:
        print(as_json(result))
    else:
        print_report(result, verbose=verbose, minimum_coverage=minimum_coverage, minimum_mutants=minimum_mutants)
    good = (
        not result.failed
        and percent(*result.branches) >= minimum_coverage
        and (not mutation or percent(*result.mutants) >= minimum_mutants)
    )
    return 0 if good else 1


def discover(paths: Iterable[Path]) -> list[Path]:
    """Test files: those named, and those found below folders, in the order of their names.

    Raises:
        ConfigurationError: there are none.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            below = sorted(file for pattern in PATTERNS for file in path.rglob(pattern))
            found.update(dict.fromkeys(file for file in below if not _hidden(file.relative_to(path))))
        else:
            found[path] = None
    if not found:
        places = ", ".join(f"`{path}`" for path in paths)
        raise ConfigurationError([f"error: no test files in {places} (they are named `{PATTERNS[0]}`)"])
    return list(found)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "node_modules" for part in path.parts)


def _load(files: Sequence[Path], problems: Problems) -> _Loaded | None:
    loaded = _Loaded()
    failed: list[str] = []
    for path in files:
        try:
            _load_one(path, loaded, problems)
        except ConfigurationError as error:
            failed += error.problems
    if failed:
        report(ConfigurationError(list(dict.fromkeys(failed))))
        return None
    return loaded


def _load_one(path: Path, loaded: _Loaded, problems: Problems) -> None:
    node = read_node(path)
    header = read_header(node, problems)
    if header is None or not isinstance(node, Mapping):
        return
    folder = path.parent
    if header.inline is not None:
        targets = policy_target(header.inline, path.name)
    else:
        name = header.configuration or header.policy
        if name is None:
            return
        tested = (folder / name).resolve()
        if tested not in loaded.targets:
            # The path as written, so that problems name the file as the operator does.
            shown = folder / name
            loaded.targets[tested] = (
                configured_targets(shown) if header.configuration else policy_target(read_node(shown), name)
            )
        targets = loaded.targets[tested]
    people = read_node(folder / header.people) if header.people else None
    loaded.suites.append((path, read_suite(node, targets, people, problems)))


def _run(loaded: _Loaded, *, mutation: bool) -> Report:
    files = []
    every: list[Outcome] = []
    for path, suite in loaded.suites:
        started = time.perf_counter()
        outcomes = tuple(run_cases(suite.cases))
        seconds = time.perf_counter() - started
        every += outcomes
        files.append(FileReport(path=path, outcomes=outcomes, seconds=seconds))
    asked = {outcome.case.target.name for outcome in every}
    untested = [
        target.name
        for targets in loaded.targets.values()
        for target in targets.all
        if target.name not in asked and target.broken is None
    ]
    return Report(
        files=tuple(files),
        policies=tuple(_judge(policy, found, mutation=mutation) for policy, found in by_policy(every)),
        untested=tuple(untested),
    )


def _judge(policy: Policy, outcomes: Sequence[Outcome], *, mutation: bool) -> PolicyReport:
    cases = [outcome.case for outcome in outcomes]
    sound = all(outcome.passed for outcome in outcomes)
    return PolicyReport(
        names=tuple(dict.fromkeys(case.target.name for case in cases)),
        coverage=measure_coverage(policy, [case.facts for case in cases]),
        mutation=mutate(policy, cases) if mutation and sound else None,
    )
