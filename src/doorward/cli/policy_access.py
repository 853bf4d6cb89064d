"""``doorward policy who-can`` and ``what-can``: over everybody in a file or in a running deployment."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from doorward.cli.access import Access as Deployment
from doorward.cli.known_people import ANYBODY, Person, people_of_deployment, people_of_file
from doorward.cli.policy_files import read_node, read_targets, report, report_problems
from doorward.cli.policy_question import Question, case_of
from doorward.cli.terminal import shown
from doorward.config.load import load
from doorward.config.references import no_secret
from doorward.errors import ConfigurationError
from doorward.policy import Facts
from doorward.policy.access import Access, Reach, judge_access
from doorward.policy.testing import Case, Target, Targets
from doorward.source import Problems

_COLOURS = {Reach.YES: "green", Reach.DEPENDS: "yellow", Reach.NO: "red"}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula; names come from outside."""


class Output(StrEnum):
    """How answers are printed."""

    TEXT = "text"
    CSV = "csv"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Answer:
    """About one person and one route."""

    person: Person
    target: Target
    access: Access

    @property
    def detail(self) -> str:
        """On what it depends, or why not."""
        if self.person.standing:
            return self.person.standing
        access = self.access
        if access.denied_by is not None:
            return f"kept out by {access.denied_by}"
        if access.missing:
            return f"would need {' and '.join(access.missing)}"
        parts = [" or ".join(access.conditions)] if access.conditions else []
        parts += [f"unless {condition}" for condition in access.unless]
        return "; ".join(parts)

    def to_dict(self) -> dict[str, object]:
        """For programs."""
        return {
            "route": self.target.name,
            "person": self.person.name,
            "user_id": self.person.user_id,
            "email": self.person.facts.email if self.person.facts else None,
            "access": str(self.access.reach),
            "rules": list(self.access.rules),
            "conditions": list(self.access.conditions),
            "unless": list(self.access.unless),
            "denied_by": self.access.denied_by,
            "missing": list(self.access.missing),
            "standing": self.person.standing,
            "note": self.person.note,
        }


def who_can(
    question: Question,
    configuration: Path,
    people: Path | None,
    deployment: Deployment,
    *,
    output: Output,
    everybody: bool,
) -> int:
    """Print who may use a route; 0 with an answer, 2 when a file cannot be used."""
    problems = Problems()
    try:
        targets = read_targets(configuration)
        case = case_of(question, targets, None, _EPOCH, problems)
        if case is None:
            return report_problems(problems)
        found = _people(people, configuration, deployment, case.facts.now, problems)
    except ConfigurationError as error:
        return report(error)
    if problems.errors:
        return report_problems(problems)
    answers = [_answer(person, case.target, case, question.pinned()) for person in [ANYBODY, *found]]
    _print(answers, output, everybody=everybody, about=case.target.name, column="person")
    return 0


def what_can(
    name: str,
    question: Question,
    configuration: Path,
    people: Path | None,
    deployment: Deployment,
    *,
    output: Output,
    everything: bool,
) -> int:
    """Print what somebody may use; 0 with an answer, 1 when nobody is called so, 2 when a file cannot be used."""
    problems = Problems()
    try:
        targets = read_targets(configuration)
        cases = _cases(question, targets, problems)
        if problems.has_errors:
            return report_problems(problems)
        now = cases[0].facts.now if cases else 0.0
        found = [ANYBODY, *_people(people, configuration, deployment, now, problems)]
    except ConfigurationError as error:
        return report(error)
    if problems.errors:
        return report_problems(problems)
    wanted = [person for person in found if name in {person.name, person.user_id} and name]
    if len(wanted) != 1:
        many = "several people are" if wanted else "nobody is"
        Console(stderr=True, soft_wrap=True).print(Text(f"error: {many} called `{name}`", style="red"))
        return 1
    answers = [_answer(wanted[0], case.target, case, question.pinned()) for case in cases]
    _print(answers, output, everybody=everything, about=name, column="route")
    return 0


_EPOCH = "1970-01-01T00:00:00+00:00"
"""Stands for a time that nobody asked about: facts that depend on it are open."""


def _cases(question: Question, targets: Targets, problems: Problems) -> list[Case]:
    """The question about each route."""
    found = []
    for target in targets.all:
        if target.broken is not None:
            continue
        case = case_of(question, Targets((target,)), None, _EPOCH, problems)
        if case is not None:
            found.append(case)
    return found


def _people(
    file: Path | None, configuration: Path, deployment: Deployment, now: float, problems: Problems
) -> list[Person]:
    if file is not None:
        return people_of_file(read_node(file), problems, now)
    settings = load(configuration, secrets=no_secret).settings
    if settings is None:
        raise ConfigurationError([f"error: `{configuration}` is no configuration; name a file of --people"])
    return people_of_deployment(deployment, settings)


def _answer(person: Person, target: Target, case: Case, pinned: frozenset[str]) -> Answer:
    if person.standing:
        return Answer(person, target, Access(reach=Reach.NO))
    facts = Facts(principal=person.facts, request=case.facts.request, now=case.facts.now)
    return Answer(person, target, judge_access(target.policy, facts, person.known | pinned))


def _print(answers: Sequence[Answer], output: Output, *, everybody: bool, about: str, column: str) -> None:
    order = list(Reach)
    listed = sorted(answers, key=lambda answer: order.index(answer.access.reach))
    if output is Output.TEXT and not everybody:
        listed = [answer for answer in listed if answer.access.reach is not Reach.NO]
    match output:
        case Output.JSON:
            print(json.dumps([answer.to_dict() for answer in listed], indent=2))
        case Output.CSV:
            print(_as_csv(listed), end="")
        case Output.TEXT:
            _print_table(listed, answers, about=about, column=column)


def _as_csv(answers: Sequence[Answer]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["route", "person", "user_id", "email", "access", "rules", "detail", "note"])
    for answer in answers:
        row = answer.to_dict()
        cells = [row["route"], row["person"], row["user_id"], row["email"] or "", row["access"]]
        cells += [" ".join(answer.access.rules), answer.detail, answer.person.note]
        writer.writerow([_cell(str(cell)) for cell in cells])
    return text.getvalue()


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


def _print_table(listed: Sequence[Answer], answers: Sequence[Answer], *, about: str, column: str) -> None:
    console = Console(highlight=False)
    if listed:
        table = Table(column, "access", "by", "detail", box=None, pad_edge=False, header_style="dim")
        for answer in listed:
            name = answer.person.name if column == "person" else answer.target.name
            note = f" ({answer.person.note})" if answer.person.note and column == "person" else ""
            table.add_row(
                Text(shown(name)) + Text(shown(note), style="dim"),
                Text(answer.access.reach, style=_COLOURS[answer.access.reach]),
                Text(shown(", ".join(answer.access.rules)), style="dim"),
                Text(shown(answer.detail)),
            )
        console.print(table)
        console.print()
    counts = {reach: sum(answer.access.reach is reach for answer in answers) for reach in Reach}
    noun = "asked about" if column == "person" else "routes"
    summary = f"{about}: {counts[Reach.YES]} yes, {counts[Reach.DEPENDS]} depends, {counts[Reach.NO]} no"
    console.print(Text(f"{shown(summary)} ({len(answers)} {noun})", style="bold"), soft_wrap=True)
