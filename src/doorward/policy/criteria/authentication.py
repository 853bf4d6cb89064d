"""``authentication``: when, how and where somebody signed in. What a stronger sign-in would change leads to step-up."""

from doorward.policy.criteria.families import plain_key
from doorward.policy.criteria.port import Criterion, Fact, Finding, Operand, Parameter, Several, Test
from doorward.policy.facts import Facts, PrincipalFacts
from doorward.policy.nodes import Matcher, Term
from doorward.policy.truth import Truth
from doorward.source import duration_seconds


def _duration(text: str) -> str:
    seconds = duration_seconds(text)
    if seconds is None or not 1 <= seconds <= 400 * 86400:
        raise ValueError(f"`{text}` is no age: expected a duration such as `15m`, `8h` or `1h30m`")
    return f"{int(seconds)}s"


def _word(text: str) -> str:
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"`{text}` can never match")
    return text


def max_age_of(term: Term) -> float | None:
    """The age in seconds that a sign-in may have, if ``term`` limits it."""
    ages = [duration_seconds(text) for text in term.operands("max_age")]
    return min((age for age in ages if age is not None), default=None)


def _truth(term: Term, principal: PrincipalFacts, now: float) -> Truth:
    max_age, methods, providers = max_age_of(term), term.operands("methods"), term.operands("provider")
    classes = term.operands("context_class")
    parts = []
    if max_age is not None:
        at = principal.authenticated_at
        parts.append(Truth.UNKNOWN if at is None else Truth.of(now - at < max_age))
    if methods:
        # Many identity providers never report any.
        told = bool(principal.methods)
        parts.append(Truth.of(any(method in principal.methods for method in methods)) if told else Truth.UNKNOWN)
    if classes:
        reached = principal.context_class
        parts.append(Truth.UNKNOWN if reached is None else Truth.of(reached in classes))
    if providers:
        provider = principal.identity_provider_id
        parts.append(Truth.UNKNOWN if provider is None else Truth.of(provider in providers))
    if Truth.FALSE in parts:
        return Truth.FALSE
    return Truth.UNKNOWN if Truth.UNKNOWN in parts else Truth.TRUE


def _authentication(term: Term, facts: Facts) -> Finding:
    principal = facts.principal
    if principal is None:
        return Finding(Truth.ANONYMOUS, None)
    at = principal.authenticated_at
    saw = {
        "age_seconds": None if at is None else round(facts.now - at),
        "methods": list(principal.methods),
        "context_class": principal.context_class,
        "provider": principal.identity_provider_id,
    }
    return Finding(_truth(term, principal, facts.now), saw)


def _prepare(term: Term) -> Test:
    max_age = max_age_of(term)
    methods, providers = frozenset(term.operands("methods")), frozenset(term.operands("provider"))
    classes = frozenset(term.operands("context_class"))

    def run(facts: Facts) -> Truth:
        principal = facts.principal
        if principal is None:
            return Truth.ANONYMOUS
        truth = Truth.TRUE
        if max_age is not None:
            at = principal.authenticated_at
            if at is None:
                truth = Truth.UNKNOWN
            elif facts.now - at >= max_age:
                return Truth.FALSE
        if methods and methods.isdisjoint(principal.methods):
            if principal.methods:
                return Truth.FALSE
            truth = Truth.UNKNOWN
        if classes and principal.context_class not in classes:
            if principal.context_class is not None:
                return Truth.FALSE
            truth = Truth.UNKNOWN
        if providers:
            provider = principal.identity_provider_id
            if provider is None:
                truth = Truth.UNKNOWN
            elif provider not in providers:
                return Truth.FALSE
        return truth

    return run


def _next_change(term: Term, facts: Facts) -> float | None:
    max_age = max_age_of(term)
    if max_age is None or facts.principal is None or facts.principal.authenticated_at is None:
        return None
    end = facts.principal.authenticated_at + max_age
    return end if end > facts.now else None


def _check(matchers: tuple[Matcher, ...]) -> str | None:
    return None if matchers else "needs `max_age`, `methods`, `context_class` or `provider`"


AUTHENTICATION = Criterion(
    name="authentication",
    operand=Operand.KEYS,
    summary="Compares the age of the sign-in, its methods, its context class and the identity provider; unknown where nobody says.",
    detail=(
        "Methods are those that the identity provider reports (`amr`, RFC 8176), such as `otp` or `hwk`; one of several "
        "is enough. So it is with context classes (`acr`), which the identity provider defines. The age counts from when it "
        "last saw the person itself (`auth_time`). What it does not report is unknown. When somebody is kept out only because the "
        "sign-in is too old or too weak, or because one of these is unknown, the answer is step-up: they sign in again, and stronger. "
        "Another identity provider is not reached that way."
    ),
    example="authentication: {max_age: 15m, methods: [otp, hwk]}",
    cases="""
policy:
  - allow: {and: [{domain: example.com}, {authentication: {max_age: 15m, methods: [otp, hwk]}}]}
cases:
  - {principal: {email: alice@example.com, authenticated_at: 5m ago, methods: [pwd, otp]}, effect: allow, reasons: [authentication-ok, domain-ok]}
  - {principal: {email: alice@example.com, authenticated_at: 15m ago, methods: [pwd, otp]}, effect: step-up, reasons: [authentication-insufficient], rule: allow-1}
  - {principal: {email: alice@example.com, authenticated_at: 5m ago, methods: [pwd]}, effect: step-up, reasons: [authentication-insufficient]}
  - {principal: {email: alice@example.com, identity_provider_id: corp, methods: [otp]}, effect: step-up, reasons: [authentication-insufficient]}
  - {principal: {email: mallory@evil.example, authenticated_at: 5m ago, methods: [pwd]}, effect: deny, reasons: [authentication-insufficient, domain-unauthorized]}
""",
    reads=frozenset({Fact.PRINCIPAL, Fact.AUTHENTICATION, Fact.TIME}),
    success="authentication-ok",
    failure="authentication-insufficient",
    unknown="authentication-unknown",
    keys={
        "max_age": plain_key(Parameter(canonical=_duration), summary="How long ago the sign-in may be."),
        "methods": plain_key(
            Parameter(canonical=_word, several=Several.SOME), several=True, summary="Methods of which one was used."
        ),
        "context_class": plain_key(
            Parameter(canonical=_word, several=Several.SOME),
            several=True,
            summary="Context classes of which one was met.",
        ),
        "provider": plain_key(
            Parameter(canonical=_word, several=Several.SOME), several=True, summary="Ids of identity providers."
        ),
    },
    check=_check,
    prepare=_prepare,
    find=_authentication,
    next_change=_next_change,
)
