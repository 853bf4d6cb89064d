"""Step-up: a denial that a fresher or stronger sign-in of the same person would turn.

The policy is asked again as if they had signed in this moment by every method and in a context class that it names. Only if that
lets them in is step-up the answer; it never lets anybody in itself, because the new sign-in is decided like any other.
"""

from collections.abc import Callable
from dataclasses import replace

from doorward.policy.criteria.authentication import AUTHENTICATION, max_age_of
from doorward.policy.decision import Decision, Effect, StepUp
from doorward.policy.facts import Facts
from doorward.policy.nodes import Action, Policy, Term, terms
from doorward.policy.truth import Truth

_ASKED = ("max_age", "methods", "context_class")
"""What a new sign-in of the same person at the same identity provider can change."""


def step_up_terms(policy: Policy) -> tuple[Term, ...]:
    """The terms that a new sign-in could satisfy."""
    return tuple(
        term
        for rule in policy.rules
        for term in terms(rule.group)
        if term.criterion == AUTHENTICATION.name and any(term.operands(key) for key in _ASKED)
    )


def with_step_up(policy: Policy, facts: Facts, decision: Decision, decide: Callable[[Facts], Decision]) -> Decision:
    """``decision``, or step-up instead when that would help; ``decide`` knows nothing of step-up."""
    candidates = step_up_terms(policy) if decision.effect is Effect.DENY else ()
    if not candidates:
        return decision
    try:
        return _turned(policy, facts, candidates, decide) or decision
    except Exception:
        # Facts that cannot be read cannot be made stronger; the denial stands.
        return decision


def _turned(
    policy: Policy, facts: Facts, candidates: tuple[Term, ...], decide: Callable[[Facts], Decision]
) -> Decision | None:
    principal = facts.principal
    if principal is None or (principal.authenticated_at is None and principal.identity_provider_id is None):
        return None  # a program does not sign in
    methods = _named(candidates, "methods")
    stronger = replace(
        principal, authenticated_at=facts.now, methods=(*principal.methods, *sorted(methods - set(principal.methods)))
    )
    # A sign-in has one context class, so each is tried; the present one first, because it may be enough.
    others = sorted(_named(candidates, "context_class") - {principal.context_class})
    for context_class in (principal.context_class, *others):
        turned = decide(replace(facts, principal=replace(stronger, context_class=context_class)))
        if turned.effect is Effect.ALLOW:
            return _step_up(_lacking(policy, turned.rule, facts), turned.rule)
    return None


def _step_up(lacking: list[Term], rule: str | None) -> Decision:
    ages = [age for age in map(max_age_of, lacking) if age is not None]
    return Decision(
        effect=Effect.STEP_UP,
        reasons=(AUTHENTICATION.failure,),
        rule=rule,
        step_up=StepUp(
            max_age_seconds=min(ages, default=None),
            methods=tuple(sorted(_named(lacking, "methods"))),
            context_classes=tuple(sorted(_named(lacking, "context_class"))),
        ),
    )


def _named(of: tuple[Term, ...] | list[Term], key: str) -> set[str]:
    return {word for term in of for word in term.operands(key)}


def _lacking(policy: Policy, allowing: str | None, facts: Facts) -> list[Term]:
    """The terms that do not hold now, of the rule that would let in and of those that deny."""
    rules = tuple(rule for rule in policy.rules if rule.action is Action.DENY or rule.name == allowing)
    relevant = step_up_terms(replace(policy, rules=rules))
    return [term for term in relevant if AUTHENTICATION.find(term, facts).truth in {Truth.FALSE, Truth.UNKNOWN}]
