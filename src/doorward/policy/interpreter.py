"""The slow and obvious meaning of a policy: the reference for every other consumer.

deny rules    TRUE or UNKNOWN denies; ANONYMOUS counts as false
allow rules   TRUE allows; nobody signed in and a rule ANONYMOUS offers sign-in; everything else denies
step-up       instead of a denial that a fresher or stronger sign-in would turn

With ``dialect: ppl`` people who are not signed in are decided as PPL does; see ``ppl``.
"""

from dataclasses import dataclass
from typing import TypeAlias

from doorward.policy.criteria import BY_NAME
from doorward.policy.decision import NO_RULE, POLICY_ERROR, UNAUTHENTICATED, Decision, Effect
from doorward.policy.facts import Facts
from doorward.policy.nodes import Action, Dialect, Expression, Group, Operator, Policy, Rule, Term
from doorward.policy.step_up import with_step_up
from doorward.policy.truth import Truth, conjunction, disjunction, negation


@dataclass(frozen=True, slots=True)
class TermResult:
    """What a term came to."""

    term: Term
    truth: Truth
    saw: object
    error: str | None = None
    """Kind of the exception, when evaluating raised one."""


@dataclass(frozen=True, slots=True)
class GroupResult:
    """What a group came to."""

    group: Group
    truth: Truth
    members: tuple["Result", ...]


Result: TypeAlias = TermResult | GroupResult


def interpret_policy(policy: Policy, facts: Facts) -> Decision:
    """Decide by walking the tree. Never raises."""
    return with_step_up(policy, facts, _once(policy, facts), lambda stronger: _once(policy, stronger))


def _once(policy: Policy, facts: Facts) -> Decision:
    return decide(policy, [evaluate(rule.group, facts) for rule in policy.rules])


def evaluate(expression: Expression, facts: Facts) -> Result:
    """The truth of every part of ``expression``. Never raises; an exception in a criterion is unknown."""
    if isinstance(expression, Term):
        try:
            finding = BY_NAME[expression.criterion].find(expression, facts)
        except Exception as error:
            # A criterion that fails must not decide anything in anybody's favour.
            return TermResult(expression, Truth.UNKNOWN, None, type(error).__name__)
        return TermResult(expression, finding.truth, finding.saw)
    members = tuple(evaluate(member, facts) for member in expression.members)
    return GroupResult(expression, combine(expression.operator, [member.truth for member in members]), members)


def combine(operator: Operator, values: list[Truth]) -> Truth:
    """The truth of a group from those of its members."""
    match operator:
        case Operator.AND:
            return conjunction(values)
        case Operator.OR:
            return disjunction(values)
        case Operator.NOT:
            return negation(disjunction(values))
        case Operator.NOR:
            return negation(conjunction(values))


def decide(policy: Policy, results: list[Result]) -> Decision:
    """The decision that follows from the truth of each rule, in the policy's order; step-up is not thought of."""
    pairs: list[tuple[Rule, Result]] = list(zip(policy.rules, results, strict=True))
    if policy.dialect is Dialect.PPL and any(map(_has_anonymous, results)):
        signing_in = _ppl_sign_in(pairs)
        if signing_in is not None:
            return Decision(effect=Effect.SIGN_IN, reasons=(UNAUTHENTICATED,), rule=signing_in.name)
    for rule, result in pairs:
        if rule.action is Action.DENY and result.truth in {Truth.TRUE, Truth.UNKNOWN}:
            words = true_reasons(result) if result.truth is Truth.TRUE else other_reasons(result)
            return Decision(effect=Effect.DENY, reasons=_ordered(words), rule=rule.name)
    allows = [(rule, result) for rule, result in pairs if rule.action is Action.ALLOW]
    for rule, result in allows:
        if result.truth is Truth.TRUE:
            return Decision(effect=Effect.ALLOW, reasons=_ordered(true_reasons(result)), rule=rule.name)
    for rule, result in allows:
        if result.truth is Truth.ANONYMOUS and policy.dialect is not Dialect.PPL:
            return Decision(effect=Effect.SIGN_IN, reasons=(UNAUTHENTICATED,), rule=rule.name)
    found: set[str] = set()
    for _, result in allows:
        found |= other_reasons(result)
    return Decision(effect=Effect.DENY, reasons=_ordered(found or {NO_RULE}))


def _has_anonymous(result: Result) -> bool:
    if isinstance(result, TermResult):
        return result.truth is Truth.ANONYMOUS
    return any(map(_has_anonymous, result.members))


def _ppl_sign_in(pairs: list[tuple[Rule, Result]]) -> Rule | None:
    """The first rule in which PPL's reason for sign-in survives, when it decides; allow rules go first."""
    sides = {
        action: [(rule, *_ppl_outcome(result)) for rule, result in pairs if rule.action is action] for action in Action
    }
    if any(value is None for _, value, _ in sides[Action.DENY]):
        return None
    for action in (Action.ALLOW, Action.DENY):
        decisive = [item for item in sides[action] if item[1] is True] or [i for i in sides[action] if i[1] is False]
        for rule, _, reasons in decisive:
            if UNAUTHENTICATED in reasons:
                return rule
    return None


def _ppl_outcome(result: Result) -> tuple[bool | None, set[str]]:
    """Value and reasons as PPL has them: the reasons are those of the members that made the value; ``None``: unknown."""
    if isinstance(result, TermResult):
        if result.truth is Truth.UNKNOWN:
            return None, set()
        return result.truth is Truth.TRUE, true_reasons(result) if result.truth is Truth.TRUE else other_reasons(result)
    operator = result.group.operator
    members = [_ppl_outcome(member) for member in result.members]
    if operator in {Operator.NOT, Operator.NOR}:
        members = [(None if value is None else not value, reasons) for value, reasons in members]
    order = (False, None, True) if operator in {Operator.AND, Operator.NOT} else (True, None, False)
    value = next(value for value in order if any(found is value for found, _ in members))
    return value, set().union(*(reasons for found, reasons in members if found is value))


def true_reasons(result: Result) -> set[str]:
    """Why something that holds does."""
    if isinstance(result, TermResult):
        return {BY_NAME[result.term.criterion].success}
    match result.group.operator:
        case Operator.AND:
            return set().union(*(true_reasons(member) for member in result.members))
        case Operator.OR:
            return true_reasons(next(member for member in result.members if member.truth is Truth.TRUE))
        case Operator.NOT | Operator.NOR:
            return set().union(*(other_reasons(m) for m in result.members if m.truth is not Truth.TRUE))


def other_reasons(result: Result) -> set[str]:
    """Why something that does not hold, or is unknown, does not."""
    if isinstance(result, TermResult):
        criterion = BY_NAME[result.term.criterion]
        if result.error:
            return {POLICY_ERROR}
        match result.truth:
            case Truth.ANONYMOUS:
                return {UNAUTHENTICATED}
            case Truth.UNKNOWN:
                return {criterion.unknown}
            case _:
                return {criterion.failure}
    inverted = result.group.operator in {Operator.NOT, Operator.NOR}
    found: set[str] = set()
    for member in result.members:
        if member.truth is Truth.TRUE and inverted:
            found |= true_reasons(member)
        elif member.truth is not Truth.TRUE and (not inverted or member.truth is not Truth.FALSE):
            found |= other_reasons(member)
    return found


def _ordered(words: set[str]) -> tuple[str, ...]:
    return tuple(sorted(words))
