"""The compiled form means what the reference interpreter means, over generated policies and facts."""

import string
from collections.abc import Iterator, Mapping
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from doorward.policy import (
    Effect,
    Facts,
    Policy,
    PrincipalFacts,
    RequestFacts,
    check_policy,
    compile_policy,
    explain_policy,
    interpret_policy,
    parse_policy,
    print_policy,
)
from doorward.policy.criteria import BY_NAME, CRITERIA
from doorward.policy.criteria.matching import LIST_ONLY, LIST_TOO, STRING_COMPARISONS, STRINGS_COMPARISONS
from doorward.policy.criteria.port import Operand
from doorward.policy.merging import merge
from doorward.policy.nodes import Action, Comparison, Expression, Group, Matcher, Operator, Rule, Term
from doorward.policy.truth import Truth, conjunction, disjunction, negation
from doorward.source import Position, Problems, read_yaml

AT = Position("generated", 1, 1)
VALUES: dict[str, list[str]] = {
    "user": ["u1", "u2", "u"],
    "email": ["a@x.example", "b@x.example", "a@y.example"],
    "domain": ["x.example", "y.example"],
    "groups": ["g1", "g2", "g3"],
    "claim": ["c1", "c2", "true"],
    "http_method": ["GET", "PUT"],
    "http_path": ["/", "/a", "/a/b", "b"],
}
"""Few values, so that facts and policies meet; pieces of them come from ``_operand``."""
PATHS = ["c", "n/m", "absent"]


class BrokenClaims(Mapping[str, object]):
    """Claims that fail when they are read, as a lazily decoded token might."""

    def __getitem__(self, key: str) -> object:
        raise ValueError(key)

    def __contains__(self, key: object) -> bool:
        raise ValueError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


@st.composite
def matchers(draw: st.DrawFn, name: str) -> tuple[Matcher, ...]:
    criterion = BY_NAME[name]
    if criterion.operand is Operand.NOTHING:
        return ()
    known = STRING_COMPARISONS if criterion.operand is Operand.STRING else STRINGS_COMPARISONS
    chosen = draw(st.lists(st.sampled_from(sorted(known)), min_size=1, max_size=2, unique=True))
    found = []
    for comparison in chosen:
        most = 3 if comparison in LIST_TOO else 1
        operand = draw(st.lists(st.sampled_from(VALUES[name]), min_size=1, max_size=most, unique=True))
        if comparison in {Comparison.CONTAINS, Comparison.STARTS_WITH, Comparison.ENDS_WITH}:
            size = draw(st.integers(1, 3))
            operand = [operand[0][:size] if draw(st.booleans()) else operand[0][-size:]]
        found.append(Matcher(comparison, tuple(operand)))
    return tuple(found)


@st.composite
def terms(draw: st.DrawFn) -> Term:
    criterion = draw(st.sampled_from(CRITERIA))
    argument = draw(st.sampled_from(PATHS)) if criterion.takes_argument else ""
    return Term(criterion.name, argument, draw(matchers(criterion.name)), AT)


def groups(members: st.SearchStrategy[Expression]) -> st.SearchStrategy[Group]:
    return st.builds(
        Group, st.sampled_from(Operator), st.lists(members, min_size=1, max_size=4).map(tuple), st.just(AT)
    )


expressions: st.SearchStrategy[Expression] = st.recursive(terms(), groups, max_leaves=6)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    rules: list[Rule] = []
    for action in draw(st.lists(st.sampled_from(Action), max_size=4)):
        number = 1 + sum(rule.action is action for rule in rules)
        rules.append(Rule(action, draw(groups(expressions)), f"{action}-{number}", AT))
    return Policy(tuple(rules), AT)


emails = st.sampled_from([*VALUES["email"], "A@X.example", "a@b@x.example", "a@x.example.", "", None])
claims: st.SearchStrategy[Mapping[str, object]] = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "c": st.sampled_from(["c1", "c2", True, 3, None, 1.5, ["c1", "c2"], [], [["c1"]]]),
            "n": st.sampled_from(["c1", {"m": "c1"}, {"m": ["c2"]}, {}]),
        },
    ),
    st.just(BrokenClaims()),
)
principals = st.builds(
    PrincipalFacts,
    user_id=st.sampled_from(VALUES["user"]),
    email=emails,
    groups=st.none() | st.frozensets(st.sampled_from(VALUES["groups"])),
    claims=claims,
)
requests = st.builds(
    RequestFacts,
    method=st.sampled_from(VALUES["http_method"]),
    host=st.just("app.example"),
    path=st.sampled_from(VALUES["http_path"]),
)
all_facts = st.builds(Facts, principal=st.none() | principals, request=requests, now=st.just(0.0))


@settings(max_examples=600, deadline=None)
@given(policies(), all_facts)
def test_closures_and_interpreter_decide_alike(policy: Policy, facts: Facts):
    decision = interpret_policy(policy, facts)
    assert compile_policy(policy).decide(facts) == decision
    assert interpret_policy(merge(policy), facts) == decision
    explanation = explain_policy(policy, facts)
    assert explanation.decision == decision
    assert explanation.render()
    assert explanation.to_dict()["effect"] == decision.effect
    assert not explanation.remedies or decision.effect is not Effect.ALLOW
    assert all(remedy.sign_in or remedy.changes for remedy in explanation.remedies)
    assert decision.reasons
    assert (decision.effect is Effect.ALLOW) <= (decision.rule is not None)


@settings(max_examples=250, deadline=None)
@given(policies(), all_facts, all_facts)
def test_a_fact_that_is_not_declared_never_changes_the_decision(policy: Policy, facts: Facts, other: Facts):
    """Caches and open streams are decided again only when a declared fact changes."""
    compiled = compile_policy(policy)
    reads = compiled.reads
    request = facts.request
    if "http_method" not in reads:
        request = replace(request, method=other.request.method)
    if "http_path" not in reads:
        request = replace(request, path=other.request.path)
    principal = facts.principal
    if "principal" not in reads:
        principal = other.principal
    elif principal is not None and other.principal is not None:
        if "email" not in reads:
            principal = replace(principal, email=other.principal.email)
        if "groups" not in reads:
            principal = replace(principal, groups=other.principal.groups)
        if not any(name.startswith("claim/") for name in reads):
            principal = replace(principal, claims=other.principal.claims)
    changed = Facts(principal=principal, request=request, now=other.now)
    assert compiled.decide(changed) == compiled.decide(facts)


@settings(max_examples=250, deadline=None)
@given(policies(), groups(expressions), all_facts)
def test_a_further_deny_never_adds_access_and_a_further_allow_never_removes_it(
    policy: Policy, group: Group, facts: Facts
):
    before = compile_policy(policy).decide(facts).effect
    denying = replace(policy, rules=(*policy.rules, Rule(Action.DENY, group, "deny-new", AT)))
    after_deny = compile_policy(denying).decide(facts).effect
    assert after_deny in {before, Effect.DENY}
    allowing = replace(policy, rules=(*policy.rules, Rule(Action.ALLOW, group, "allow-new", AT)))
    after_allow = compile_policy(allowing).decide(facts).effect
    rank = [Effect.DENY, Effect.SIGN_IN, Effect.ALLOW]
    assert rank.index(after_allow) >= rank.index(before)


@settings(max_examples=250, deadline=None)
@given(policies().filter(lambda policy: policy.rules))
def test_parsing_what_was_printed_gives_the_same_policy(policy: Policy):
    text = print_policy(policy)
    again = _parsed(text)
    assert print_policy(again) == text
    assert [_shape(rule.group) for rule in again.rules] == [_shape(rule.group) for rule in policy.rules]
    assert [rule.name for rule in again.rules] == [rule.name for rule in policy.rules]
    check_policy(again, Problems())


@settings(max_examples=200, deadline=None)
@given(st.text(min_size=1).filter(lambda text: text.strip(string.whitespace) != ""))
def test_any_operand_survives_printing_and_parsing(value: str):
    term = Term("groups", "", (Matcher(Comparison.HAS, (value,)),), AT)
    policy = Policy((Rule(Action.ALLOW, Group(Operator.OR, (term,), AT), "allow-1", AT),), AT)
    assert _shape(_parsed(print_policy(policy)).rules[0].group) == _shape(policy.rules[0].group)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(PATHS), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=250, deadline=None)
@given(policies(), st.data())
def test_decide_never_raises_whatever_the_facts_are(policy: Policy, data: st.DataObject):
    """Facts of the wrong type come from bugs elsewhere; they must not become errors that let a request through."""
    principal = PrincipalFacts(
        user_id=data.draw(anything),  # type: ignore[arg-type]  # the point
        email=data.draw(anything),  # type: ignore[arg-type]
        groups=data.draw(anything),  # type: ignore[arg-type]
        claims=data.draw(anything),  # type: ignore[arg-type]
    )
    request = RequestFacts(method=data.draw(anything), host="", path=data.draw(anything))  # type: ignore[arg-type]
    whole = Facts(principal=data.draw(st.sampled_from([principal, None, 7])), request=request, now=0.0)  # type: ignore[arg-type]
    facts = data.draw(st.sampled_from([whole, None]))
    assert compile_policy(policy).decide(facts).effect in set(Effect)  # type: ignore[arg-type]


@given(st.lists(st.sampled_from(Truth)), st.sampled_from(Truth))
def test_the_laws_of_the_three_truths(values: list[Truth], value: Truth):
    assert negation(negation(value)) is value
    assert negation(conjunction(values)) is disjunction(map(negation, values))
    assert conjunction([*values, Truth.TRUE]) is conjunction(values)
    assert disjunction([*values, Truth.FALSE]) is disjunction(values)
    assert conjunction([*values, Truth.FALSE]) is Truth.FALSE
    assert disjunction([*values, Truth.TRUE]) is Truth.TRUE


def _parsed(text: str) -> Policy:
    node = read_yaml(text, "printed")
    assert node is not None
    problems = Problems()
    policy = parse_policy(node, problems)
    assert problems.all == ()
    return policy


def _shape(expression: Expression) -> object:
    if isinstance(expression, Term):
        # A list of one is printed as a single value where both mean the same.
        return (expression.label, [(m.comparison, m.operand) for m in expression.matchers])
    return (expression.operator, [_shape(member) for member in expression.members])


def test_the_generator_reaches_every_comparison():
    assert LIST_ONLY < LIST_TOO
    assert set(Comparison) == STRING_COMPARISONS | STRINGS_COMPARISONS
