"""Who may, when not everything is known: a policy over somebody's facts with the rest of a request left open.

YES      whatever the open facts are
DEPENDS  on the open facts; the conditions say how
NO       whatever the open facts are

An open criterion may hold or not, each by itself. So YES and NO are sure, and DEPENDS may be too careful where two
criteria about one open fact exclude each other.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import reduce

from doorward.policy.criteria import BY_NAME
from doorward.policy.criteria.port import Fact
from doorward.policy.facts import Facts
from doorward.policy.interpreter import evaluate
from doorward.policy.nodes import Action, Dialect, Expression, Group, Operator, Policy, Rule, Term, terms
from doorward.policy.phrases import describe
from doorward.policy.truth import Truth, conjunction, disjunction, negation

PERSON: frozenset[str] = frozenset({Fact.PRINCIPAL, Fact.EMAIL, Fact.GROUPS, Fact.CLAIM})
"""Facts that somebody has whatever they ask for."""
_BOTH = frozenset({Truth.TRUE, Truth.FALSE})
_BLOCKING = frozenset({Truth.TRUE, Truth.UNKNOWN})


class Reach(StrEnum):
    """Whether somebody may."""

    YES = "yes"
    DEPENDS = "depends"
    NO = "no"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The answer about one person and one policy."""

    reach: Reach
    rules: tuple[str, ...] = ()
    """The rules that let in, or may."""
    conditions: tuple[str, ...] = ()
    """For ``DEPENDS``: what the open facts must be; one of these is enough."""
    unless: tuple[str, ...] = ()
    """For ``DEPENDS``: what keeps out nevertheless."""
    denied_by: str | None = None
    """For ``NO``: the deny rule that holds whatever the open facts are, if one does."""
    missing: tuple[str, ...] = ()
    """For ``NO`` without such a rule: criteria that keep the nearest allow rule from ever holding."""


def judge_access(policy: Policy, facts: Facts, known: Collection[str]) -> Access:
    """Whether ``policy`` lets in with ``facts``, of which only those named in ``known`` count.

    ``known`` holds names of ``Fact``; ``claim`` stands for every claim. What ``facts`` says of others is not looked at.
    """
    outcomes = _Outcomes(facts, frozenset(known))
    unless = []
    for rule in policy.of(Action.DENY):
        found = outcomes.of(rule.group)
        if found <= _BLOCKING:
            return Access(reach=Reach.NO, denied_by=rule.name)
        if found & _BLOCKING:
            unless.append(_condition(rule, outcomes))
    opening = [(rule, outcomes.of(rule.group)) for rule in policy.of(Action.ALLOW)]
    sure = [rule.name for rule, found in opening if found == {Truth.TRUE}]
    possible = [rule for rule, found in opening if Truth.TRUE in found]
    if not possible:
        lacking = [outcomes.lacking(rule.group) for rule, _ in opening]
        return Access(reach=Reach.NO, missing=min(lacking, key=len, default=()))
    if policy.dialect is Dialect.PPL and facts.principal is None and _asks_who(policy):
        unless.append("PPL asks for sign-in first")
    if sure and not unless:
        return Access(reach=Reach.YES, rules=tuple(sure))
    conditions = () if sure else tuple(dict.fromkeys(_condition(rule, outcomes) for rule in possible))
    return Access(
        reach=Reach.DEPENDS,
        rules=tuple(sure or [rule.name for rule in possible]),
        conditions=conditions,
        unless=tuple(dict.fromkeys(unless)),
    )


def _asks_who(policy: Policy) -> bool:
    return any(BY_NAME[term.criterion].is_identity for rule in policy.rules for term in terms(rule.group))


class _Outcomes:
    """What each part of a policy may come to."""

    def __init__(self, facts: Facts, known: frozenset[str]) -> None:
        self._facts = facts
        self._known = known

    def of(self, expression: Expression) -> frozenset[Truth]:
        """Every truth that ``expression`` may have."""
        if isinstance(expression, Term):
            return _BOTH if self._is_open(expression) else frozenset({evaluate(expression, self._facts).truth})
        members = [self.of(member) for member in expression.members]
        match expression.operator:
            case Operator.AND:
                return _combined(conjunction, members)
            case Operator.OR:
                return _combined(disjunction, members)
            case Operator.NOT:
                return frozenset(map(negation, _combined(disjunction, members)))
            case Operator.NOR:
                return frozenset(map(negation, _combined(conjunction, members)))

    def lacking(self, expression: Expression) -> tuple[str, ...]:
        """Criteria that keep ``expression``, which cannot hold, from holding; the fewest where there is a choice."""
        if Truth.TRUE in self.of(expression):
            return ()
        if isinstance(expression, Term):
            return (describe(expression),)
        found = [lacks for member in expression.members if (lacks := self.lacking(member))]
        match expression.operator:
            case Operator.AND:
                return tuple(dict.fromkeys(text for lacks in found for text in lacks))
            case Operator.OR:
                return min(found, key=len, default=())
            case _:
                return (f"other than {describe(expression)}",)

    def _is_open(self, term: Term) -> bool:
        criterion = BY_NAME[term.criterion]
        if criterion.is_identity and self._facts.principal is None:
            return False  # nobody is signed in, whatever else is asked
        return any(name.partition("/")[0] not in self._known for name in criterion.reads_of(term))


def _combined(combine: Callable[[Iterable[Truth]], Truth], members: Collection[frozenset[Truth]]) -> frozenset[Truth]:
    return reduce(lambda left, right: frozenset(combine((a, b)) for a in left for b in right), members)


def _condition(rule: Rule, outcomes: _Outcomes) -> str:
    return _Residual(outcomes).holds(rule.group)


class _Residual:
    """What is left of a policy once the known facts are in it, in words."""

    def __init__(self, outcomes: _Outcomes) -> None:
        self._outcomes = outcomes

    def holds(self, expression: Expression) -> str:
        """When ``expression``, which may be true, is."""
        if isinstance(expression, Term):
            return describe(expression)
        match expression.operator:
            case Operator.AND:
                return _joined("and", [self.holds(member) for member in self._undecided(expression)])
            case Operator.OR:
                return _joined("or", [self.holds(member) for member in self._undecided(expression)])
            case Operator.NOT:
                return _joined("and", [self._fails(member) for member in self._undecided(expression)])
            case Operator.NOR:
                return _joined("or", [self._fails(member) for member in self._undecided(expression)])

    def _fails(self, expression: Expression) -> str:
        if isinstance(expression, Term):
            return f"not {describe(expression)}"
        word = "or" if expression.operator in {Operator.AND, Operator.NOT} else "and"
        inner = self._undecided(expression)
        if expression.operator in {Operator.AND, Operator.OR}:
            return _joined(word, [self._fails(member) for member in inner])
        return _joined(word, [self.holds(member) for member in inner])

    def _undecided(self, group: Group) -> list[Expression]:
        return [member for member in group.members if len(self._outcomes.of(member)) > 1]


def _joined(word: str, parts: Collection[str]) -> str:
    distinct = list(dict.fromkeys(parts))
    if len(distinct) <= 1:
        return "".join(distinct)
    # Brackets round what is joined by the other word, so that the sentence reads one way only.
    other = " or " if word == "and" else " and "
    return f" {word} ".join(f"({part})" if other in part else part for part in distinct)
