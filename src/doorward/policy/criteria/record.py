"""``record``: what another system says about somebody."""

from doorward.policy.criteria.families import (
    UNREADABLE,
    absent_truth,
    as_written,
    exists_key,
    plain_key,
    string_key,
    strings_key,
)
from doorward.policy.criteria.matching import (
    LIST_ONLY,
    all_of,
    match_string,
    match_strings,
    string_test,
    strings_test,
    truth_of,
)
from doorward.policy.criteria.membership import claim_values
from doorward.policy.criteria.port import Criterion, Fact, Finding, Key, Kind, Operand, Parameter, Test
from doorward.policy.facts import Facts
from doorward.policy.nodes import Comparison, Matcher, Term
from doorward.policy.truth import Truth

_ONE_VALUE = LIST_ONLY | {Comparison.NOT}
"""Comparisons that need a field with exactly one value."""


def _split(term: Term) -> tuple[tuple[Matcher, ...], tuple[Matcher, ...]]:
    """The matchers of several values, and those of exactly one."""
    matchers = term.under("")
    one = tuple(matcher for matcher in matchers if matcher.comparison in _ONE_VALUE)
    return tuple(matcher for matcher in matchers if matcher.comparison not in _ONE_VALUE), one


def _record(term: Term, facts: Facts) -> Finding:
    if facts.principal is None:
        return Finding(Truth.ANONYMOUS, None)
    kind, field = term.operands("type")[0], term.operands("field")
    if kind not in facts.principal.records:
        return Finding(Truth.UNKNOWN, None)
    record = facts.principal.records[kind]
    if record is None:
        return Finding(absent_truth(term), None)
    if not field:
        return Finding(truth_of(match_strings(term.under(""), [])), "a record")
    values = claim_values(record, field[0])
    if values is None or values is UNREADABLE:
        return Finding(absent_truth(term) if values is None else Truth.UNKNOWN, None)
    several, one = _split(term)
    verdicts = [match_strings(several, values, ignore_case=term.ignore_case)] if several else []
    if one:
        verdicts.append(match_string(one, values[0], ignore_case=term.ignore_case) if len(values) == 1 else None)
    return Finding(truth_of(all_of(verdicts)), values)


def _prepare(term: Term) -> Test:
    kind, fields = term.operands("type")[0], term.operands("field")
    field = fields[0] if fields else None
    absent = absent_truth(term)
    several, one = _split(term)
    test = strings_test(several, ignore_case=term.ignore_case) if several else lambda _: True
    test_one = string_test(one, ignore_case=term.ignore_case) if one else None

    def run(facts: Facts) -> Truth:
        principal = facts.principal
        if principal is None:
            return Truth.ANONYMOUS
        records = principal.records
        if kind not in records:
            return Truth.UNKNOWN
        record = records[kind]
        if record is None:
            return absent
        if field is None:
            return truth_of(test([]))
        values = claim_values(record, field)
        if values is None:
            return absent
        if values is UNREADABLE:
            return Truth.UNKNOWN
        verdict = test(values)
        if test_one is not None and verdict is not False:
            only = test_one(values[0]) if len(values) == 1 else None
            verdict = only if verdict or only is False else None
        return Truth.TRUE if verdict else Truth.UNKNOWN if verdict is None else Truth.FALSE

    return run


def _check(matchers: tuple[Matcher, ...]) -> str | None:
    fields = {matcher.field for matcher in matchers}
    if "type" not in fields:
        return "needs a `type`"
    own = {matcher.comparison for matcher in matchers if matcher.field == ""}
    if not own:
        return "needs a matcher, such as `is`, `has` or `exists`"
    if "field" not in fields and own != {Comparison.EXISTS}:
        return "needs a `field`, or `exists` alone"
    return None


_MATCHERS = Key(
    comparisons={
        **string_key(kind=Kind.WORD).comparisons,
        **strings_key(kind=Kind.WORD, each=True, numeric=True).comparisons,
        Comparison.EXISTS: exists_key(),
    },
    default=Comparison.IS,
)

RECORD = Criterion(
    name="record",
    operand=Operand.KEYS,
    summary="Compares a field of an external record about somebody; unknown when the record is not known here.",
    detail=(
        "`type` names the kind of record, `field` the field, by its name or as a path like that of a claim. All matchers "
        "of strings, lists and numbers may follow; `exists` alone asks whether there is a record. `not`, `in`, `not_in` "
        "and numbers need a field with one value."
    ),
    example='record: {type: hr.example/employee, field: level, ">=": 5}',
    cases="""
policy:
  - allow: {and: [{record: {type: hr.example/employee, field: departments, has: finance}}]}
  - allow: {and: [{record: {type: hr.example/employee, field: level, ">=": 5}}]}
  - deny: {or: [{record: {type: hr.example/leaver, exists: true}}]}
cases:
  - {principal: {records: {hr.example/leaver: null, hr.example/employee: {departments: [finance], level: 1}}}, effect: allow, reasons: [record-ok]}
  - {principal: {records: {hr.example/leaver: null, hr.example/employee: {departments: [], level: 5}}}, effect: allow, reasons: [record-ok], rule: allow-2}
  - {principal: {records: {hr.example/leaver: {}, hr.example/employee: {level: 9}}}, effect: deny, reasons: [record-ok], rule: deny-1}
  - {principal: {records: {hr.example/employee: {level: 9}}}, effect: deny, reasons: [record-unknown], rule: deny-1}
""",
    reads=frozenset({Fact.PRINCIPAL, Fact.RECORD}),
    success="record-ok",
    failure="record-unauthorized",
    unknown="record-unknown",
    keys={
        "type": plain_key(Parameter(canonical=as_written), summary="Kind of record; required."),
        "field": plain_key(Parameter(canonical=as_written), summary="The field that is compared."),
        "": _MATCHERS,
    },
    may_be_absent=True,
    folds_case=True,
    in_ppl=True,
    check=_check,
    prepare=_prepare,
    find=_record,
)
