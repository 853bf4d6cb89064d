"""What a run of policy tests found: for people, as JSON, and as JUnit's XML for build systems."""

import datetime as dt
import json
import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from rich.console import Console
from rich.text import Text

from doorward.cli.explanation import explanation_text
from doorward.policy import explain_policy
from doorward.policy.phrases import describe
from doorward.policy.testing import Case, Coverage, Mutation, Outcome

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SHOWN = 12
"""Missed branches and unnoticed mutants of one policy that are listed without ``--verbose``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyReport:
    """What the tests say about one policy."""

    names: tuple[str, ...]
    """The routes that have it."""
    coverage: Coverage
    mutation: Mutation | None
    """``None`` when it was not asked for, or when a case of this policy fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReport:
    """What became of one test file."""

    path: Path
    outcomes: tuple[Outcome, ...]
    seconds: float

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """The cases that did not come out as wanted."""
        return tuple(outcome for outcome in self.outcomes if not outcome.passed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of a run."""

    files: tuple[FileReport, ...]
    policies: tuple[PolicyReport, ...]
    """Over all files: a policy tested by two of them stands once."""
    untested: tuple[str, ...]
    """Routes of the configurations that no case asks about."""

    @property
    def passed(self) -> int:
        """How many cases came out as wanted."""
        return sum(len(file.outcomes) - len(file.failed) for file in self.files)

    @property
    def failed(self) -> int:
        """How many did not."""
        return sum(len(file.failed) for file in self.files)

    @property
    def branches(self) -> tuple[int, int]:
        """Branches taken, of how many."""
        return (
            sum(len(policy.coverage.taken) for policy in self.policies),
            sum(policy.coverage.total for policy in self.policies),
        )

    @property
    def mutants(self) -> tuple[int, int]:
        """Mutants killed, of how many tried."""
        found = [policy.mutation for policy in self.policies if policy.mutation is not None]
        return sum(mutation.killed for mutation in found), sum(mutation.tried for mutation in found)


def percent(part: int, whole: int) -> float:
    """100 when there is nothing to count."""
    return 100.0 * part / whole if whole else 100.0


def print_report(report: Report, *, verbose: bool, minimum_coverage: float, minimum_mutants: float) -> None:
    """Print ``report`` for people, to standard output."""
    console = Console(highlight=False, soft_wrap=True)
    for file in report.files:
        _print_file(console, file, verbose=verbose)
    for file in report.files:
        for outcome in file.failed:
            _print_failure(console, outcome)
    _print_policies(console, report, verbose=verbose)
    if report.untested:
        shown = report.untested if verbose else report.untested[:_SHOWN]
        more = len(report.untested) - len(shown)
        names = ", ".join(shown) + (f" and {more} more" if more else "")
        console.print(Text(f"\nroutes without a test: {names}", style="yellow"))
    _print_summary(console, report, minimum_coverage, minimum_mutants)


def _print_file(console: Console, file: FileReport, *, verbose: bool) -> None:
    failed = len(file.failed)
    line = Text("✗ " if failed else "✓ ", style="bold red" if failed else "bold green")
    line.append(f"{file.path}", style="bold")
    line.append(f"  {len(file.outcomes) - failed} passed", style="green" if not failed else "")
    if failed:
        line.append(f", {failed} failed", style="bold red")
    console.print(line)
    if verbose:
        for outcome in file.outcomes:
            mark = Text("    ✓ ", style="green") if outcome.passed else Text("    ✗ ", style="red")
            console.print(mark + Text(f"{outcome.case.name} ({outcome.decision.effect})"))


def _print_failure(console: Console, outcome: Outcome) -> None:
    case = outcome.case
    console.print()
    console.print(Text(f"✗ {case.name}", style="bold red") + Text(f"  {case.position}", style="dim"))
    for failure in outcome.failures:
        console.print(Text(f"    {failure}", style="red"))
    console.print(Text(f"    {_question(case)}", style="dim"))
    console.print()
    text = explanation_text(explain_policy(case.target.policy, case.facts).render())
    for line in text.split("\n"):
        console.print(Text("      ") + line if line.plain else line)


def _question(case: Case) -> str:
    request = case.facts.request
    query = f"?{request.query}" if request.query else ""
    moment = dt.datetime.fromtimestamp(case.facts.now, dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"{case.target.name}: {case.who}, {request.method} https://{request.host}{request.path}{query}, {moment}"


def _print_policies(console: Console, report: Report, *, verbose: bool) -> None:
    if not report.policies:
        return
    width = max(len(_names(policy)) for policy in report.policies)
    console.print(Text(f"\n  {'policy':<{width}}  {'branches':>16}  {'mutants':>16}", style="dim"))
    for policy in report.policies:
        taken = (len(policy.coverage.taken), policy.coverage.total)
        line = Text(f"  {_names(policy):<{width}}  ") + _share(*taken)
        mutation = policy.mutation
        line += Text("  ") + (Text(f"{'-':>16}", style="dim") if mutation is None else _share(*_killed(mutation)))
        console.print(line)
        missed = [f"{b.expression.position}  {describe(b.expression)} {b.outcome}" for b in policy.coverage.missed]
        _print_list(console, "not seen", missed, verbose=verbose)
        survivors = () if mutation is None else mutation.survivors
        _print_list(console, "not noticed", [f"{m.position}  {m.change}" for m in survivors], verbose=verbose)
        if mutation is not None and mutation.untried:
            console.print(Text(f"      {mutation.untried} further mutants were not tried", style="yellow"))


def _print_list(console: Console, title: str, lines: list[str], *, verbose: bool) -> None:
    shown = lines if verbose else lines[:_SHOWN]
    for line in shown:
        console.print(Text(f"      {title}  ", style="yellow") + Text(line))
    if len(lines) > len(shown):
        console.print(Text(f"      … and {len(lines) - len(shown)} more {title} (--verbose)", style="yellow"))


def _share(part: int, whole: int) -> Text:
    text = f"{part}/{whole} {percent(part, whole):>5.0f}%"
    return Text(f"{text:>16}", style="green" if part == whole else "yellow")


def _killed(mutation: Mutation) -> tuple[int, int]:
    return mutation.killed, mutation.tried


def _names(policy: PolicyReport) -> str:
    first, *others = policy.names
    return first if not others else f"{first} and {len(others)} more"


def _print_summary(console: Console, report: Report, minimum_coverage: float, minimum_mutants: float) -> None:
    console.print()
    line = Text(f"{report.passed} passed", style="bold green" if not report.failed else "bold")
    if report.failed:
        line += Text(f", {report.failed} failed", style="bold red")
    for name, (part, whole), minimum in (
        ("branches", report.branches, minimum_coverage),
        ("mutants", report.mutants, minimum_mutants),
    ):
        if not whole:
            continue
        share = percent(part, whole)
        line += Text(f"; {name} {share:.0f}%")
        if share < minimum:
            line += Text(f" (at least {minimum:g}% wanted)", style="bold red")
    console.print(line)


def as_json(report: Report) -> str:
    """``report`` as one JSON object."""
    taken, branches = report.branches
    killed, tried = report.mutants
    return json.dumps(
        {
            "passed": report.passed,
            "failed": report.failed,
            "branches": {"taken": taken, "total": branches},
            "mutants": {"killed": killed, "tried": tried},
            "files": [
                {"path": str(file.path), "tests": [_outcome(outcome) for outcome in file.outcomes]}
                for file in report.files
            ],
            "policies": [_policy(policy) for policy in report.policies],
            "untested_routes": list(report.untested),
        },
        indent=2,
    )


def _outcome(outcome: Outcome) -> dict[str, object]:
    case, decision = outcome.case, outcome.decision
    found: dict[str, object] = {
        "name": case.name,
        "position": str(case.position),
        "route": case.target.name,
        "principal": case.who,
        "passed": outcome.passed,
        "effect": str(decision.effect),
        "reasons": list(decision.reasons),
        "rule": decision.rule,
    }
    if not outcome.passed:
        found["failures"] = list(outcome.failures)
        found["explanation"] = explain_policy(case.target.policy, case.facts).to_dict()
    return found


def _policy(policy: PolicyReport) -> dict[str, object]:
    mutation = policy.mutation
    return {
        "routes": list(policy.names),
        "branches": {
            "taken": len(policy.coverage.taken),
            "total": policy.coverage.total,
            "missed": [
                {
                    "rule": branch.rule,
                    "position": str(branch.expression.position),
                    "part": describe(branch.expression),
                    "outcome": branch.outcome,
                }
                for branch in policy.coverage.missed
            ],
        },
        "mutants": None
        if mutation is None
        else {
            "killed": mutation.killed,
            "tried": mutation.tried,
            "untried": mutation.untried,
            "survivors": [
                {"rule": mutant.rule, "position": str(mutant.position), "change": mutant.change}
                for mutant in mutation.survivors
            ],
        },
    }


def as_junit(report: Report) -> str:
    """``report`` in the XML that build systems read: a suite for each file, a case for each test."""
    root = ET.Element("testsuites", tests=str(report.passed + report.failed), failures=str(report.failed))
    for file in report.files:
        suite = ET.SubElement(
            root,
            "testsuite",
            name=_xml(str(file.path)),
            tests=str(len(file.outcomes)),
            failures=str(len(file.failed)),
            errors="0",
            skipped="0",
            time=f"{file.seconds:.6f}",
        )
        for outcome in file.outcomes:
            case = ET.SubElement(
                suite,
                "testcase",
                name=_xml(outcome.case.name),
                classname=_xml(outcome.case.target.name),
                file=_xml(outcome.case.position.file),
                line=str(outcome.case.position.line),
                time="0",
            )
            if not outcome.passed:
                failure = ET.SubElement(case, "failure", message=_xml("; ".join(outcome.failures)))
                explained = explain_policy(outcome.case.target.policy, outcome.case.facts).render()
                failure.text = _xml(f"{_question(outcome.case)}\n\n{explained}")
    ET.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _xml(text: str) -> str:
    """``text`` without the characters that XML 1.0 cannot hold (section 2.2)."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
