"""Criteria about what somebody belongs to and what is said of them: ``groups`` and ``claim/<path>``."""

import math
from collections.abc import Callable, Collection, Mapping

from doorward.policy.criteria.families import (
    UNREADABLE,
    Unreadable,
    strings_forms,
    strings_key,
)
from doorward.policy.criteria.matching import strings_test
from doorward.policy.criteria.port import Criterion, Fact, Finding, Kind, Operand, Test
from doorward.policy.facts import Facts, PrincipalFacts
from doorward.policy.nodes import Comparison, Matcher, Term
from doorward.policy.truth import Truth

CLAIM_DEPTH = 5
_KINDS_OF_NAME = ("id", "name", "email")
_ELSEWHERE, _HAS_GROUPS = "_claim_names", "hasgroups"


def _kind_of_name(argument: str) -> str:
    if argument not in _KINDS_OF_NAME:
        raise ValueError("expected `groups`, `groups/id`, `groups/name` or `groups/email`")
    return argument


def group_ids(principal: PrincipalFacts) -> frozenset[str] | None:
    """The ids of somebody's groups; what the source names them by where it does not tell."""
    if principal.groups is None:
        return None
    return principal.groups if principal.group_ids is None else principal.group_ids


def _groups_of(principal: PrincipalFacts, argument: str) -> frozenset[str] | None:
    """The groups by what they are called; by anything when ``argument`` is empty. ``None``: not known completely."""
    match argument:
        case "id":
            return group_ids(principal)
        case "name":
            return principal.group_names
        case "email":
            return principal.group_emails
        case _:
            return principal.groups


def _groups(term: Term, facts: Facts) -> Finding:
    if facts.principal is None:
        return Finding(Truth.ANONYMOUS, None)
    groups = _groups_of(facts.principal, term.argument)
    if groups is None:
        return Finding(Truth.UNKNOWN, None)
    others = () if term.argument else _other_names(facts.principal)
    number = len(groups) if term.argument else len(group_ids(facts.principal) or ())
    truths = [_groups_truth(matcher, number, groups.union(*others)) for matcher in term.matchers]
    return Finding(Truth.of(all(truths)), sorted(groups.union(*others)))


def _other_names(principal: PrincipalFacts) -> tuple[frozenset[str], ...]:
    return tuple(names for names in (principal.group_names, principal.group_emails) if names is not None)


def _groups_truth(matcher: Matcher, number: int, called: frozenset[str]) -> bool:
    match matcher.comparison:
        case Comparison.HAS:
            return any(operand in called for operand in matcher.operand)
        case Comparison.IS:
            return number == 1 and matcher.operand[0] in called
        case Comparison.EXCLUDE:
            return all(operand not in called for operand in matcher.operand)
        case _:
            raise ValueError(f"`{matcher.comparison}` does not compare groups")


def _prepare_groups(term: Term) -> Test:
    test = strings_test(term.matchers)
    argument = term.argument
    if argument or len(term.matchers) != 1:
        return _prepare_groups_slowly(term) if not argument else _prepare_groups_by(argument, test)
    comparison, several = term.matchers[0].comparison, frozenset(term.matchers[0].operand)

    def run(facts: Facts) -> Truth:
        principal = facts.principal
        if principal is None:
            return Truth.ANONYMOUS
        groups = principal.groups
        if groups is None:
            return Truth.UNKNOWN
        names, emails = principal.group_names, principal.group_emails
        if names is None and emails is None and principal.group_ids is None:
            return Truth.TRUE if test(groups) else Truth.FALSE
        found = (
            not several.isdisjoint(groups)
            or (names is not None and not several.isdisjoint(names))
            or (emails is not None and not several.isdisjoint(emails))
        )
        if comparison is Comparison.EXCLUDE:
            found = not found
        elif comparison is Comparison.IS:
            found = found and len(group_ids(principal) or ()) == 1
        return Truth.TRUE if found else Truth.FALSE

    return run


def _prepare_groups_slowly(term: Term) -> Test:
    """Several matchers at once: rare, and so the sum of single ones."""
    tests = tuple(_prepare_groups(Term(term.criterion, "", (matcher,), term.position)) for matcher in term.matchers)

    def run(facts: Facts) -> Truth:
        for test in tests:
            truth = test(facts)
            if truth is not Truth.TRUE:
                return truth
        return Truth.TRUE

    return run


def _prepare_groups_by(argument: str, test: Callable[[Collection[str]], bool | None]) -> Test:
    def run(facts: Facts) -> Truth:
        principal = facts.principal
        if principal is None:
            return Truth.ANONYMOUS
        groups = _groups_of(principal, argument)
        if groups is None:
            return Truth.UNKNOWN
        return Truth.TRUE if test(groups) else Truth.FALSE

    return run


def claim_values(claims: Mapping[str, object], path: str) -> list[str] | Unreadable | None:
    """The claim at ``path`` as strings; ``None`` when it is absent, ``UNREADABLE`` when it is of a kind not compared.

    An exact key wins over a path; a path is split at ``/`` or ``.``, at most five deep.
    """
    if path in claims:
        return _as_strings(claims[path])
    value: object = claims
    parts = path.replace(".", "/").split("/")
    if len(parts) > CLAIM_DEPTH:
        return UNREADABLE
    for part in parts:
        if not isinstance(value, Mapping):
            return UNREADABLE if value is not None else None
        if part not in value:
            return None
        value = value[part]
    return _as_strings(value)


def _as_strings(value: object) -> list[str] | Unreadable | None:
    match value:
        case None:
            return None
        case bool():
            return ["true" if value else "false"]
        case str():
            return [value]
        case int():
            return [str(value)]
        case float() if math.isfinite(value):
            return [repr(value)]
        case list():
            texts: list[str] = []
            for item in value:
                found = UNREADABLE if isinstance(item, list) else _as_strings(item)
                if not isinstance(found, list):
                    return UNREADABLE
                texts += found
            return texts
        case _:
            return UNREADABLE


def _claim_of(facts: Facts, path: str) -> Collection[str] | Unreadable | None:
    if facts.principal is None:
        return None
    claims = facts.principal.claims
    return UNREADABLE if claims is None or _is_kept_elsewhere(claims, path) else claim_values(claims, path)


def _is_kept_elsewhere(claims: Mapping[str, object], path: str) -> bool:
    """Whether the token leaves out all or some of a claim because it is too long, and says so.

    `_claim_names` points at another place (OpenID Connect Core 1.0, section 5.6.2), `hasgroups` is Entra's way for browsers.
    """
    if _ELSEWHERE not in claims and _HAS_GROUPS not in claims:
        return False
    first = path.replace(".", "/").partition("/")[0]
    if first == "groups" and claims.get(_HAS_GROUPS):
        return True
    elsewhere = claims.get(_ELSEWHERE)
    return isinstance(elsewhere, Mapping) and (path in elsewhere or first in elsewhere)


_PREPARE_CLAIM, _FIND_CLAIM = strings_forms(_claim_of, identity=True)

GROUPS = Criterion(
    name="groups",
    operand=Operand.STRINGS,
    summary="Compares the groups that somebody belongs to; unknown when they are not known completely.",
    detail=(
        "A group counts by its id, its name or its e-mail address. `groups/id`, `groups/name` and `groups/email` compare "
        "one of them: use `groups/id` where people may name groups as they like. `is` holds for the only group. "
        "An empty list of groups is known."
    ),
    example="groups: {has: admins}",
    cases="""
policy:
  - allow: {or: [{groups: {has: [admins, operators]}}, {groups/name: Night Shift}]}
cases:
  - {principal: {groups: [eng, operators]}, effect: allow, reasons: [groups-ok]}
  - {principal: {groups: [g-17], group_names: [admins]}, effect: allow, reasons: [groups-ok]}
  - {principal: {groups: [g-18], group_names: [Night Shift]}, effect: allow, reasons: [groups-ok]}
  - {principal: {groups: [Admins], group_names: [Admins]}, effect: deny, reasons: [groups-unauthorized]}
  - {principal: {groups: null}, effect: deny, reasons: [groups-unknown]}
""",
    reads=frozenset({Fact.PRINCIPAL, Fact.GROUPS}),
    success="groups-ok",
    failure="groups-unauthorized",
    unknown="groups-unknown",
    keys={"": strings_key()},
    takes_argument=True,
    argument_optional=True,
    argument=_kind_of_name,
    in_ppl=True,
    prepare=_prepare_groups,
    find=_groups,
)
CLAIM = Criterion(
    name="claim",
    operand=Operand.STRINGS,
    summary="Compares a claim of the identity provider; unknown when the claim is absent or not known.",
    detail=(
        "Its path follows a slash. A claim of that very name goes first; otherwise the path leads through nested claims, "
        "split at `/` or `.`, at most five deep. A list holds several values; `true`, `false` and numbers are compared "
        "as their text. A claim of another kind is unknown, and so is one that the identity provider keeps elsewhere because it is "
        "too long (`_claim_names`, `hasgroups`). With `optional: true` an absent claim does not match. Where claims are not known, all "
        "are unknown and none is absent: of somebody whose claims are more than a session holds, or about whom a program asks by user id."
    ),
    example="claim/department: engineering",
    cases="""
policy:
  - allow: {and: [{claim/department: engineering}, {claim/realm/roles: {exclude: guest}}]}
  - allow: {and: [{claim/clearance: {">=": 3}}]}
cases:
  - principal: {claims: {department: engineering, realm: {roles: [staff]}, clearance: 0}}
    effect: allow
    reasons: [claim-ok]
  - principal: {claims: {department: sales, realm: {roles: [staff]}, clearance: 0}}
    effect: deny
    reasons: [claim-unauthorized]
  - {principal: {claims: {department: engineering, clearance: 2}}, effect: deny, reasons: [claim-unauthorized, claim-unknown]}
  - {principal: {claims: {clearance: 10}}, effect: allow, reasons: [claim-ok], rule: allow-2}
""",
    reads=frozenset({Fact.PRINCIPAL, Fact.CLAIM}),
    success="claim-ok",
    failure="claim-unauthorized",
    unknown="claim-unknown",
    keys={"": strings_key(kind=Kind.WORD, each=True, numeric=True, exists=True)},
    takes_argument=True,
    may_be_absent=True,
    folds_case=True,
    in_ppl=True,
    prepare=_PREPARE_CLAIM,
    find=_FIND_CLAIM,
)
