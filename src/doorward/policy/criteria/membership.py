"""Criteria about what somebody belongs to: ``groups`` and ``claim/<path>``."""

from collections.abc import Mapping

from doorward.policy.criteria.matching import match_strings, strings_test
from doorward.policy.criteria.port import Criterion, Fact, Finding, Operand, Test
from doorward.policy.facts import Facts
from doorward.policy.nodes import Term
from doorward.policy.truth import Truth

CLAIM_DEPTH = 5


def _groups(term: Term, facts: Facts) -> Finding:
    if facts.principal is None:
        return Finding(Truth.ANONYMOUS, None)
    groups = facts.principal.groups
    if groups is None:
        return Finding(Truth.UNKNOWN, None)
    return Finding(Truth.of(match_strings(term.matchers, groups)), sorted(groups))


def _prepare_groups(term: Term) -> Test:
    test = strings_test(term.matchers)

    def run(facts: Facts) -> Truth:
        principal = facts.principal
        if principal is None:
            return Truth.ANONYMOUS
        groups = principal.groups
        if groups is None:
            return Truth.UNKNOWN
        return Truth.TRUE if test(groups) else Truth.FALSE

    return run


def claim_values(claims: Mapping[str, object], path: str) -> list[str] | None:
    """The claim at ``path`` as strings, or ``None`` when it is absent or of a kind that is not compared.

    An exact key wins over a path; a path is split at ``/`` or ``.``, at most five deep.
    """
    if path in claims:
        return _as_strings(claims[path])
    value: object = claims
    parts = path.replace(".", "/").split("/")
    if len(parts) > CLAIM_DEPTH:
        return None
    for part in parts:
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return _as_strings(value)


def _as_strings(value: object) -> list[str] | None:
    match value:
        case bool():
            return ["true" if value else "false"]
        case str():
            return [value]
        case int():
            return [str(value)]
        case list():
            texts: list[str] = []
            for item in value:
                found = None if isinstance(item, list) else _as_strings(item)
                if found is None:
                    return None
                texts += found
            return texts
        case _:
            return None


def _claim(term: Term, facts: Facts) -> Finding:
    if facts.principal is None:
        return Finding(Truth.ANONYMOUS, None)
    values = claim_values(facts.principal.claims, term.argument)
    if values is None:
        return Finding(Truth.UNKNOWN, None)
    return Finding(Truth.of(match_strings(term.matchers, values)), values)


def _prepare_claim(term: Term) -> Test:
    test = strings_test(term.matchers)
    path = term.argument

    def run(facts: Facts) -> Truth:
        principal = facts.principal
        if principal is None:
            return Truth.ANONYMOUS
        values = claim_values(principal.claims, path)
        if values is None:
            return Truth.UNKNOWN
        return Truth.TRUE if test(values) else Truth.FALSE

    return run


GROUPS = Criterion(
    name="groups",
    operand=Operand.STRINGS,
    summary="Compares the names of the groups that somebody belongs to; unknown when they are not known completely.",
    example="groups: {has: admins}",
    reads=frozenset({Fact.PRINCIPAL, Fact.GROUPS}),
    success="groups-ok",
    failure="groups-unauthorized",
    unknown="groups-unknown",
    prepare=_prepare_groups,
    find=_groups,
)
CLAIM = Criterion(
    name="claim",
    operand=Operand.STRINGS,
    summary="Compares a claim of the identity provider; unknown when the claim is absent.",
    example="claim/department: engineering",
    reads=frozenset({Fact.PRINCIPAL, Fact.CLAIM}),
    success="claim-ok",
    failure="claim-unauthorized",
    unknown="claim-unknown",
    takes_argument=True,
    prepare=_prepare_claim,
    find=_claim,
)
