"""PPL's own way with people who are not signed in, for documents of ``dialect: ppl``.

In PPL a criterion about somebody who is not signed in is false and leaves the reason ``user-unauthenticated``; ``not`` and
``nor`` turn the value and keep the reason. Wherever that reason survives, among the allow or among the deny rules,
sign-in is the answer, before anything denies or allows. Reasons survive from the members that made the outcome what it is.

Everything else is as in version 1: for somebody who is signed in there is no difference but that absent values do not match.
"""

from dataclasses import dataclass

from doorward.policy.criteria.port import Test
from doorward.policy.decision import Effect
from doorward.policy.facts import Facts
from doorward.policy.nodes import Action, Operator, Rule
from doorward.policy.truth import Truth

CONJUNCTIONS = frozenset({Operator.AND, Operator.NOT})
INVERSIONS = frozenset({Operator.NOT, Operator.NOR})


@dataclass(frozen=True, slots=True)
class AnonymousRule:
    """A rule ready to be asked about nobody in particular."""

    rule: Rule
    tests: tuple[Test, ...]

    def outcome(self, facts: Facts) -> tuple[Truth, bool]:
        """The rule's truth, never ``ANONYMOUS``, and whether the reason for sign-in survives in it."""
        inverted = self.rule.group.operator in INVERSIONS
        found: dict[Truth, bool] = {}
        for test in self.tests:
            truth = test(facts)
            anonymous = truth is Truth.ANONYMOUS
            if anonymous or truth is Truth.FALSE:
                truth = Truth.TRUE if inverted else Truth.FALSE
            elif truth is Truth.TRUE:
                truth = Truth.FALSE if inverted else Truth.TRUE
            found[truth] = found.get(truth, False) or anonymous
        deciding = Truth.FALSE if self.rule.group.operator in CONJUNCTIONS else Truth.TRUE
        other = Truth.TRUE if deciding is Truth.FALSE else Truth.FALSE
        truth = next(truth for truth in (deciding, Truth.UNKNOWN, other) if truth in found)
        return truth, found[truth] and truth is not Truth.UNKNOWN


def decide_anonymous(rules: tuple[AnonymousRule, ...], facts: Facts) -> tuple[Effect, Rule | None]:
    """What becomes of somebody who is not signed in, and by which rule."""
    outcomes = [(rule.rule, *rule.outcome(facts)) for rule in rules]
    denies = [item for item in outcomes if item[0].action is Action.DENY]
    allows = [item for item in outcomes if item[0].action is Action.ALLOW]
    denying = next((rule for rule, truth, _ in denies if truth is not Truth.FALSE), None)
    if any(truth is Truth.UNKNOWN for _, truth, _ in denies):
        return Effect.DENY, denying
    for side in (allows, denies):
        decisive = [item for item in side if item[1] is Truth.TRUE] or side
        for rule, _, survives in decisive:
            if survives:
                return Effect.SIGN_IN, rule
    if denying is not None:
        return Effect.DENY, denying
    allowing = next((rule for rule, truth, _ in allows if truth is Truth.TRUE), None)
    return (Effect.DENY, None) if allowing is None else (Effect.ALLOW, allowing)
