"""Would a case notice if the policy were wrong? Each mutant is the policy with one thing changed.

- A criterion that always holds, as if it had been left out of an ``and``; one that never holds, as if left out of an ``or``.
- A criterion without one of its several matchers.
- A group with the opposite operator: ``and`` for ``or``, ``not`` for ``nor``.

A mutant that every case passes is a change that nobody would notice.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from doorward.policy.interpreter import GroupResult, Result, TermResult, combine, decide, evaluate
from doorward.policy.nodes import Expression, Group, Operator, Policy, Rule, Term
from doorward.policy.phrases import describe, describe_matcher
from doorward.policy.testing.coverage import possible
from doorward.policy.testing.run import differences
from doorward.policy.testing.suite import Case
from doorward.policy.truth import Truth
from doorward.source import Position

LIMIT = 5_000
"""Most mutants of one policy that are tried; beyond it every n-th is."""
_OPPOSITE = {
    Operator.AND: Operator.OR,
    Operator.OR: Operator.AND,
    Operator.NOT: Operator.NOR,
    Operator.NOR: Operator.NOT,
}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change."""

    rule: str
    change: str
    """What was changed, for people: ``groups has admins always holds``."""
    position: Position


@dataclass(frozen=True, slots=True)
class Mutation:
    """What became of the mutants of one policy."""

    killed: int
    survivors: tuple[Mutant, ...]
    """Those that every case passes, in the policy's order."""
    untried: int = 0
    """How many were left out because there are too many."""

    @property
    def tried(self) -> int:
        """How many were put to the cases."""
        return self.killed + len(self.survivors)


_Change = tuple[Mutant, int, Callable[[Result, Case], Result]]


def mutate(policy: Policy, cases: Sequence[Case], limit: int = LIMIT) -> Mutation:
    """Which mutants of ``policy`` make a case fail. The cases must pass on the policy as it is."""
    changes = [change for index, rule in enumerate(policy.rules) for change in _changes(index, rule)]
    step = -(-len(changes) // limit) if changes else 1
    tried = changes[::step]
    before = [[evaluate(rule.group, case.facts) for rule in policy.rules] for case in cases]
    killed, survivors = 0, []
    for mutant, index, change in tried:
        for case, results in zip(cases, before, strict=True):
            changed = change(results[index], case)
            if changed.truth is results[index].truth and case.reasons is None:
                continue  # the rule comes out the same, so the decision does
            after = [*results[:index], changed, *results[index + 1 :]]
            if differences(case, decide(policy, after)):
                killed += 1
                break
        else:
            survivors.append(mutant)
    return Mutation(killed, tuple(survivors), len(changes) - len(tried))


def _changes(index: int, rule: Rule) -> Iterator[_Change]:
    for expression in _below(rule.group):
        if isinstance(expression, Term):
            for holds in (True, False):
                if possible(expression, holds=not holds):
                    words = f"{describe(expression)} {'always' if holds else 'never'} holds"
                    yield Mutant(rule.name, words, expression.position), index, _force(expression, Truth.of(holds))
            if len(expression.matchers) > 1:
                for matcher in expression.matchers:
                    rest = tuple(other for other in expression.matchers if other is not matcher)
                    words = f"{expression.label} without `{describe_matcher(matcher)}`"
                    changed = _substitute(rule.group, expression, replace(expression, matchers=rest))
                    yield Mutant(rule.name, words, expression.position), index, _evaluate(changed)
        elif len(expression.members) > 1:
            opposite = _OPPOSITE[expression.operator]
            words = f"`{opposite}` instead of `{expression.operator}`"
            changed = _substitute(rule.group, expression, replace(expression, operator=opposite))
            yield Mutant(rule.name, words, expression.position), index, _evaluate(changed)


def _below(expression: Expression) -> Iterator[Expression]:
    yield expression
    if isinstance(expression, Group):
        for member in expression.members:
            yield from _below(member)


def _force(term: Term, truth: Truth) -> Callable[[Result, Case], Result]:
    def change(result: Result, case: Case) -> Result:
        if isinstance(result, TermResult):
            return replace(result, truth=truth, error=None) if result.term is term else result
        members = tuple(change(member, case) for member in result.members)
        if all(new is old for new, old in zip(members, result.members, strict=True)):
            return result
        return GroupResult(result.group, combine(result.group.operator, [m.truth for m in members]), members)

    return change


def _evaluate(group: Expression) -> Callable[[Result, Case], Result]:
    return lambda _, case: evaluate(group, case.facts)


def _substitute(expression: Expression, old: Expression, new: Expression) -> Expression:
    if expression is old:
        return new
    if isinstance(expression, Term):
        return expression
    return replace(expression, members=tuple(_substitute(member, old, new) for member in expression.members))
