"""What most criteria have in common: the matchers that they take, and how a value is found and compared."""

from collections.abc import Callable, Collection, Mapping
from enum import Enum
from typing import Final, TypeAlias

from doorward.policy.criteria.matching import (
    ANY_OF_STRINGS_COMPARISONS,
    LIST_ONLY,
    LIST_TOO,
    NUMERIC_COMPARISONS,
    STRING_COMPARISONS,
    STRINGS_COMPARISONS,
    WHOLE_VALUE,
    fold,
    match_string,
    match_strings,
    string_test,
    strings_test,
    truth_of,
)
from doorward.policy.criteria.numbers import canonical_number
from doorward.policy.criteria.patterns import checked_glob, checked_regex
from doorward.policy.criteria.port import Finding, Key, Kind, Parameter, Several, Test
from doorward.policy.facts import Facts
from doorward.policy.nodes import Comparison, Term
from doorward.policy.truth import Truth

Canonical: TypeAlias = Callable[[str], str]


class Unreadable(Enum):
    """The one value that says: there is something, and it cannot be compared."""

    UNREADABLE = "unreadable"


UNREADABLE: Final = Unreadable.UNREADABLE


def as_written(text: str) -> str:
    """``text``: what is compared is what was written."""
    return text


def exists_key() -> Parameter:
    """The operand of ``exists``."""
    return Parameter(canonical=as_written, kind=Kind.BOOLEAN, words=("true", "false"))


def _parameter(comparison: Comparison, whole: Canonical, piece: Canonical, kind: Kind) -> Parameter:
    if comparison in NUMERIC_COMPARISONS:
        return Parameter(canonical=canonical_number, kind=Kind.NUMBER)
    if comparison is Comparison.REGEX:
        return Parameter(canonical=checked_regex)
    if comparison is Comparison.EXISTS:
        return exists_key()
    several = Several.LIST if comparison in LIST_ONLY else Several.SOME if comparison in LIST_TOO else Several.ONE
    if comparison is Comparison.GLOB:
        return Parameter(canonical=lambda text: checked_glob(piece(text)))
    compared = comparison in WHOLE_VALUE | {Comparison.HAS, Comparison.EXCLUDE}
    return Parameter(canonical=whole if compared else piece, kind=kind, several=several)


def string_key(
    *,
    whole: Canonical = as_written,
    piece: Canonical = as_written,
    kind: Kind = Kind.TEXT,
    numeric: bool = False,
    exists: bool = False,
    summary: str = "",
) -> Key:
    """The matchers of one string. ``whole`` and ``piece`` bring operands into the compared form."""
    known = STRING_COMPARISONS if numeric else STRING_COMPARISONS - NUMERIC_COMPARISONS
    known = known | {Comparison.EXISTS} if exists else known
    return Key(
        comparisons={item: _parameter(item, whole, piece, kind) for item in Comparison if item in known},
        default=Comparison.IS,
        summary=summary,
    )


def strings_key(
    *, kind: Kind = Kind.TEXT, each: bool = False, numeric: bool = False, exists: bool = False, summary: str = ""
) -> Key:
    """The matchers of several strings; with ``each`` also those that ask about any one of them."""
    known = STRINGS_COMPARISONS
    known = known | ANY_OF_STRINGS_COMPARISONS if each else known
    known = known | NUMERIC_COMPARISONS if numeric else known
    known = known | {Comparison.EXISTS} if exists else known
    return Key(
        comparisons={item: _parameter(item, as_written, as_written, kind) for item in Comparison if item in known},
        default=Comparison.HAS,
        summary=summary,
    )


def plain_key(parameter: Parameter, *, several: bool = False, summary: str = "") -> Key:
    """A key that takes nothing but its value, or a list of which one must match."""
    return Key(
        comparisons={Comparison.IN if several else Comparison.IS: parameter},
        default=Comparison.IN if several else Comparison.IS,
        summary=summary,
    )


def absent_truth(term: Term) -> Truth:
    """What ``term`` is when there is no value to compare."""
    for matcher in term.matchers:
        if matcher.comparison is Comparison.EXISTS:
            return Truth.of(matcher.operand[0] == "false")
    return Truth.FALSE if term.optional else Truth.UNKNOWN


StringOf: TypeAlias = Callable[[Facts, str], str | Unreadable | None]
StringsOf: TypeAlias = Callable[[Facts, str], Collection[str] | Unreadable | None]
Forms: TypeAlias = tuple[Callable[[Term], Test], Callable[[Term, Facts], Finding]]


def string_forms(value_of: StringOf, *, identity: bool = False) -> Forms:
    """``prepare`` and ``find`` of a criterion that compares the string that ``value_of`` finds; ``None``: absent."""

    def prepare(term: Term) -> Test:
        return _prepared(value_of, term, string_test(term.under(""), ignore_case=term.ignore_case), identity=identity)

    def find(term: Term, facts: Facts) -> Finding:
        if identity and facts.principal is None:
            return Finding(Truth.ANONYMOUS, None)
        value = value_of(facts, term.argument)
        if value is None or value is UNREADABLE:
            return Finding(absent_truth(term) if value is None else Truth.UNKNOWN, None)
        return Finding(truth_of(match_string(term.under(""), value, ignore_case=term.ignore_case)), value)

    return prepare, find


def strings_forms(value_of: StringsOf, *, identity: bool = False) -> Forms:
    """The same for a criterion that compares several strings."""

    def prepare(term: Term) -> Test:
        return _prepared(value_of, term, strings_test(term.under(""), ignore_case=term.ignore_case), identity=identity)

    def find(term: Term, facts: Facts) -> Finding:
        if identity and facts.principal is None:
            return Finding(Truth.ANONYMOUS, None)
        values = value_of(facts, term.argument)
        if values is None or values is UNREADABLE:
            return Finding(absent_truth(term) if values is None else Truth.UNKNOWN, None)
        return Finding(truth_of(match_strings(term.under(""), values, ignore_case=term.ignore_case)), sorted(values))

    return prepare, find


def _prepared(value_of: Callable[[Facts, str], object], term: Term, test: Callable, *, identity: bool) -> Test:  # type: ignore[type-arg]  # of a string or of several, as value_of
    argument, absent = term.argument, absent_truth(term)

    def run(facts: Facts) -> Truth:
        if identity and facts.principal is None:
            return Truth.ANONYMOUS
        value = value_of(facts, argument)
        if value is None:
            return absent
        if value is UNREADABLE:
            return Truth.UNKNOWN
        verdict = test(value)
        return Truth.TRUE if verdict else Truth.UNKNOWN if verdict is None else Truth.FALSE

    return run


def folded_parameters(key: Key) -> Mapping[Comparison, Parameter]:
    """The matchers of ``key`` that can ignore case."""
    return {
        item: parameter
        for item, parameter in key.comparisons.items()
        if item not in NUMERIC_COMPARISONS and item not in {Comparison.REGEX, Comparison.EXISTS}
    }


__all__ = [
    "UNREADABLE",
    "Forms",
    "Unreadable",
    "absent_truth",
    "as_written",
    "exists_key",
    "fold",
    "folded_parameters",
    "plain_key",
    "string_forms",
    "string_key",
    "strings_forms",
    "strings_key",
]
