"""String and string-list matchers, in a fast and an obvious form."""

from collections.abc import Callable, Collection

from doorward.policy.nodes import Comparison, Matcher

STRING_COMPARISONS = frozenset(
    {
        Comparison.IS,
        Comparison.NOT,
        Comparison.CONTAINS,
        Comparison.STARTS_WITH,
        Comparison.ENDS_WITH,
        Comparison.IN,
        Comparison.NOT_IN,
    }
)
STRINGS_COMPARISONS = frozenset({Comparison.HAS, Comparison.IS, Comparison.EXCLUDE})
LIST_ONLY = frozenset({Comparison.IN, Comparison.NOT_IN})
"""Comparisons whose operand must be a list."""
LIST_TOO = LIST_ONLY | {Comparison.HAS, Comparison.EXCLUDE}
"""Comparisons whose operand may be a list."""
WHOLE_VALUE = frozenset({Comparison.IS, Comparison.NOT, Comparison.IN, Comparison.NOT_IN})
"""Comparisons of whole strings; the other comparisons of strings look at pieces."""


def match_string(matchers: tuple[Matcher, ...], value: str) -> bool:
    """Whether ``value`` satisfies every matcher."""
    return all(_match_string(matcher, value) for matcher in matchers)


def _match_string(matcher: Matcher, value: str) -> bool:
    operand = matcher.operand[0]
    match matcher.comparison:
        case Comparison.IS:
            return value == operand
        case Comparison.NOT:
            return value != operand
        case Comparison.CONTAINS:
            return operand in value
        case Comparison.STARTS_WITH:
            return value.startswith(operand)
        case Comparison.ENDS_WITH:
            return value.endswith(operand)
        case Comparison.IN:
            return value in matcher.operand
        case Comparison.NOT_IN:
            return value not in matcher.operand
        case _:
            raise ValueError(f"`{matcher.comparison}` does not compare a string")


def match_strings(matchers: tuple[Matcher, ...], values: Collection[str]) -> bool:
    """Whether a collection of strings satisfies every matcher."""
    return all(_match_strings(matcher, values) for matcher in matchers)


def _match_strings(matcher: Matcher, values: Collection[str]) -> bool:
    match matcher.comparison:
        case Comparison.HAS:
            return any(operand in values for operand in matcher.operand)
        case Comparison.IS:
            return len(values) == 1 and matcher.operand[0] in values
        case Comparison.EXCLUDE:
            return all(operand not in values for operand in matcher.operand)
        case _:
            raise ValueError(f"`{matcher.comparison}` does not compare a list")


def string_test(matchers: tuple[Matcher, ...]) -> Callable[[str], bool]:
    """``match_string`` with everything but the value done beforehand."""
    if len(matchers) != 1:
        tests = tuple(string_test((matcher,)) for matcher in matchers)
        return lambda value: all(test(value) for test in tests)
    matcher = matchers[0]
    operand = matcher.operand[0]
    match matcher.comparison:
        case Comparison.IS:
            return lambda value: value == operand
        case Comparison.NOT:
            return lambda value: value != operand
        case Comparison.CONTAINS:
            return lambda value: operand in value
        case Comparison.STARTS_WITH:
            return lambda value: value.startswith(operand)
        case Comparison.ENDS_WITH:
            return lambda value: value.endswith(operand)
        case Comparison.IN:
            return frozenset(matcher.operand).__contains__
        case Comparison.NOT_IN:
            several = frozenset(matcher.operand)
            return lambda value: value not in several
        case _:
            raise ValueError(f"`{matcher.comparison}` does not compare a string")


def strings_test(matchers: tuple[Matcher, ...]) -> Callable[[Collection[str]], bool]:
    """``match_strings`` with everything but the values done beforehand."""
    if len(matchers) != 1:
        tests = tuple(strings_test((matcher,)) for matcher in matchers)
        return lambda values: all(test(values) for test in tests)
    matcher = matchers[0]
    operand = matcher.operand[0]
    several = frozenset(matcher.operand)
    match matcher.comparison:
        case Comparison.HAS if len(several) == 1:
            return lambda values: operand in values
        case Comparison.HAS:
            return lambda values: not several.isdisjoint(values)
        case Comparison.IS:
            return lambda values: len(values) == 1 and operand in values
        case Comparison.EXCLUDE:
            return several.isdisjoint
        case _:
            raise ValueError(f"`{matcher.comparison}` does not compare a list")
