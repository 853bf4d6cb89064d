"""Criteria about who is signed in: ``authenticated_user``, ``user``, ``email``, ``domain``."""

from collections.abc import Callable
from functools import lru_cache

from doorward.identity.address import canonical_email
from doorward.policy.criteria.families import string_key
from doorward.policy.criteria.matching import match_string, string_test, truth_of
from doorward.policy.criteria.port import Criterion, Fact, Finding, Operand, Test
from doorward.policy.facts import Facts, PrincipalFacts
from doorward.policy.nodes import Term
from doorward.policy.truth import Truth


@lru_cache(maxsize=16_384)
def _address(email: str | None) -> str | None:
    """The canonical address, or ``None`` without one. Remembered, because a session asks for the same one each time."""
    return None if email is None else canonical_email(email)


def _ascii_lower(piece: str) -> str:
    if not piece.isascii():
        raise ValueError(f"`{piece}` can never match: addresses are ASCII")
    return piece.lower()


def _whole_address(text: str) -> str:
    address = canonical_email(text)
    if address is None:
        raise ValueError(f"`{text}` can never match: expected an address such as `alice@example.com`")
    return address


def _whole_domain(text: str) -> str:
    address = canonical_email(f"a@{text}")
    if address is None:
        raise ValueError(f"`{text}` can never match: expected a domain such as `example.com`")
    return address[2:]


def _id_or_subject(argument: str) -> str:
    if argument != "subject":
        raise ValueError("expected `user` or `user/subject`")
    return argument


def _authenticated(_: Term, facts: Facts) -> Finding:
    return Finding(Truth.ANONYMOUS if facts.principal is None else Truth.TRUE, facts.principal is not None)


def _prepare_authenticated(_: Term) -> Test:
    return lambda facts: Truth.ANONYMOUS if facts.principal is None else Truth.TRUE


def _user(term: Term, facts: Facts) -> Finding:
    if facts.principal is None:
        return Finding(Truth.ANONYMOUS, None)
    value = facts.principal.subject if term.argument else facts.principal.user_id
    return Finding(truth_of(match_string(term.matchers, value, ignore_case=term.ignore_case)), value)


def _prepare_user(term: Term) -> Test:
    test = string_test(term.matchers, ignore_case=term.ignore_case)
    by_subject = bool(term.argument)

    def run(facts: Facts) -> Truth:
        principal = facts.principal
        if principal is None:
            return Truth.ANONYMOUS
        return Truth.TRUE if test(principal.subject if by_subject else principal.user_id) else Truth.FALSE

    return run


def _email(term: Term, facts: Facts) -> Finding:
    if facts.principal is None:
        return Finding(Truth.ANONYMOUS, None)
    address = _address(facts.principal.email)
    if address is None:
        return Finding(Truth.UNKNOWN, None)
    return Finding(truth_of(match_string(term.matchers, address)), address)


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
    return Finding(truth_of(match_string(term.matchers, domain)), domain)


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


READERS: dict[str, Callable[[PrincipalFacts], str | None]] = {
    "user": lambda principal: principal.user_id,
    "user/subject": lambda principal: principal.subject,
    "email": lambda principal: _address(principal.email),
    "domain": lambda principal: _domain_of(principal.email),
}
"""How the value that a label compares is found, for whoever compares it with many."""

_PRINCIPAL = frozenset({Fact.PRINCIPAL})

AUTHENTICATED_USER = Criterion(
    name="authenticated_user",
    operand=Operand.NOTHING,
    summary="Holds for everyone who is signed in.",
    example="authenticated_user: true",
    cases="""
policy:
  - allow: {or: [{authenticated_user: true}]}
cases:
  - {principal: {}, effect: allow, reasons: [user-ok]}
  - {effect: sign-in, reasons: [user-unauthenticated]}
""",
    reads=_PRINCIPAL,
    success="user-ok",
    failure="user-unauthorized",
    unknown="user-unknown",
    in_ppl=True,
    prepare=_prepare_authenticated,
    find=_authenticated,
)
USER = Criterion(
    name="user",
    operand=Operand.STRING,
    summary="Compares the user's id, which is derived from issuer and subject and never changes.",
    detail=(
        "An e-mail address may change hands. `user/subject` compares the identity provider's own id instead; use it "
        "only where there is one identity provider, because two may give one subject to different people."
    ),
    example="user: 5f4dcc3b5aa765d61d8327deb882cf99",
    cases="""
policy:
  - allow: {or: [{user: 5f4dcc3b5aa765d61d8327deb882cf99}, {user/subject: "1001"}]}
cases:
  - {principal: {user_id: 5f4dcc3b5aa765d61d8327deb882cf99}, effect: allow, reasons: [user-ok]}
  - {principal: {user_id: "00000000000000000000000000000000"}, effect: deny, reasons: [user-unauthorized]}
  - {principal: {subject: "1001"}, effect: allow, reasons: [user-ok]}
""",
    reads=_PRINCIPAL,
    success="user-ok",
    failure="user-unauthorized",
    unknown="user-unknown",
    keys={"": string_key()},
    takes_argument=True,
    argument_optional=True,
    argument=_id_or_subject,
    folds_case=True,
    in_ppl=True,
    prepare=_prepare_user,
    find=_user,
)
EMAIL = Criterion(
    name="email",
    operand=Operand.STRING,
    summary="Compares the verified e-mail address, in ASCII lower case; unknown without a verified one.",
    detail="It counts only when the identity provider verified it and is an authority for its domain.",
    example="email: alice@example.com",
    cases="""
policy:
  - allow: {or: [{email: Alice@example.com}]}
cases:
  - {principal: {email: alice@example.com}, effect: allow, reasons: [email-ok]}
  - {principal: {email: bob@example.com}, effect: deny, reasons: [email-unauthorized]}
  - {principal: {email: null}, effect: deny, reasons: [email-unknown]}
""",
    reads=_PRINCIPAL | {Fact.EMAIL},
    success="email-ok",
    failure="email-unauthorized",
    unknown="email-unknown",
    keys={"": string_key(whole=_whole_address, piece=_ascii_lower)},
    in_ppl=True,
    prepare=_prepare_email,
    find=_email,
)
DOMAIN = Criterion(
    name="domain",
    operand=Operand.STRING,
    summary="Compares the domain of the verified e-mail address; unknown without a verified one.",
    detail="An address with two `@`, a quoted local part or a trailing dot has none.",
    example="domain: example.com",
    cases="""
policy:
  - allow: {or: [{domain: example.com}]}
cases:
  - {principal: {email: alice@example.com}, effect: allow, reasons: [domain-ok]}
  - {principal: {email: alice@notexample.com}, effect: deny, reasons: [domain-unauthorized]}
  - {principal: {email: alice@evil.example@example.com}, effect: deny, reasons: [domain-unknown]}
""",
    reads=_PRINCIPAL | {Fact.EMAIL},
    success="domain-ok",
    failure="domain-unauthorized",
    unknown="domain-unknown",
    keys={"": string_key(whole=_whole_domain, piece=_ascii_lower)},
    in_ppl=True,
    prepare=_prepare_domain,
    find=_domain,
)
