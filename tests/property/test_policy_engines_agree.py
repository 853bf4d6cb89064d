"""The compiled form means what the reference interpreter means, over generated policies and facts."""

import os
import string
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.policy_generator import (
    AT,
    RandomChoices,
    all_facts,
    is_reached,
    make_facts,
    make_policy,
    policies,
    policies_and_groups,
)

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
from doorward.policy.criteria import CRITERIA
from doorward.policy.merging import merge
from doorward.policy.nodes import Action, Comparison, Dialect, Expression, Group, Matcher, Operator, Rule, Term
from doorward.policy.truth import Truth, conjunction, disjunction, negation
from doorward.source import Problems, read_yaml

PAIRS = int(os.environ.get("DOORWARD_POLICY_PAIRS", "100000"))
"""Policies with facts that the sweep compares; a million by hand."""
FACTS_FOR_EACH = 50


@settings(max_examples=300, deadline=None)
@given(policies(), all_facts())
def test_closures_and_interpreter_decide_alike(policy: Policy, facts: Facts):
    decision = interpret_policy(policy, facts)
    assert compile_policy(policy).decide(facts) == decision
    assert interpret_policy(merge(policy), facts) == decision
    assert decision.reasons
    assert (decision.effect is Effect.ALLOW) <= (decision.rule is not None)
    assert (decision.effect is Effect.STEP_UP) == (decision.step_up is not None)


@settings(max_examples=100, deadline=None)
@given(policies(), all_facts())
def test_an_explanation_ends_in_the_decision(policy: Policy, facts: Facts):
    explanation = explain_policy(policy, facts)
    assert explanation.decision == interpret_policy(policy, facts)
    assert explanation.render()
    assert explanation.to_dict()["effect"] == explanation.decision.effect


@pytest.mark.timeout(3600 if PAIRS > 100_000 else 300)
def test_closures_and_interpreter_decide_alike_a_hundred_thousand_times():
    """Chosen without Hypothesis, which would take minutes; a failure names the seed that makes it again."""
    effects: dict[Effect, int] = dict.fromkeys(Effect, 0)
    for seed in range(PAIRS // FACTS_FOR_EACH):
        choices = RandomChoices(seed)
        policy = make_policy(choices)
        compiled = compile_policy(policy)
        for number in range(FACTS_FOR_EACH):
            facts = make_facts(choices)
            decision = compiled.decide(facts)
            assert decision == interpret_policy(policy, facts), (seed, number, policy, facts)
            effects[decision.effect] += 1
    assert min(effects.values()) > PAIRS / 2000, effects


_READS: tuple[tuple[str, str, str], ...] = (
    ("email", "principal", "email"),
    ("groups", "principal", "groups"),
    ("groups", "principal", "group_ids"),
    ("groups", "principal", "group_names"),
    ("groups", "principal", "group_emails"),
    ("claim/", "principal", "claims"),
    ("authentication", "principal", "authenticated_at"),
    ("authentication", "principal", "methods"),
    ("authentication", "principal", "context_class"),
    ("authentication", "principal", "identity_provider_id"),
    ("devices", "principal", "devices"),
    ("grants", "principal", "grants"),
    ("record/", "principal", "records"),
    ("http_method", "request", "method"),
    ("http_path", "request", "path"),
    ("http_host", "request", "host"),
    ("http_header/", "request", "headers"),
    ("http_query/", "request", "query"),
    ("client_address", "request", "client_address"),
    ("client_certificate", "request", "client_certificate"),
    ("client_certificate", "request", "is_certificate_unknown"),
    ("route", "request", "route"),
)
"""Declared name (with a slash: any that begins so), part of the facts, field."""


def _undeclared(reads: frozenset[str], name: str) -> bool:
    return not any(read.startswith(name) if name.endswith("/") else read == name for read in reads)


def _with_undeclared_changed(reads: frozenset[str], facts: Facts, other: Facts) -> Facts:
    """``facts`` with everything of ``other`` that ``reads`` does not name; headers, claims and records one by one."""
    request, principal = facts.request, facts.principal
    for name, part, field in _READS:
        if part == "request" and _undeclared(reads, name):
            request = replace(request, **{field: getattr(other.request, field)})
    kept = {key: value for key, value in facts.request.headers.items() if f"http_header/{key}" in reads}
    changed = {key: value for key, value in other.request.headers.items() if f"http_header/{key}" not in reads}
    declared = {read.removeprefix("http_header/") for read in reads if read.startswith("http_header/")}
    known = frozenset(declared if request.known_headers is None else declared & request.known_headers)
    request = replace(request, headers={**kept, **changed}, known_headers=known)
    if "principal" not in reads:
        principal = other.principal
    elif principal is not None and other.principal is not None:
        for name, part, field in _READS:
            if part == "principal" and _undeclared(reads, name):
                principal = replace(principal, **{field: getattr(other.principal, field)})
        kept_records = {key: value for key, value in facts.principal.records.items() if f"record/{key}" in reads}
        others = {key: value for key, value in other.principal.records.items() if f"record/{key}" not in reads}
        principal = replace(principal, records={**kept_records, **others})
    return Facts(principal=principal, request=request, now=facts.now if "time" in reads else other.now)


@settings(max_examples=200, deadline=None)
@given(policies(), all_facts(), all_facts())
def test_a_fact_that_is_not_declared_never_changes_the_decision(policy: Policy, facts: Facts, other: Facts):
    """Caches and open streams are decided again only when a declared fact changes."""
    compiled = compile_policy(policy)
    changed = _with_undeclared_changed(compiled.reads, facts, other)
    assert compiled.decide(changed) == compiled.decide(facts)


def test_a_fact_that_is_not_declared_never_changes_the_decision_ten_thousand_times():
    for seed in range(1000):
        choices = RandomChoices(seed)
        compiled = compile_policy(make_policy(choices))
        for number in range(10):
            facts, other = make_facts(choices), make_facts(choices)
            changed = _with_undeclared_changed(compiled.reads, facts, other)
            assert compiled.decide(changed) == compiled.decide(facts), (seed, number)


def test_every_fact_is_known_to_the_test_of_declared_reads():
    known = {(part, field) for _, part, field in _READS}
    known |= {("principal", "user_id"), ("principal", "subject")}  # declared as `principal`
    known |= {("principal", "session_id"), ("request", "raw_path")}  # no criterion sees them
    known |= {("request", "known_headers")}  # goes with the headers, one by one
    assert known == {("principal", item.name) for item in fields(PrincipalFacts)} | {
        ("request", item.name) for item in fields(RequestFacts)
    }


def test_nothing_changes_before_the_time_that_a_policy_names():
    """An open stream sleeps until then; whatever happened earlier it would miss."""
    for seed in range(400):
        choices = RandomChoices(seed)
        compiled = compile_policy(make_policy(choices))
        for _ in range(5):
            facts = make_facts(choices)
            change = compiled.next_change(facts)
            assert change is None or change > facts.now
            if "time" not in compiled.reads:
                assert change is None
            end = facts.now + 400 * 86400 if change is None else change
            decision = compiled.decide(facts)
            for step in range(12):
                moment = facts.now + (end - facts.now) * step / 12
                if change is not None and moment >= change:
                    break  # they are too close to each other for steps between them
                assert compiled.decide(replace(facts, now=moment)) == decision, (seed, moment)
            if change is not None and change - 1e-3 > facts.now:
                assert compiled.decide(replace(facts, now=change - 1e-3)) == decision, (seed, change)


@settings(max_examples=200, deadline=None)
@given(policies_and_groups(), all_facts())
def test_a_further_deny_never_adds_access_and_a_further_allow_never_removes_it(
    pair: tuple[Policy, Group], facts: Facts
):
    policy, group = pair
    before = compile_policy(policy).decide(facts).effect
    denying = replace(policy, rules=(*policy.rules, Rule(Action.DENY, group, "deny-new", AT)))
    after_deny = compile_policy(denying).decide(facts).effect
    allowing = replace(policy, rules=(*policy.rules, Rule(Action.ALLOW, group, "allow-new", AT)))
    after_allow = compile_policy(allowing).decide(facts).effect
    rank = [Effect.DENY, Effect.STEP_UP, Effect.SIGN_IN, Effect.ALLOW]
    if policy.dialect is Dialect.PPL and facts.principal is None:
        # PPL asks anonymous people to sign in because of any rule about people, so only access itself can be compared.
        assert (after_deny is Effect.ALLOW) <= (before is Effect.ALLOW)
        return
    assert rank.index(after_deny) <= rank.index(before)
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
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["c", "n"]), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=250, deadline=None)
@given(policies(), st.data())
def test_decide_never_raises_whatever_the_facts_are(policy: Policy, data: st.DataObject):
    """Facts of the wrong type come from bugs elsewhere; they must not become errors that let a request through."""
    principal = PrincipalFacts(**{item.name: data.draw(anything) for item in fields(PrincipalFacts)})
    request = RequestFacts(**{item.name: data.draw(anything) for item in fields(RequestFacts)})
    now = data.draw(st.floats() | anything)
    whole = Facts(principal=data.draw(st.sampled_from([principal, None, 7])), request=request, now=now)  # type: ignore[arg-type]  # the point
    facts = data.draw(st.sampled_from([whole, None]))
    compiled = compile_policy(policy)
    assert compiled.decide(facts).effect in set(Effect)  # type: ignore[arg-type]  # the point
    if facts is not None and isinstance(now, float | int):
        change = compiled.next_change(facts)
        assert change is None or isinstance(change, float | int)


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
        matchers = sorted((m.field, m.comparison, m.operand) for m in expression.matchers)
        return (expression.label, matchers, expression.ignore_case, expression.optional)
    return (expression.operator, [_shape(member) for member in expression.members])


@pytest.mark.parametrize("criterion", CRITERIA, ids=lambda criterion: criterion.name)
def test_the_generator_reaches_every_key_of_every_criterion(criterion):
    assert is_reached(criterion.name)
