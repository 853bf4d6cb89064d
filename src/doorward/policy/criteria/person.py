"""Criteria about who is signed in: ``authenticated_user``, ``user``, ``email``, ``domain``."""

from functools import lru_cache

from doorward.identity.address import canonical_email
from doorward.policy.criteria.matching import match_string, string_test
from doorward.policy.criteria.port import Criterion, Fact, Finding, Operand, Test
from doorward.policy.facts import Facts
from doorward.policy.nodes import Term
from doorward.policy.truth import Truth


@lru_cache(maxsize=16_384)
def _address(email: str | None) -> str | None:
    """The canonical address, or ``None`` without one. Remembered, because a session asks for the same one each time."""
    return None if email is None else canonical_email(email)


def _ascii_lower(piece: str) -> str | None:
    return piece.lower() if piece.isascii() else None


def _authenticated(_: Term, facts: Facts) -> Finding:
    return Finding(Truth.ANONYMOUS if facts.principal is None else Truth.TRUE, facts.principal is not None)


def _prepare_authenticated(_: Term) -> Test:
    return lambda facts: Truth.ANONYMOUS if facts.principal is None else Truth.TRUE


def _user(term: Term, facts: Facts) -> Finding:
    if facts.principal is None:
        return Finding(Truth.ANONYMOUS, None)
    user_id = facts.principal.user_id
    return Finding(Truth.of(match_string(term.matchers, user_id)), user_id)


def _prepare_user(term: Term) -> Test:
    test = string_test(term.matchers)

    def run(facts: Facts) -> Truth:
        principal = facts.principal
        if principal is None:
            return Truth.ANONYMOUS
        return Truth.TRUE if test(principal.user_id) else Truth.FALSE

    return run


def _email(term: Term, facts: Facts) -> Finding:
    if facts.principal is None:
        return Finding(Truth.ANONYMOUS, None)
    address = _address(facts.principal.email)
    if address is None:
        return Finding(Truth.UNKNOWN, None)
    return Finding(Truth.of(match_string(term.matchers, address)), address)


def _prepare_email(term: Term) -> Test:
    test = string_test(term.matchers)

    def run(facts: Facts) -> Truth:
        principal = facts.principal
        if principal is None:
            return Truth.ANONYMOUS
        address = _address(principal.email)
        if address is None:
            return Truth.UNKNOWN
        return Truth.TRUE if test(address) else Truth.FALSE

    return run


def _domain_of(email: str | None) -> str | None:
    address = _address(email)
    return None if address is None else address.rpartition("@")[2]


def _domain(term: Term, facts: Facts) -> Finding:
    if facts.principal is None:
        return Finding(Truth.ANONYMOUS, None)
    domain = _domain_of(facts.principal.email)
    if domain is None:
        return Finding(Truth.UNKNOWN, None)
    return Finding(Truth.of(match_string(term.matchers, domain)), domain)


def _prepare_domain(term: Term) -> Test:
    test = string_test(term.matchers)

    def run(facts: Facts) -> Truth:
        principal = facts.principal
        if principal is None:
            return Truth.ANONYMOUS
        domain = _domain_of(principal.email)
        if domain is None:
            return Truth.UNKNOWN
        return Truth.TRUE if test(domain) else Truth.FALSE

    return run


def _canonical_domain(text: str) -> str | None:
    address = canonical_email(f"a@{text}")
    return None if address is None else address[2:]


_PRINCIPAL = frozenset({Fact.PRINCIPAL})

AUTHENTICATED_USER = Criterion(
    name="authenticated_user",
    operand=Operand.NOTHING,
    summary="Holds for everyone who is signed in.",
    example="authenticated_user: true",
    reads=_PRINCIPAL,
    success="user-ok",
    failure="user-unauthorized",
    unknown="user-unknown",
    prepare=_prepare_authenticated,
    find=_authenticated,
)
USER = Criterion(
    name="user",
    operand=Operand.STRING,
    summary="Compares the user's id, which is derived from issuer and subject and never changes.",
    example="user: 5f4dcc3b5aa765d61d8327deb882cf99",
    reads=_PRINCIPAL,
    success="user-ok",
    failure="user-unauthorized",
    unknown="user-unknown",
    prepare=_prepare_user,
    find=_user,
)
EMAIL = Criterion(
    name="email",
    operand=Operand.STRING,
    summary="Compares the verified e-mail address, in ASCII lower case; unknown without a verified one.",
    example="email: alice@example.com",
    reads=_PRINCIPAL | {Fact.EMAIL},
    success="email-ok",
    failure="email-unauthorized",
    unknown="email-unknown",
    prepare=_prepare_email,
    find=_email,
    whole=canonical_email,
    piece=_ascii_lower,
)
DOMAIN = Criterion(
    name="domain",
    operand=Operand.STRING,
    summary="Compares the domain of the verified e-mail address; unknown without a verified one.",
    example="domain: example.com",
    reads=_PRINCIPAL | {Fact.EMAIL},
    success="domain-ok",
    failure="domain-unauthorized",
    unknown="domain-unknown",
    prepare=_prepare_domain,
    find=_domain,
    whole=_canonical_domain,
    piece=_ascii_lower,
)
