import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.policy import facts, policy_of, problems_of, read_policy

from doorward.errors import ConfigurationError
from doorward.policy import compile_policy
from doorward.policy.nodes import Action, Comparison, Group, Matcher, Operator, Term


def test_a_document_becomes_rules_named_by_action_and_place():
    policy = policy_of(
        """
        - allow:
            and: [authenticated_user: true]
            or: [{domain: example.com}]
        - deny:
            not: [{groups: {has: eng}}]
        - allow: {nor: [http_method: GET]}
        """
    )
    assert [(rule.name, rule.action, rule.group.operator) for rule in policy.rules] == [
        ("allow-1", Action.ALLOW, Operator.AND),
        ("allow-2", Action.ALLOW, Operator.OR),
        ("deny-1", Action.DENY, Operator.NOT),
        ("allow-3", Action.ALLOW, Operator.NOR),
    ]


def test_a_single_mapping_and_json_are_accepted_as_ppl_accepts_them():
    assert policy_of('{"allow": {"or": [{"accept": 1}]}}').rules[0].name == "allow-1"


def test_terms_keep_their_position():
    policy = policy_of("allow:\n  or:\n    - email: a@example.com\n")
    term = policy.rules[0].group.members[0]
    assert str(term.position) == "policy.yaml:3:7"


def test_operators_nest():
    policy = policy_of("allow: {and: [{or: [{user: a}, {user: b}]}, {not: [{http_method: DELETE}]}]}")
    inner, other = policy.rules[0].group.members
    assert isinstance(inner, Group)
    assert isinstance(other, Group)
    assert (inner.operator, other.operator) == (Operator.OR, Operator.NOT)


@pytest.mark.parametrize(
    ("written", "matchers"),
    [
        ("user: a", (Matcher(Comparison.IS, ("a",)),)),
        ("user: {in: [a, b]}", (Matcher(Comparison.IN, ("a", "b")),)),
        ("user: {starts_with: a, ends_with: b}", None),
        ("email: Alice@Example.COM", (Matcher(Comparison.IS, ("alice@example.com",)),)),
        ("email: {ends_with: '@Example.com'}", (Matcher(Comparison.ENDS_WITH, ("@example.com",)),)),
        ("domain: EXAMPLE.com", (Matcher(Comparison.IS, ("example.com",)),)),
        ("groups: admins", (Matcher(Comparison.HAS, ("admins",)),)),
        ("groups: {has: [a, b]}", (Matcher(Comparison.HAS, ("a", "b")),)),
        ("groups: {exclude: a}", (Matcher(Comparison.EXCLUDE, ("a",)),)),
        ("claim/level: 3", (Matcher(Comparison.HAS, ("3",)),)),
        ("claim/staff: true", (Matcher(Comparison.HAS, ("true",)),)),
        ("accept: {}", ()),
        ("accept: null", ()),
    ],
)
def test_values_become_matchers(written, matchers):
    term = policy_of(f"allow: {{or: [{{{written}}}]}}").rules[0].group.members[0]
    assert isinstance(term, Term)
    if matchers is None:
        assert [matcher.comparison for matcher in term.matchers] == [Comparison.STARTS_WITH, Comparison.ENDS_WITH]
    else:
        assert term.matchers == matchers


def test_the_argument_of_a_claim_is_everything_behind_the_first_slash():
    term = policy_of("allow: {or: [{claim/a/b.c: x}]}").rules[0].group.members[0]
    assert isinstance(term, Term)
    assert (term.criterion, term.argument, term.label) == ("claim", "a/b.c", "claim/a/b.c")


@pytest.mark.parametrize(
    ("text", "line_and_column", "part"),
    [
        ("word", "1:1", "there is no policy `word`"),
        ("12", "1:1", "expected `allow` or `deny`"),
        ("[word]", "1:2", "there is no policy `word`"),
        ("[[]]", "1:2", "expected `allow` or `deny`"),
        ("{}", "1:1", "expected `allow` or `deny`"),
        ("alow: {or: [accept: true]}", "1:1", "did you mean `allow`?"),
        ("allow:", "1:7", "needs an operator"),
        ("allow: true", "1:8", "needs an operator"),
        ("allow: [accept: true]", "1:8", "needs an operator"),
        ("allow: {ore: [accept: true]}", "1:9", "did you mean `or`?"),
        ("allow: {or: {accept: true}}", "1:13", "needs a list"),
        ("allow: {or: }", "1:13", "needs a list"),
        ("allow: {or: [accept]}", "1:14", "`accept` needs a value"),
        ("allow: {or: [{accept: true, user: a}]}", "1:14", "one criterion"),
        ("allow: {or: [{}]}", "1:14", "one criterion"),
        ("allow: {or: [7]}", "1:14", "one criterion"),
        ("allow: {or: [{emial: a@b.c}]}", "1:15", "did you mean `email`?"),
        ("allow: {or: [{zzz: a}]}", "1:15", "known are accept, reject"),
        ("allow: {or: [{claim: a}]}", "1:15", "needs a path"),
        ("allow: {or: [{claim/: a}]}", "1:15", "needs a path"),
        ("allow: {or: [{email/x: a@b.c}]}", "1:15", "takes no path"),
        ("allow: {or: [{email: }]}", "1:22", "needs a string"),
        ("allow: {or: [{user: 7}]}", "1:21", "put quotes round it"),
        ("allow: {or: [{groups: 1.5}]}", "1:23", "needs a string"),
        ("allow: {or: [{claim/x: null}]}", "1:24", "needs a string"),
        ("allow: {or: [{user: []}]}", "1:21", "needs a list with at least one value"),
        ("allow: {or: [{user: {}}]}", "1:21", "needs a value or a matcher"),
        ("allow: {or: [{user: {has: a}}]}", "1:22", "unknown matcher `has` of `user`"),
        ("allow: {or: [{groups: {in: [a]}}]}", "1:24", "unknown matcher `in` of `groups`"),
        ("allow: {or: [{user: {start_with: a}}]}", "1:22", "did you mean `starts_with`?"),
        ("allow: {or: [{user: {is: [a]}}]}", "1:26", "takes one value"),
        ("allow: {or: [{user: {in: a}}]}", "1:26", "needs a list"),
        ("allow: {or: [{user: {in: [a, [b]]}}]}", "1:30", "needs a string"),
        ("allow: {or: [{email: no-address}]}", "1:22", "can never match"),
        ("allow: {or: [{email: {contains: ä}}]}", "1:33", "can never match"),
        ("allow: {or: [{domain: '@example.com'}]}", "1:23", "can never match"),
        ("allow: {or: [{accept: maybe}]}", "1:23", "takes no value"),
        ("allow: {or: [{accept: [true]}]}", "1:23", "takes no value"),
        ("deny: {or: [{reject: false}]}", "1:22", "would read as its opposite"),
    ],
)
def test_bad_input_is_named_with_its_place(text, line_and_column, part):
    problems = problems_of(text)
    assert problems, "nothing was found"
    assert any(f":{line_and_column}: error: " in problem.render() and part in problem.render() for problem in problems)


def test_all_problems_are_reported_at_once():
    problems = problems_of("- allow: {or: [{emial: a}, {user: ''}]}\n- dany: {}\n- deny: {xor: []}\n")
    assert [problem.position.line for problem in problems] == [1, 1, 2, 3]


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "allow: {}",
        "allow: {or: []}",
        "allow: {or: [{and: []}]}",
        "allow: {or: [{user: ''}]}",
        "allow: {or: [{groups: {has: ''}}]}",
        "allow: {or: [{groups: {has: []}}]}",
        "allow: {or: [{groups: {has: [a, '']}}]}",
        "allow: {or: [{user: {in: []}}]}",
        "allow: {or: [{user: {not_in: []}}]}",
        "allow: {or: [{http_path: {starts_with: ''}}]}",
        "allow: {or: [{claim/x: ''}]}",
        "allow: {or: [{user: {}}]}",
    ],
)
def test_s64_empty_values_are_rejected_at_load(text):
    """An empty prefix matches everything, and an empty list of alternatives whatever the reader believes."""
    assert problems_of(text)


def test_a_policy_with_an_error_lets_nobody_in():
    """The part that did not parse could have been the one that denies."""
    policy, problems = read_policy("- allow: {or: [accept: true]}\n- deny: {or: [{emial: mallory@example.com}]}")
    assert problems.has_errors
    assert policy.rules == ()
    assert compile_policy(policy).decide(facts({})).effect == "deny"


def test_operators_nest_only_so_deep():
    depth = 17
    text = "allow: " + "{and: [" * depth + "{accept: true}" + "]}" * depth
    assert not problems_of(text)
    text = "allow: " + "{and: [" * (depth + 1) + "{accept: true}" + "]}" * (depth + 1)
    assert "nested more than" in problems_of(text)[0].message


_words = st.sampled_from(
    ["allow", "deny", "and", "or", "not", "email", "groups", "claim/x", "accept", "is", "in", "has", "", "x", "a@b.c"]
)
_documents = st.recursive(
    st.none() | st.booleans() | st.integers() | _words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_words, inner, max_size=3),
    max_leaves=12,
)


@given(_documents)
def test_no_document_raises_and_every_accepted_one_decides(document):
    import json

    try:
        policy, problems = read_policy(json.dumps(document))
    except ConfigurationError:
        return  # the reader's business: an empty key, for example
    if problems.has_errors:
        assert policy.rules == ()
    assert compile_policy(policy).decide(facts(None)).effect in {"allow", "deny", "sign-in"}


@pytest.mark.parametrize("written", ["007", "1.10", "1e3", "0x10", "+7", "-0", "1."])
@pytest.mark.parametrize("dialect", ["", "dialect: ppl, "])
def test_a_number_that_can_be_written_in_several_ways_needs_quotes_where_its_text_is_compared(
    written: str, dialect: str
):
    """`007` would be compared as `7`, and a deny of it would keep out nobody."""
    text = f"{{{dialect}rules: [{{deny: {{or: [{{claim/code: [{written}]}}]}}}}]}}"
    (problem,) = problems_of(text)
    assert "`claim` needs a string (put quotes round it)" in problem.render()
    assert policy_of(text.replace(written, f'"{written}"')).rules[0].group.members[0].operands("") == (written,)


@pytest.mark.parametrize("written", ["7", "-7", "1.5", "0", "12345678901234567890123"])
def test_a_number_of_one_form_stands_for_its_text(written: str):
    policy = policy_of(f"deny: {{or: [{{claim/code: {written}}}]}}")
    assert policy.rules[0].group.members[0].operands("") == (written,)


def test_a_number_that_is_compared_as_one_loses_no_digits():
    policy = policy_of('deny: {or: [{claim/code: {"=": 0.12345678901234567890123}}]}')
    assert policy.rules[0].group.members[0].operands("") == ("0.12345678901234567890123",)
