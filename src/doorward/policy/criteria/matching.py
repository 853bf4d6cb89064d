"""String and string-list matchers, in a fast and an obvious form; each gives true, false, or ``None`` for unknown."""

import string
from collections.abc import Callable, Collection, Iterable
from typing import TypeAlias

from doorward.policy.criteria.numbers import compare_numbers, number_of
from doorward.policy.criteria.patterns import glob_matches, glob_test, regex_test
from doorward.policy.nodes import Comparison, Matcher
from doorward.policy.truth import Truth

NUMERIC_COMPARISONS = frozenset(
    {Comparison.LESS, Comparison.AT_MOST, Comparison.EQUALS, Comparison.MORE, Comparison.AT_LEAST}
)
PATTERN_COMPARISONS = frozenset({Comparison.GLOB, Comparison.REGEX})
STRING_COMPARISONS = (
    frozenset(
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
    | PATTERN_COMPARISONS
    | NUMERIC_COMPARISONS
)
STRINGS_COMPARISONS = frozenset({Comparison.HAS, Comparison.IS, Comparison.EXCLUDE})
ANY_OF_STRINGS_COMPARISONS = (
    frozenset({Comparison.CONTAINS, Comparison.STARTS_WITH, Comparison.ENDS_WITH}) | PATTERN_COMPARISONS
)
"""Comparisons of one string that also ask whether some value of a list satisfies them."""
LIST_ONLY = frozenset({Comparison.IN, Comparison.NOT_IN})
"""Comparisons whose operand must be a list."""
LIST_TOO = LIST_ONLY | {Comparison.HAS, Comparison.EXCLUDE}
"""Comparisons whose operand may be a list."""
WHOLE_VALUE = frozenset({Comparison.IS, Comparison.NOT, Comparison.IN, Comparison.NOT_IN})
"""Comparisons of whole strings; the other comparisons of strings look at pieces."""

Verdict: TypeAlias = bool | None
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def fold(value: str) -> str:
    """``value`` with ASCII letters in lower case; other letters stay, because programs disagree about them."""
    return value.lower() if value.isascii() else value.translate(_LOWER)


def truth_of(verdict: Verdict) -> Truth:
    """The verdict as a truth."""
    if verdict is None:
        return Truth.UNKNOWN
    return Truth.TRUE if verdict else Truth.FALSE


def all_of(verdicts: Iterable[Verdict]) -> Verdict:
    """Whether all hold: false wins, then unknown."""
    found = list(verdicts)
    if False in found:
        return False
    return None if None in found else True


def match_string(matchers: tuple[Matcher, ...], value: str, *, ignore_case: bool = False) -> Verdict:
    """Whether ``value`` satisfies every matcher."""
    text = fold(value) if ignore_case else value
    return all_of(_match_string(matcher, text) for matcher in matchers)


def _match_string(matcher: Matcher, value: str) -> Verdict:
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
        case Comparison.GLOB:
            return glob_matches(operand, value)
        case Comparison.REGEX:
            return regex_test(operand)(value)
        case Comparison.EXISTS:
            return operand == "true"
        case comparison if comparison in NUMERIC_COMPARISONS:
            number = number_of(operand)
            return None if number is None else compare_numbers(comparison, value, number)
        case _:
            raise ValueError(f"`{matcher.comparison}` does not compare a string")


def match_strings(matchers: tuple[Matcher, ...], values: Collection[str], *, ignore_case: bool = False) -> Verdict:
    """Whether a collection of strings satisfies every matcher."""
    texts = [fold(value) for value in values] if ignore_case else values
    return all_of(_match_strings(matcher, texts) for matcher in matchers)


def _match_strings(matcher: Matcher, values: Collection[str]) -> Verdict:
    match matcher.comparison:
        case Comparison.HAS:
            return any(operand in values for operand in matcher.operand)
        case Comparison.IS:
            return len(values) == 1 and matcher.operand[0] in values
        case Comparison.EXCLUDE:
            return all(operand not in values for operand in matcher.operand)
        case Comparison.EXISTS:
            return matcher.operand[0] == "true"
        case comparison if comparison in ANY_OF_STRINGS_COMPARISONS:
            return any(_match_string(matcher, value) for value in values)
        case comparison if comparison in NUMERIC_COMPARISONS:
            # A number among others is not "the" number.
            return _match_string(matcher, next(iter(values))) if len(values) == 1 else None
        case _:
            raise ValueError(f"`{matcher.comparison}` does not compare a list")


def string_test(matchers: tuple[Matcher, ...], *, ignore_case: bool = False) -> Callable[[str], Verdict]:
    """``match_string`` with everything but the value done beforehand."""
    if ignore_case:
        test = string_test(matchers)
        return lambda value: test(fold(value))
    if len(matchers) != 1:
        tests = tuple(string_test((matcher,)) for matcher in matchers)
        return lambda value: all_of([test(value) for test in tests])
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
        case Comparison.GLOB:
            return glob_test(operand)
        case Comparison.REGEX:
            return regex_test(operand)
        case Comparison.EXISTS:
            wanted = operand == "true"
            return lambda _: wanted
        case comparison if comparison in NUMERIC_COMPARISONS:
            number = number_of(operand)
            if number is None:
                return lambda _: None
            return lambda value: compare_numbers(comparison, value, number)
        case _:
            raise ValueError(f"`{matcher.comparison}` does not compare a string")


def strings_test(matchers: tuple[Matcher, ...], *, ignore_case: bool = False) -> Callable[[Collection[str]], Verdict]:
    """``match_strings`` with everything but the values done beforehand."""
    if ignore_case:
        test = strings_test(matchers)
        return lambda values: test([fold(value) for value in values])
    if len(matchers) != 1:
        tests = tuple(strings_test((matcher,)) for matcher in matchers)
        return lambda values: all_of([test(values) for test in tests])
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
        case Comparison.EXISTS:
            wanted = operand == "true"
            return lambda _: wanted
        case comparison if comparison in ANY_OF_STRINGS_COMPARISONS:
            each = string_test((matcher,))
            return lambda values: any(each(value) for value in values)
        case comparison if comparison in NUMERIC_COMPARISONS:
            each = string_test((matcher,))
            return lambda values: each(next(iter(values))) if len(values) == 1 else None
        case _:
            raise ValueError(f"`{matcher.comparison}` does not compare a list")
