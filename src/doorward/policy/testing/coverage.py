"""Which outcomes of each criterion and rule the cases have seen.

A branch is one criterion or rule that holds, or one that does not. Somebody who is not signed in shows neither of a
criterion about people: one such case would otherwise count for all of them. Only what could still matter counts: after a deny
that holds, and after the member that settles a group, nothing further is looked at, as in the compiled form.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from doorward.policy.criteria import BY_NAME
from doorward.policy.criteria.port import Operand
from doorward.policy.facts import Facts
from doorward.policy.interpreter import GroupResult, Result, evaluate
from doorward.policy.nodes import Action, Expression, Operator, Policy, Term
from doorward.policy.truth import Truth


@dataclass(frozen=True, slots=True)
class Branch:
    """One outcome of one part of a policy."""

    rule: str
    expression: Expression
    holds: bool

    @property
    def outcome(self) -> str:
        """The outcome in words."""
        return "holds" if self.holds else "does not hold"


@dataclass(frozen=True, slots=True)
class Coverage:
    """The branches of one policy."""

    taken: tuple[Branch, ...]
    missed: tuple[Branch, ...]
    """In the policy's order."""

    @property
    def total(self) -> int:
        """How many branches there are."""
        return len(self.taken) + len(self.missed)

    @property
    def percent(self) -> float:
        """The share that was taken; 100 for a policy without branches."""
        return 100.0 * len(self.taken) / self.total if self.total else 100.0


def measure_coverage(policy: Policy, asked: Iterable[Facts]) -> Coverage:
    """What deciding all of ``asked`` has shown of ``policy``."""
    seen: set[tuple[int, bool]] = set()
    for facts in asked:
        for expression, truth in _looked_at(policy, facts):
            if truth is not Truth.ANONYMOUS or _is_sign_in(expression):
                seen.add((id(expression), truth is Truth.TRUE))
    taken: list[Branch] = []
    missed: list[Branch] = []
    for branch in branches(policy):
        (taken if (id(branch.expression), branch.holds) in seen else missed).append(branch)
    return Coverage(tuple(taken), tuple(missed))


def branches(policy: Policy) -> Iterator[Branch]:
    """Every branch there is. A group of one has those of its member; ``accept`` and ``reject`` have one."""
    for rule in policy.rules:
        for expression in _parts(rule.group):
            for holds in (True, False):
                if possible(expression, holds=holds):
                    yield Branch(rule.name, expression, holds)


def _parts(expression: Expression) -> Iterator[Expression]:
    if isinstance(expression, Term):
        yield expression
        return
    if len(expression.members) > 1:
        yield expression
    for member in expression.members:
        yield from _parts(member)


def possible(expression: Expression, *, holds: bool) -> bool:
    """Whether there are facts with which ``expression`` holds, or does not; told for constants alone."""
    if not isinstance(expression, Term):
        return True
    criterion = BY_NAME[expression.criterion]
    if criterion.operand is Operand.NOTHING and not criterion.reads:
        return holds == (criterion.name == "accept")
    return True


def _is_sign_in(expression: Expression) -> bool:
    """Whether being signed in is all that is asked."""
    return isinstance(expression, Term) and BY_NAME[expression.criterion].operand is Operand.NOTHING


def _looked_at(policy: Policy, facts: Facts) -> Iterator[tuple[Expression, Truth]]:
    """What deciding looks at, with what it finds."""
    for rule in policy.of(Action.DENY):
        result = evaluate(rule.group, facts)
        yield from _walk(result)
        if result.truth in {Truth.TRUE, Truth.UNKNOWN}:
            return
    for rule in policy.of(Action.ALLOW):
        result = evaluate(rule.group, facts)
        yield from _walk(result)
        if result.truth is Truth.TRUE:
            return


def _walk(result: Result) -> Iterator[tuple[Expression, Truth]]:
    if not isinstance(result, GroupResult):
        yield result.term, result.truth
        return
    yield result.group, result.truth
    settles = Truth.FALSE if result.group.operator in {Operator.AND, Operator.NOR} else Truth.TRUE
    for member in result.members:
        yield from _walk(member)
        if member.truth is settles:
            return
