"""Criteria and values in words, one way everywhere: explanations, coverage, mutants, answers to who may."""

from collections.abc import Iterable, Mapping

from doorward.policy.nodes import Comparison, Expression, Matcher, Term

MANY = 4
"""Values of a list that are named; of longer ones the number is given."""


def describe(expression: Expression) -> str:
    """``groups has admins``; of a group its operator and size, as its place is named beside it."""
    if isinstance(expression, Term):
        wanted = ", ".join(describe_matcher(matcher) for matcher in expression.matchers)
        return f"{expression.label} {wanted}" if wanted else expression.label
    return f"`{expression.operator}` of {len(expression.members)}"


def describe_matcher(matcher: Matcher) -> str:
    """``in GET, HEAD``."""
    values = several(str(value) for value in matcher.operand)
    if not matcher.field:
        return f"{matcher.comparison} {values}"
    plain = matcher.comparison in {Comparison.IS, Comparison.IN}
    return f"{matcher.field} {values}" if plain else f"{matcher.field} {matcher.comparison} {values}"


def several(values: Iterable[str]) -> str:
    """The values in a row, the end of a long row as its number."""
    known = list(values)
    if len(known) <= MANY + 1:
        return ", ".join(known)
    return f"{', '.join(known[:MANY])} and {len(known) - MANY} more"


def describe_value(value: object) -> str:
    """What a criterion saw."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case str():
            return value or "an empty text"
        case Mapping():
            return several(f"{key}: {describe_value(inner)}" for key, inner in value.items()) or "nothing"
        case list() | tuple() | set() | frozenset():
            return several(describe_value(inner) for inner in value) or "none"
        case _:
            return str(value)
