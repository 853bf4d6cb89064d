import json

import pytest
from tests.support.policy import policy_of

from doorward.policy import PrincipalFacts, check_policy
from doorward.policy.checker import Known, check_known
from doorward.policy.checker.spelling import _check_regex
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
        ("allow: {or: [reject: true]}", "1:1: warning: nobody is let in: no `allow` can hold"),
        ("allow: {and: [{groups: a}, {groups: {exclude: [b, a]}}]}", "`groups` is wanted and excluded at once"),
        ("allow: {and: [{groups: {is: a}}, {groups: {is: b}}]}", "`groups` cannot be two values at once"),
        ("allow: {and: [{http_path: {starts_with: /a}}, {http_path: {starts_with: /b}}]}", "cannot be two values"),
        ("allow: {and: [{http_path: {ends_with: .a}}, {http_path: {ends_with: .b}}]}", "cannot be two values"),
        ("allow: {and: [{http_path: /a}, {not: [http_path: /a]}]}", "`not` refuses what stands beside it under `and`"),
        (
            "[{allow: {or: [{user: a}, {user: b}]}}, {allow: {and: [{user: a}, {groups: c}]}}]",
            "1:50: warning: this `allow` adds nothing: line 1 lets in all of them already",
        ),
        (
            "[{allow: {or: [{user: {in: [a, b]}}]}}, {allow: {or: [user: a]}}]",
            "adds nothing: line 1 lets in all of them",
        ),
        (
            "[{allow: {or: [http_path: {starts_with: /a}]}}, {allow: {or: [http_path: /a/b]}}]",
            "adds nothing: line 1 lets in",
        ),
        (
            "[{allow: {or: [http_path: {ends_with: .js}]}}, {allow: {or: [http_path: {in: [/a.js, /b.js]}]}}]",
            "adds nothing",
        ),
        (
            "[{deny: {or: [{user: a}, {user: b}]}}, {deny: {or: [user: b]}}, {allow: {or: [groups: c]}}]",
            "this `deny` adds nothing: line 1 keeps out all of them already",
        ),
        (
            "[{deny: {or: [groups: a]}}, {allow: {and: [{groups: a}, {user: b}]}}]",
            "this `allow` never lets anybody in: line 1 denies all of them (a `deny` goes before every `allow`)",
        ),
        (
            "allow: {or: [claim/email: a@example.com]}",
            "`claim/email` compares an address without asking whether it was verified (use `email` or `domain`)",
        ),
        ("allow: {or: [claim/realm/preferred_username: a]}", "without asking whether it was verified"),
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
    ("pattern", "part"),
    [
        (r"example\.com", "is not anchored at either end"),
        (r"^https://x", "is not anchored at its end"),
        (r"x$", "is not anchored at its beginning"),
        (r"^a\$", "is not anchored at its end"),
        (r"^a|b$", "put the alternatives into brackets"),
        (r"^(a|b)$", None),
        (r"^[|]\|$", None),
        (r"\Aa\z", None),
        (r"(?i)^a$", None),
    ],
)
def test_a_regular_expression_that_is_found_inside_longer_values_is_warned_of(pattern, part):
    """`example.com` is found in `example.com.evil.test`, too."""
    found = _check_regex(pattern)
    assert (found is None) if part is None else (found is not None and part in found[0] + (found[1] or ""))


PEOPLE = [
    PrincipalFacts(user_id="a", groups=frozenset({"eng", "ops"}), claims={"team": "x", "realm": {"roles": ["r"]}}),
    PrincipalFacts(user_id="b", groups=None),
]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("allow: {or: [groups: {has: [eng, enq, zebra]}]}", ["no group is called `enq` (did you mean `eng`?)", "no group is called `zebra`"]),
        ("deny: {or: [groups: {exclude: opps}]}", ["no group is called `opps` (did you mean `ops`?)"]),
        ("allow: {and: [{groups: eng}, {claim/team: y}, {claim/realm.roles: r}]}", []),
        ("allow: {or: [{claim/taem: y}]}", ["nobody has the claim `taem` (did you mean `team`?)"]),
        ("allow: {or: [{email: a@exampel.com}]}", ["no identity provider vouches for addresses at `exampel.com`, so they count for nobody (did you mean `example.com`?)"]),
        ("allow: {or: [{domain: {ends_with: .other.test}}, {domain: example.com}]}", []),
    ],
)  # fmt: skip
def test_what_does_not_exist_is_told_once_it_is_known_what_does(text, wanted):
    problems = Problems()
    known = Known(email_domains=frozenset({"example.com"})).with_people(PEOPLE)
    check_known(policy_of(text), known, problems)
    assert [problem.render().partition("warning: ")[2] for problem in problems.all] == wanted
    nothing = Problems()
    check_known(policy_of(text), Known(), nothing)
    assert nothing.all == ()


def test_checking_a_large_policy_ends():
    """Loading a configuration must stay quick whatever somebody wrote into it."""
    rules = [{"allow": {"or": [{"groups": f"g{rule}-{number}"} for number in range(100)]}} for rule in range(60)]
    assert warnings_of(json.dumps(rules)) == []


@pytest.mark.parametrize(
    "text",
    [
        "allow: {or: [accept: true]}",
        "allow: {and: [authenticated_user: true]}",
        "allow: {and: [{groups: a}, {groups: b}]}",
        "allow: {and: [{groups: a}, {groups: {exclude: b}}]}",
        "[{allow: {or: [domain: b.c]}}, {allow: {or: [{email: a@b.c}, {email: d@x.y}]}}]",
        "allow: {and: [{groups: {has: [a, b]}}, {groups: {exclude: b}}]}",
        "[{allow: {and: [{user: a}, {groups: c}]}}, {allow: {and: [{user: a}, {groups: d}]}}]",
        "[{deny: {and: [{groups: a}, {http_method: PUT}]}}, {allow: {or: [groups: a]}}]",
        "allow: {and: [{http_path: {starts_with: /a}}, {http_path: {starts_with: /a/b}}]}",
        "allow: {or: [claim/department: sales]}",
        "allow: {and: [{claim/x: a}, {claim/x: b}]}",
        "allow: {or: [{email: a@b.c}, {email: d@b.c}]}",
        "allow: {and: [{user: {starts_with: a}}, {user: {ends_with: b}}]}",
        "[{allow: {or: [domain: example.com]}}, {deny: {not: [http_method: GET]}}]",
        "allow: {or: [{domain: {ends_with: .example.com}}, {http_path: {contains: '.css'}}]}",
    ],
)
def test_sound_policies_are_left_in_peace(text):
    assert warnings_of(text) == []
