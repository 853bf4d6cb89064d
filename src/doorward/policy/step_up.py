"""Step-up: a denial that a fresher or stronger sign-in of the same person would turn.

The policy is asked again as if they had signed in this moment by every method that it names. Only if that lets them in is
step-up the answer; it never lets anybody in itself, because the new sign-in is decided like any other.
"""

from collections.abc import Callable
from dataclasses import replace

from doorward.policy.criteria.authentication import AUTHENTICATION, max_age_of
from doorward.policy.decision import Decision, Effect, StepUp
from doorward.policy.facts import Facts
from doorward.policy.nodes import Action, Policy, Term, terms
from doorward.policy.truth import Truth


def step_up_terms(policy: Policy) -> tuple[Term, ...]:
    """The terms that a new sign-in could satisfy."""
    return tuple(
        term
        for rule in policy.rules
        for term in terms(rule.group)
        if term.criterion == AUTHENTICATION.name and (term.operands("max_age") or term.operands("methods"))
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
    if principal is None or principal.authenticated_at is None:
        return None
    methods = {method for term in candidates for method in term.operands("methods")}
    stronger = replace(
        principal, authenticated_at=facts.now, methods=(*principal.methods, *sorted(methods - set(principal.methods)))
    )
    turned = decide(replace(facts, principal=stronger))
    if turned.effect is not Effect.ALLOW:
        return None
    lacking = [term for term in _relevant(policy, turned.rule) if AUTHENTICATION.find(term, facts).truth is Truth.FALSE]
    ages = [age for age in map(max_age_of, lacking) if age is not None]
    return Decision(
        effect=Effect.STEP_UP,
        reasons=(AUTHENTICATION.failure,),
        rule=turned.rule,
        step_up=StepUp(
            max_age_seconds=min(ages, default=None),
            methods=tuple(sorted({method for term in lacking for method in term.operands("methods")})),
        ),
    )


def _relevant(policy: Policy, allowing: str | None) -> tuple[Term, ...]:
    """The terms of the rule that would let in, and of those that deny."""
    rules = tuple(rule for rule in policy.rules if rule.action is Action.DENY or rule.name == allowing)
    return step_up_terms(replace(policy, rules=rules))
