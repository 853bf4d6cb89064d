import pytest
from tests.support.policy import policy_of

from doorward.policy import check_policy
from doorward.source import Problems


def warnings_of(text: str) -> list[str]:
    problems = Problems()
    check_policy(policy_of(text), problems)
    assert not problems.has_errors
    return [problem.render() for problem in problems.all]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("deny: {or: [accept: true]}", "1:8: warning: nobody is let in: this rule denies everyone"),
        ("deny: {or: [user: a]}", "1:1: warning: nobody is let in: the policy has no `allow`"),
        ("allow: {and: [{reject: true}, {user: a}]}", "1:9: warning: this `allow` never holds"),
        ("allow: {not: [{accept: true}, {user: a}]}", "this `allow` never holds"),
        ("allow: {or: [user: {in: [a, b], not: a, starts_with: x}]}", "this `allow` never holds"),
        ("allow: {and: [{email: a@b.c}, {email: d@b.c}]}", "1:32: warning: `email` cannot be two values at once"),
        ("allow: {and: [{user: {in: [a, b]}}, {user: {not_in: [b, a]}}]}", "`user` cannot be two values at once"),
        ("[{allow: {or: [accept: 1]}}, {allow: {or: [user: a]}}]", "adds nothing: line 1 lets everyone in already"),
        ("[{allow: {or: [user: a]}}, {allow: {or: [user: a]}}]", "the same `allow` stands on line 1"),
        ("allow: {or: [{user: a}, {user: a}]}", "the same stands twice under `or`"),
        ("allow: {not: [groups: contractors]}", "lets in everyone else who is signed in"),
        ("allow: {or: [email: {ends_with: example.com}]}", "use `domain: example.com`"),
        ("allow: {or: [email: {contains: admin}]}", "compare whole addresses"),
        ("allow: {or: [domain: {ends_with: example.com}]}", "write `.example.com`"),
        ("allow: {or: [domain: {starts_with: example}]}", "compare whole domains"),
        ("allow: {or: [http_method: get]}", "write `GET`"),
        ("allow: {or: [http_method: {in: [GET, head]}]}", "write `HEAD`"),
        ("allow: {or: [http_path: reports]}", "write `/reports`"),
        ("allow: {or: [http_path: {is: '/a?b=c'}]}", "compare the part before `?`"),
        ("allow: {or: [{and: [{http_path: reports}, {user: a}]}]}", "write `/reports`"),
    ],
)
def test_what_is_legal_but_wrong_is_warned_of(text, part):
    found = warnings_of(text)
    assert any(part in warning for warning in found), found


@pytest.mark.parametrize(
    "text",
    [
        "allow: {or: [accept: true]}",
        "allow: {and: [authenticated_user: true]}",
        "allow: {and: [{groups: a}, {groups: b}]}",
        "allow: {and: [{claim/x: a}, {claim/x: b}]}",
        "allow: {or: [{email: a@b.c}, {email: d@b.c}]}",
        "allow: {and: [{user: {starts_with: a}}, {user: {ends_with: b}}]}",
        "[{allow: {or: [domain: example.com]}}, {deny: {not: [http_method: GET]}}]",
        "allow: {or: [{domain: {ends_with: .example.com}}, {http_path: {contains: '.css'}}]}",
    ],
)
def test_sound_policies_are_left_in_peace(text):
    assert warnings_of(text) == []
