"""Why a decision came out as it did: each criterion with its result and the value that it saw, and what would help.

DENY  groups-unauthorized

allow-1 does not hold                   doorward.yaml:30:9
  ✗ all of
    ✓ domain is example.com             saw example.com
    ✗ groups has finance                saw eng, ops

to be let in:
  groups has finance (saw eng, ops)
"""

from collections.abc import Iterator
from dataclasses import dataclass

from doorward.policy.decision import Decision
from doorward.policy.facts import Facts
from doorward.policy.interpreter import GroupResult, Result, TermResult, evaluate, interpret_policy
from doorward.policy.nodes import Action, Operator, Policy, Rule
from doorward.policy.phrases import describe, describe_value
from doorward.policy.remedies import Remedy, find_remedies
from doorward.policy.truth import Truth

MARKS = {Truth.TRUE: "✓", Truth.FALSE: "✗", Truth.UNKNOWN: "?", Truth.ANONYMOUS: "○"}
_WORDS = {Truth.TRUE: "yes", Truth.FALSE: "no", Truth.UNKNOWN: "unknown", Truth.ANONYMOUS: "not signed in"}
_RULE_WORDS = {
    Truth.TRUE: "holds",
    Truth.FALSE: "does not hold",
    Truth.UNKNOWN: "cannot be told",
    Truth.ANONYMOUS: "depends on who signs in",
}
_OPERATOR_WORDS = {
    Operator.AND: "all of",
    Operator.OR: "any of",
    Operator.NOT: "none of",
    Operator.NOR: "not all of",
}
_COLUMN = 48


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision with everything that led to it."""

    decision: Decision
    rules: tuple[tuple[Rule, Result], ...]
    remedies: tuple[Remedy, ...]
    """What would let in, smallest change first; empty for who is let in, and when nothing would."""

    def render(self) -> str:
        """For people: one line a criterion, indented below its rule."""
        lines = [f"{self.decision.effect.upper()}  {', '.join(self.decision.reasons) or 'no reasons'}"]
        for rule, result in self.rules:
            mark = "  ◄ decides" if rule.name == self.decision.rule else ""
            heading = f"{rule.name} {_RULE_WORDS[result.truth]}{mark}"
            lines += ["", f"{heading:<{_COLUMN}}  {rule.position}"]
            lines += [_with_detail(left, right) for left, right in _lines(result, 1)]
        lines += self._helped()
        return "\n".join(lines)

    def _helped(self) -> Iterator[str]:
        if not self.remedies:
            if self.decision.effect != "allow":
                yield ""
                yield "nothing about this person or request would let them in"
            return
        yield ""
        yield "to be let in:" if len(self.remedies) == 1 else "to be let in, one of these:"
        for number, remedy in enumerate(self.remedies, 1):
            steps = (["sign in"] if remedy.sign_in else []) + [change.render() for change in remedy.changes]
            bullet = f"{number}." if len(self.remedies) > 1 else "-"
            for first, step in zip([bullet, *[""] * len(steps)], steps, strict=False):
                yield f"  {first:<3}{'and ' if not first else ''}{step}"

    def to_dict(self) -> dict[str, object]:
        """For programs: plain values only."""
        return {
            "effect": str(self.decision.effect),
            "reasons": list(self.decision.reasons),
            "rule": self.decision.rule,
            "rules": [
                {
                    "name": rule.name,
                    "action": str(rule.action),
                    "position": str(rule.position),
                    "decides": rule.name == self.decision.rule,
                    **_as_dict(result),
                }
                for rule, result in self.rules
            ],
            "remedies": [remedy.to_dict() for remedy in self.remedies],
        }


def explain_policy(policy: Policy, facts: Facts) -> Explanation:
    """The decision for ``facts`` with the result of every rule. Never raises."""
    results = [evaluate(rule.group, facts) for rule in policy.rules]
    pairs = list(zip(policy.rules, results, strict=True))
    # In the order in which they count: a deny goes before every allow, wherever it stands.
    ordered = tuple(pair for action in (Action.DENY, Action.ALLOW) for pair in pairs if pair[0].action is action)
    return Explanation(interpret_policy(policy, facts), ordered, find_remedies(policy, results))


def _lines(result: Result, depth: int) -> Iterator[tuple[str, str]]:
    """Criterion and what it saw, a pair each; a group of one is not worth a line."""
    indent = "  " * depth
    if isinstance(result, GroupResult):
        if len(result.members) != 1 or result.group.operator not in {Operator.AND, Operator.OR}:
            yield f"{indent}{MARKS[result.truth]} {_OPERATOR_WORDS[result.group.operator]}", ""
            depth += 1
        for member in result.members:
            yield from _lines(member, depth)
        return
    yield f"{indent}{MARKS[result.truth]} {describe(result.term)}", _saw(result)


def _saw(result: TermResult) -> str:
    if result.error:
        # The text of an exception may hold what the criterion looked at, so only its kind is told.
        return f"failed ({result.error})"
    if result.truth is Truth.ANONYMOUS:
        return "nobody is signed in"
    if result.truth is Truth.UNKNOWN and result.saw is None:
        return "not known"
    return f"saw {describe_value(result.saw)}"


def _with_detail(left: str, right: str) -> str:
    return f"{left:<{_COLUMN}}  {right}".rstrip()


def _as_dict(result: Result) -> dict[str, object]:
    if isinstance(result, GroupResult):
        return {
            "operator": str(result.group.operator),
            "result": _WORDS[result.truth],
            "members": [_as_dict(member) for member in result.members],
        }
    return {
        "criterion": result.term.label,
        "matchers": {str(m.comparison): [str(value) for value in m.operand] for m in result.term.matchers},
        "position": str(result.term.position),
        "result": _WORDS[result.truth],
        "saw": result.saw,
        "error": result.error,
    }
