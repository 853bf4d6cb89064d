"""Why a decision came out as it did: each criterion with its result and the value that it saw."""

import json
from dataclasses import dataclass

from doorward.policy.decision import Decision
from doorward.policy.facts import Facts
from doorward.policy.interpreter import GroupResult, Result, decide, evaluate
from doorward.policy.nodes import Policy, Rule
from doorward.policy.truth import Truth

_WORDS = {Truth.TRUE: "yes", Truth.FALSE: "no", Truth.UNKNOWN: "unknown", Truth.ANONYMOUS: "not signed in"}


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision with everything that led to it."""

    decision: Decision
    rules: tuple[tuple[Rule, Result], ...]

    def render(self) -> str:
        """For people: one line a criterion, indented below its rule."""
        lines = [f"{self.decision.effect}: {', '.join(self.decision.reasons) or 'no reasons'}"]
        for rule, result in self.rules:
            mark = " (decided)" if rule.name == self.decision.rule else ""
            lines.append(f"{rule.name} at {rule.position}: {_WORDS[result.truth]}{mark}")
            lines.extend(_lines(result, 1))
        return "\n".join(lines)

    def to_dict(self) -> dict[str, object]:
        """For programs: plain values only."""
        return {
            "effect": str(self.decision.effect),
            "reasons": list(self.decision.reasons),
            "rule": self.decision.rule,
            "rules": [
                {"name": rule.name, "position": str(rule.position), **_as_dict(result)} for rule, result in self.rules
            ],
        }


def explain_policy(policy: Policy, facts: Facts) -> Explanation:
    """The decision for ``facts`` with the result of every rule. Never raises."""
    results = [evaluate(rule.group, facts) for rule in policy.rules]
    return Explanation(decide(policy, results), tuple(zip(policy.rules, results, strict=True)))


def _lines(result: Result, depth: int) -> list[str]:
    indent = "  " * depth
    if isinstance(result, GroupResult):
        lines = [f"{indent}{result.group.operator}: {_WORDS[result.truth]}"]
        for member in result.members:
            lines.extend(_lines(member, depth + 1))
        return lines
    wanted = "; ".join(f"{m.comparison} {', '.join(m.operand)}" for m in result.term.matchers)
    saw = f"error ({result.error})" if result.error else json.dumps(result.saw, default=str)
    return [f"{indent}{result.term.label}{' ' + wanted if wanted else ''}: {_WORDS[result.truth]}, saw {saw}"]


def _as_dict(result: Result) -> dict[str, object]:
    if isinstance(result, GroupResult):
        return {
            "operator": str(result.group.operator),
            "result": _WORDS[result.truth],
            "members": [_as_dict(member) for member in result.members],
        }
    return {
        "criterion": result.term.label,
        "matchers": {str(m.comparison): list(m.operand) for m in result.term.matchers},
        "result": _WORDS[result.truth],
        "saw": result.saw,
        "error": result.error,
    }
