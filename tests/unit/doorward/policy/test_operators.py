"""Every combination of truths under every operator, two levels deep, in both engines."""

from collections.abc import Iterator
from itertools import product

import pytest

from doorward.policy import Effect, Facts, Policy, RequestFacts, compile_policy, interpret_policy
from doorward.policy.criteria import BY_NAME
from doorward.policy.criteria.port import Criterion, Fact, Finding, Operand, Test
from doorward.policy.nodes import Action, Expression, Group, Operator, Rule, Term
from doorward.policy.truth import Truth
from doorward.source import Position

AT = Position("operators", 1, 1)
NOBODY = Facts(principal=None, request=RequestFacts(method="GET", host="a.example", path="/"), now=0.0)


def _prepare(term: Term) -> Test:
    truth = Truth[term.argument]
    return lambda _: truth


FIXED = Criterion(
    name="fixed",
    operand=Operand.NOTHING,
    summary="Is what its argument says.",
    example="fixed/TRUE: true",
    reads=frozenset({Fact.PRINCIPAL}),
    success="fixed-ok",
    failure="fixed-unauthorized",
    unknown="fixed-unknown",
    takes_argument=True,
    prepare=_prepare,
    find=lambda term, _: Finding(Truth[term.argument], None),
)
LEAVES = tuple(Term("fixed", truth.name, (), AT) for truth in Truth)


@pytest.fixture(autouse=True)
def _fixed_criterion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BY_NAME, FIXED.name, FIXED)


def _groups() -> Iterator[Group]:
    for operator in Operator:
        for size in (1, 2, 3):
            for members in product(LEAVES, repeat=size):
                yield Group(operator, members, AT)
    for outer, inner in product(Operator, Operator):
        for first, second, third in product(LEAVES, repeat=3):
            nested: Expression = Group(inner, (first, second), AT)
            yield Group(outer, (nested, third), AT)
            yield Group(outer, (third, nested), AT)


@pytest.mark.parametrize("action", Action)
def test_engines_agree_on_every_combination(action: Action) -> None:
    always = Rule(Action.ALLOW, Group(Operator.OR, (LEAVES[Truth.TRUE.value],), AT), "allow-2", AT)
    effects = set()
    for group in _groups():
        rule = Rule(action, group, f"{action}-1", AT)
        rules = (rule,) if action is Action.ALLOW else (rule, always)
        policy = Policy(rules, AT)
        decision = interpret_policy(policy, NOBODY)
        assert compile_policy(policy).decide(NOBODY) == decision, group
        effects.add(decision.effect)
    expected = {Effect.ALLOW, Effect.DENY, Effect.SIGN_IN} if action is Action.ALLOW else {Effect.ALLOW, Effect.DENY}
    assert effects == expected


@pytest.mark.parametrize(
    ("truth", "allowing", "denying"),
    [
        (Truth.TRUE, Effect.ALLOW, Effect.DENY),
        (Truth.FALSE, Effect.DENY, Effect.ALLOW),
        (Truth.UNKNOWN, Effect.DENY, Effect.DENY),
        (Truth.ANONYMOUS, Effect.SIGN_IN, Effect.ALLOW),
    ],
)
def test_what_each_truth_of_a_rule_leads_to(truth: Truth, allowing: Effect, denying: Effect) -> None:
    group = Group(Operator.AND, (LEAVES[truth.value],), AT)
    always = Rule(Action.ALLOW, Group(Operator.OR, (LEAVES[Truth.TRUE.value],), AT), "allow-1", AT)
    allow = Policy((Rule(Action.ALLOW, group, "allow-1", AT),), AT)
    deny = Policy((always, Rule(Action.DENY, group, "deny-1", AT)), AT)
    for policy, effect in ((allow, allowing), (deny, denying)):
        assert interpret_policy(policy, NOBODY).effect is effect
        assert compile_policy(policy).decide(NOBODY).effect is effect
