"""Would a case notice if the policy were wrong? Each mutant is the policy with one thing changed.

- A criterion that always holds, as if it had been left out of an ``and``; one that never holds, as if left out of an ``or``.
- A criterion without one of its several matchers.
- A group with the opposite operator: ``and`` for ``or``, ``not`` for ``nor``.

A mutant that every case passes is a change that nobody would notice.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from doorward.policy.decision import Decision
from doorward.policy.facts import Facts
from doorward.policy.interpreter import GroupResult, Result, TermResult, combine, decide, evaluate
from doorward.policy.nodes import Expression, Group, Operator, Policy, Rule, Term
from doorward.policy.phrases import describe, describe_matcher
from doorward.policy.step_up import step_up_terms, with_step_up
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


_Changed = Callable[[Result, Facts], Result]
"""The result of a rule after the change; given what it is without."""
_Change = tuple[Mutant, int, _Changed]


def mutate(policy: Policy, cases: Sequence[Case], limit: int = LIMIT) -> Mutation:
    """Which mutants of ``policy`` make a case fail. The cases must pass on the policy as it is."""
    changes = [change for index, rule in enumerate(policy.rules) for change in _changes(index, rule)]
    step = -(-len(changes) // limit) if changes else 1
    tried = changes[::step]
    before = [_results(policy, case.facts) for case in cases]
    steps_up = bool(step_up_terms(policy))
    killed, survivors = 0, []
    for mutant, index, change in tried:
        for case, results in zip(cases, before, strict=True):
            changed = change(results[index], case.facts)
            if changed.truth is results[index].truth and case.reasons is None and not steps_up:
                continue  # the rule comes out the same, so the decision does
            decision = decide(policy, _exchanged(results, index, changed))
            if steps_up:
                decision = with_step_up(policy, case.facts, decision, _deciding(policy, index, change))
            if differences(case, decision):
                killed += 1
                break
        else:
            survivors.append(mutant)
    return Mutation(killed, tuple(survivors), len(changes) - len(tried))


def _results(policy: Policy, facts: Facts) -> list[Result]:
    return [evaluate(rule.group, facts) for rule in policy.rules]


def _exchanged(results: list[Result], index: int, changed: Result) -> list[Result]:
    return [*results[:index], changed, *results[index + 1 :]]


def _deciding(policy: Policy, index: int, change: _Changed) -> Callable[[Facts], Decision]:
    """How the mutant decides about other facts: those of a stronger sign-in."""

    def run(facts: Facts) -> Decision:
        results = _results(policy, facts)
        return decide(policy, _exchanged(results, index, change(results[index], facts)))

    return run


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


def _force(term: Term, truth: Truth) -> _Changed:
    def change(result: Result, facts: Facts) -> Result:
        if isinstance(result, TermResult):
            return replace(result, truth=truth, error=None) if result.term is term else result
        members = tuple(change(member, facts) for member in result.members)
        if all(new is old for new, old in zip(members, result.members, strict=True)):
            return result
        return GroupResult(result.group, combine(result.group.operator, [m.truth for m in members]), members)

    return change


def _evaluate(group: Expression) -> _Changed:
    return lambda _, facts: evaluate(group, facts)


def _substitute(expression: Expression, old: Expression, new: Expression) -> Expression:
    if expression is old:
        return new
    if isinstance(expression, Term):
        return expression
    return replace(expression, members=tuple(_substitute(member, old, new) for member in expression.members))
