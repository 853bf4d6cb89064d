"""Whether one part of a policy follows from another, and whether parts exclude each other.

Told from the text alone and only when it is certain: ``False`` means "not seen", never "no".
"""

from collections.abc import Iterable

from doorward.policy.criteria import BY_NAME
from doorward.policy.criteria.http import HTTP_HEADER
from doorward.policy.criteria.matching import WHOLE_VALUE
from doorward.policy.criteria.port import Operand
from doorward.policy.criteria.times import TIME_OF_DAY
from doorward.policy.nodes import Comparison, Expression, Group, Matcher, Operator, Term

BUDGET = 20_000
"""Pairs that are compared for one policy. Larger policies are checked as far as it goes, so that loading stays quick."""
_EXACT = frozenset({Comparison.IS, Comparison.IN})
_ALTERNATIVES = {Comparison.IS: _EXACT, Comparison.IN: _EXACT, Comparison.HAS: _EXACT | {Comparison.HAS}}
"""What names one of several values, with what says at least as much: whoever has one of several groups may not have it alone."""


_ZONE = "timezone"


class Implication:
    """Comparisons of the parts of one policy, within one budget."""

    def __init__(self, budget: int = BUDGET) -> None:
        self._left = budget

    def follows(self, conclusion: Expression, premise: Expression) -> bool:
        """Whether ``conclusion`` surely holds whenever ``premise`` does."""
        self._left -= 1
        if self._left < 0:
            return False
        if isinstance(premise, Term) and isinstance(conclusion, Term):
            return _term_follows(conclusion, premise)
        if _is_alike(premise, conclusion) and shape(premise) == shape(conclusion):
            return True
        if isinstance(premise, Group) and premise.operator is Operator.OR:
            return all(self.follows(conclusion, member) for member in premise.members)
        if isinstance(conclusion, Group) and conclusion.operator is Operator.AND:
            return all(self.follows(member, premise) for member in conclusion.members)
        if (
            isinstance(conclusion, Group)
            and conclusion.operator is Operator.OR
            and any(self.follows(member, premise) for member in conclusion.members)
        ):
            return True
        if isinstance(premise, Group) and premise.operator is Operator.AND:
            return any(self.follows(conclusion, member) for member in premise.members)
        return False


def _is_alike(first: Expression, second: Expression) -> bool:
    """Whether two parts may have one shape; most differ at first sight."""
    if isinstance(first, Term) or isinstance(second, Term):
        return isinstance(first, Term) and isinstance(second, Term)
    return first.operator is second.operator and len(first.members) == len(second.members)


def shape(expression: Expression) -> object:
    """``expression`` without its positions; equal shapes come out alike."""
    if isinstance(expression, Term):
        return (expression.label, expression.matchers, *_modes(expression))
    return (expression.operator, tuple(shape(member) for member in expression.members))


def _modes(term: Term) -> tuple[object, ...]:
    return tuple(getattr(term, name, False) for name in ("ignore_case", "optional"))


def _term_follows(conclusion: Term, premise: Term) -> bool:
    if shape(conclusion) == shape(premise):
        return True
    if conclusion.label == "domain" and premise.label == "email" and not any(_modes(conclusion) + _modes(premise)):
        domains = [_domains_of(matcher) for matcher in premise.matchers]
        return all(any(_matcher_follows(wanted, given) for given in domains if given) for wanted in conclusion.matchers)
    if conclusion.label != premise.label or _modes(conclusion) != _modes(premise):
        return False
    if not conclusion.matchers and any(matcher.comparison is Comparison.EXCLUDE for matcher in premise.matchers):
        return False  # "any" does not follow from "not these"
    if conclusion.criterion == TIME_OF_DAY.name or conclusion.operands(_ZONE) != premise.operands(_ZONE):
        return False  # with the other bound it may be over midnight; without its zone it means another one
    if conclusion.criterion == HTTP_HEADER.name and _compares_whole(conclusion) is not _compares_whole(premise):
        return False  # a value that may be two is unknown to one of them and not to the other
    # Each wanted matcher must follow from one that is given; more given ones only narrow further.
    return all(any(_matcher_follows(wanted, given) for given in premise.matchers) for wanted in conclusion.matchers)


def _compares_whole(term: Term) -> bool:
    return any(matcher.comparison in WHOLE_VALUE for matcher in term.matchers)


def _domains_of(matcher: Matcher) -> Matcher | None:
    """What whole addresses say about their domain."""
    if matcher.comparison not in _EXACT:
        return None
    return Matcher(Comparison.IN, tuple(value.rpartition("@")[2] for value in matcher.operand))


def _matcher_follows(wanted: Matcher, given: Matcher) -> bool:
    if wanted == given:
        return True
    if getattr(wanted, "field", "") != getattr(given, "field", ""):
        return False
    if given.comparison in _ALTERNATIVES.get(wanted.comparison, ()):
        return set(given.operand) <= set(wanted.operand)
    first = wanted.operand[0]
    if wanted.comparison is Comparison.STARTS_WITH:
        known = given.comparison in _EXACT or given.comparison is Comparison.STARTS_WITH
        return known and all(value.startswith(first) for value in given.operand)
    if wanted.comparison is Comparison.ENDS_WITH:
        known = given.comparison in _EXACT or given.comparison is Comparison.ENDS_WITH
        return known and all(value.endswith(first) for value in given.operand)
    if wanted.comparison is Comparison.NOT:
        return given.comparison in _EXACT and first not in given.operand
    return False


def exclusive(terms: Iterable[Term]) -> Term | None:
    """The first term that leaves its neighbours under one ``and`` no value of one fact."""
    seen: dict[object, tuple[Matcher, ...]] = {}
    for term in terms:
        if any(getattr(matcher, "field", "") for matcher in term.matchers) or any(_modes(term)):
            continue  # several keys, other comparisons: not told here
        operand = BY_NAME[term.criterion].operand
        matchers = seen[term.label] = (*seen.get(term.label, ()), *term.matchers)
        if operand is Operand.STRING and _no_string(matchers):
            return term
        if operand is Operand.STRINGS and _no_strings(matchers):
            return term
    return None


def _no_string(matchers: tuple[Matcher, ...]) -> bool:
    """Whether no string satisfies all of ``matchers``."""
    listed = [matcher.operand for matcher in matchers if matcher.comparison in _EXACT]
    if listed:
        return not any(all(_allows(matcher, value) for matcher in matchers) for value in listed[0])
    for comparison, begins in ((Comparison.STARTS_WITH, True), (Comparison.ENDS_WITH, False)):
        pieces = [matcher.operand[0] for matcher in matchers if matcher.comparison is comparison]
        for first in pieces:
            for second in pieces:
                short, long = sorted((first, second), key=len)
                if not (long.startswith(short) if begins else long.endswith(short)):
                    return True
    return False


def _allows(matcher: Matcher, value: str) -> bool:
    """Whether ``value`` satisfies ``matcher``; ``True`` for what is not told here."""
    operand = matcher.operand[0]
    match matcher.comparison:
        case Comparison.IS | Comparison.IN:
            return value in matcher.operand
        case Comparison.NOT | Comparison.NOT_IN:
            return value not in matcher.operand
        case Comparison.CONTAINS:
            return operand in value
        case Comparison.STARTS_WITH:
            return value.startswith(operand)
        case Comparison.ENDS_WITH:
            return value.endswith(operand)
        case _:
            return True


def _no_strings(matchers: tuple[Matcher, ...]) -> bool:
    """Whether no list satisfies all of ``matchers``."""
    excluded = {value for matcher in matchers if matcher.comparison is Comparison.EXCLUDE for value in matcher.operand}
    only = {matcher.operand[0] for matcher in matchers if matcher.comparison is Comparison.IS}
    wanted = [set(matcher.operand) for matcher in matchers if matcher.comparison in {Comparison.HAS, Comparison.IS}]
    return len(only) > 1 or any(values <= excluded for values in wanted)
