"""``doorward policy explain``: what would be decided, why, and what would have to change."""

import datetime as dt
import json
from pathlib import Path

from rich.console import Console
from rich.text import Text

from doorward.cli.explanation import explanation_text
from doorward.cli.policy_files import UNUSABLE, read_node, read_targets, report, report_problems
from doorward.cli.policy_question import Question, case_of
from doorward.cli.terminal import shown, shown_lines
from doorward.errors import ConfigurationError
from doorward.policy import Effect, explain_policy
from doorward.source import Mapping, Node, Problems


def explain_question(question: Question, configuration: Path, people: Path | None, *, as_json: bool) -> int:
    """Print the explanation; 0 when the answer is to let in, 1 when it is not, 2 when a file cannot be used."""
    problems = Problems()
    try:
        targets = read_targets(configuration)
        known = _people_in(read_node(people)) if people is not None else None
        case = case_of(question, targets, known, _now(), problems)
    except ConfigurationError as error:
        return report(error)
    if case is None:
        return report_problems(problems) or UNUSABLE
    explanation = explain_policy(case.target.policy, case.facts)
    moment = dt.datetime.fromtimestamp(case.facts.now, dt.UTC).isoformat()
    request = case.facts.request
    if as_json:
        asked = {
            "route": case.target.name,
            "principal": case.who,
            "method": request.method,
            "host": request.host,
            "path": request.path,
            "time": moment,
        }
        print(json.dumps({"asked": asked, **explanation.to_dict()}, indent=2, default=str))
    else:
        console = Console(highlight=False, soft_wrap=True)
        where = f"https://{request.host}{request.path}"
        console.print(Text(shown(f"{case.target.name}: {case.who}, {request.method} {where}, {moment}"), style="dim"))
        console.print(explanation_text(shown_lines(explanation.render())))
    return 0 if explanation.decision.effect is Effect.ALLOW else 1


def _people_in(node: Node) -> Node:
    """The people of a file of people, or of a test file."""
    inner = node.get("people") if isinstance(node, Mapping) and node.get("tests") is not None else None
    return node if inner is None else inner


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat()
