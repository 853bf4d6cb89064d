import pytest
from tests.support.policy import facts, policy_of

from doorward.policy import explain_policy

SOMEBODY = {"email": "bob@example.com", "groups": ["eng"]}


def remedies_of(text, principal, **request):
    found = explain_policy(policy_of(text), facts(principal, **request)).remedies
    return [(remedy.sign_in, [change.render() for change in remedy.changes]) for remedy in found]


@pytest.mark.parametrize(
    ("text", "principal", "wanted"),
    [
        ("allow: {and: [groups: ops]}", SOMEBODY, [(False, ["groups has ops (saw eng)"])]),
        ("allow: {and: [groups: ops]}", None, [(True, ["groups has ops"])]),
        ("allow: {and: [authenticated_user: true]}", None, [(True, [])]),
        ("allow: {or: [{groups: a}, {groups: b}]}", {}, [(False, ["groups has a (saw none)"]), (False, ["groups has b (saw none)"])]),
        ("allow: {not: [groups: eng]}", SOMEBODY, [(False, ["not: groups has eng (saw eng)"])]),
        ("allow: {nor: [{groups: eng}, {http_method: GET}]}", SOMEBODY, [(False, ["not: groups has eng (saw eng)"]), (False, ["not: http_method is GET (saw GET)"])]),
        ("[{deny: {or: [groups: eng]}}, {allow: {or: [accept: 1]}}]", SOMEBODY, [(False, ["not: groups has eng (saw eng)"])]),
        ("[{deny: {or: [groups: eng]}}, {allow: {or: [accept: 1]}}]", {"groups": None}, [(False, ["not: groups has eng"])]),
        ("allow: {or: [reject: 1]}", SOMEBODY, []),
        ("deny: {or: [accept: 1]}", SOMEBODY, []),
        ("[{deny: {or: [accept: 1]}}, {allow: {or: [groups: a]}}]", SOMEBODY, []),
        ("allow: {and: [{email: bob@example.com}, {groups: a}, {http_path: /x}]}", SOMEBODY, [(False, ["groups has a (saw eng)", "http_path is /x (saw /)"])]),
    ],
)  # fmt: skip
def test_what_would_let_somebody_in(text, principal, wanted):
    assert remedies_of(text, principal) == wanted


def test_a_remedy_that_runs_into_a_deny_is_not_offered():
    """Somebody who joins the group to get in, and is kept out because of it, was told a lie."""
    text = "[{deny: {or: [groups: a]}}, {allow: {or: [{groups: a}, {groups: b}]}}]"
    assert remedies_of(text, {}) == [(False, ["groups has b (saw none)"])]


def test_the_smallest_remedies_come_first_and_never_with_more_than_they_need():
    text = "[{allow: {and: [{groups: a}, {groups: b}]}}, {allow: {or: [groups: b]}}]"
    assert remedies_of(text, {}) == [(False, ["groups has b (saw none)"])]


def test_many_alternatives_end():
    """Forty two-way choices under one `and` are a million million ways; a few of them are enough."""
    pairs = ", ".join(f"{{or: [{{groups: a{n}}}, {{groups: b{n}}}]}}" for n in range(40))
    found = remedies_of(f"allow: {{and: [{pairs}]}}", {})
    assert len(found) == 5
    assert all(len(changes) == 40 for _, changes in found)
