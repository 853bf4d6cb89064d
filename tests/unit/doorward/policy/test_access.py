from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.policy import facts, policy_of

from doorward.policy import compile_policy
from doorward.policy.access import PERSON, Access, Reach, judge_access
from doorward.policy.nodes import Dialect

ENG = {"email": "a@example.com", "groups": ["eng"]}


def ask(text: str, principal=ENG, known=PERSON, **request: str) -> Access:
    return judge_access(policy_of(text), facts(principal, **request), known)


@pytest.mark.parametrize(
    ("text", "principal", "wanted"),
    [
        ("allow: {or: [groups: eng]}", ENG, Access(reach=Reach.YES, rules=("allow-1",))),
        ("allow: {or: [groups: ops]}", ENG, Access(reach=Reach.NO, missing=("groups has ops",))),
        ("allow: {or: [groups: eng]}", {"groups": None}, Access(reach=Reach.NO, missing=("groups has eng",))),
        ("allow: {or: [groups: eng]}", None, Access(reach=Reach.NO, missing=("groups has eng",))),
        ("[{allow: {and: [{groups: x}, {groups: y}]}}, {allow: {or: [{groups: z}, {and: [{groups: v}, {groups: w}]}]}}]", ENG, Access(reach=Reach.NO, missing=("groups has z",))),
        ("deny: {or: [groups: x]}", ENG, Access(reach=Reach.NO)),
        ("allow: {or: [accept: 1]}", None, Access(reach=Reach.YES, rules=("allow-1",))),
        ("allow: {and: [{groups: eng}, {http_method: GET}]}", ENG, Access(reach=Reach.DEPENDS, rules=("allow-1",), conditions=("http_method is GET",))),
        ("allow: {and: [{groups: ops}, {http_method: GET}]}", ENG, Access(reach=Reach.NO, missing=("groups has ops",))),
        ("allow: {or: [{groups: eng}, {http_method: GET}]}", ENG, Access(reach=Reach.YES, rules=("allow-1",))),
        ("allow: {and: [{groups: eng}, {not: [{http_path: /a}, {http_method: PUT}]}]}", ENG, Access(reach=Reach.DEPENDS, rules=("allow-1",), conditions=("not http_path is /a and not http_method is PUT",))),
        ("allow: {and: [{groups: eng}, {nor: [{http_path: /a}, {http_method: PUT}]}]}", ENG, Access(reach=Reach.DEPENDS, rules=("allow-1",), conditions=("not http_path is /a or not http_method is PUT",))),
        ("[{deny: {or: [http_path: /a]}}, {allow: {or: [groups: eng]}}]", ENG, Access(reach=Reach.DEPENDS, rules=("allow-1",), unless=("http_path is /a",))),
        ("[{deny: {or: [groups: eng]}}, {allow: {or: [accept: 1]}}]", ENG, Access(reach=Reach.NO, denied_by="deny-1")),
        ("[{deny: {or: [groups: x]}}, {allow: {or: [accept: 1]}}]", {"groups": None}, Access(reach=Reach.NO, denied_by="deny-1")),
        ("[{deny: {or: [groups: x]}}, {allow: {or: [accept: 1]}}]", None, Access(reach=Reach.YES, rules=("allow-1",))),
    ],
)  # fmt: skip
def test_what_is_sure_is_said_and_what_is_not_gets_its_condition(text, principal, wanted):
    assert ask(text, principal) == wanted


def test_what_is_pinned_is_no_longer_open():
    text = "allow: {and: [{groups: eng}, {http_method: GET}, {http_path: /a}]}"
    assert ask(text, known=PERSON | {"http_method"}, method="GET").conditions == ("http_path is /a",)
    assert ask(text, known=PERSON | {"http_method"}, method="PUT").reach is Reach.NO
    assert ask(text, known=PERSON | {"http_method", "http_path"}, path="/a").reach is Reach.YES


def test_conditions_read_one_way_only():
    text = "allow: {and: [{or: [{http_path: /a}, {http_path: /b}]}, {http_method: GET}]}"
    assert ask(text).conditions == ("(http_path is /a or http_path is /b) and http_method is GET",)


def test_claims_that_are_not_known_are_open():
    text = "allow: {or: [claim/team: blue]}"
    assert ask(text, {"claims": {"team": "blue"}}).reach is Reach.YES
    assert ask(text, {"claims": {}}, known=PERSON - {"claim"}).conditions == ("claim/team has blue",)


TERMS = ["{groups: eng}", "{groups: ops}", "{http_method: GET}", "{http_method: PUT}", "{http_path: /a}", "{accept: 1}"]
members = st.recursive(
    st.sampled_from(TERMS),
    lambda inner: st.builds(
        lambda operator, items: f"{{{operator}: [{', '.join(items)}]}}",
        st.sampled_from(["and", "or", "not", "nor"]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=5,
)
rules = st.builds(
    lambda action, operator, items: f"{{{action}: {{{operator}: [{', '.join(items)}]}}}}",
    st.sampled_from(["allow", "deny"]),
    st.sampled_from(["and", "or", "not", "nor"]),
    st.lists(members, min_size=1, max_size=3),
)
people = st.sampled_from([None, ENG, {"groups": ["ops"]}, {"groups": None}, {"groups": []}])


@settings(max_examples=300, deadline=None)
@given(
    st.lists(rules, min_size=1, max_size=3).map(lambda items: f"[{', '.join(items)}]"), people, st.sampled_from(Dialect)
)
def test_yes_and_no_are_sure_whatever_is_asked_for(text, principal, dialect):
    """An auditor who reads "no" must never meet that person inside."""
    policy = replace(policy_of(text), dialect=dialect)
    reach = judge_access(policy, facts(principal), PERSON).reach
    compiled = compile_policy(policy)
    for method in ("GET", "PUT", "POST"):
        for path in ("/a", "/b"):
            effect = compiled.decide(facts(principal, method=method, path=path)).effect
            assert reach is not Reach.YES or effect == "allow"
            assert reach is not Reach.NO or effect != "allow"
