from tests.support.policy import facts, policy_of

from doorward.policy.phrases import describe
from doorward.policy.testing import measure_coverage


def missed(text, *asked):
    coverage = measure_coverage(policy_of(text), asked)
    assert coverage.total == len(coverage.taken) + len(coverage.missed)
    return [f"{describe(branch.expression)} {branch.outcome}" for branch in coverage.missed]


def test_both_outcomes_of_each_criterion_count():
    text = "allow: {or: [groups: a]}"
    assert missed(text) == ["groups has a holds", "groups has a does not hold"]
    assert missed(text, facts({"groups": ["a"]})) == ["groups has a does not hold"]
    assert missed(text, facts({"groups": ["a"]}), facts({})) == []


def test_what_is_unknown_does_not_hold():
    assert missed("allow: {or: [groups: a]}", facts({"groups": ["a"]}), facts({"groups": None})) == []


def test_a_group_of_several_has_outcomes_of_its_own():
    text = "allow: {and: [{groups: a}, {http_method: GET}]}"
    assert missed(text, facts({"groups": ["a"]})) == [
        "`and` of 2 does not hold",
        "groups has a does not hold",
        "http_method is GET does not hold",
    ]
    assert missed(text, facts({"groups": ["a"]}), facts({})) == ["http_method is GET does not hold"]


def test_what_could_not_matter_any_more_is_not_seen():
    """After a deny that holds the allow rules decide nothing, so a test of the deny is no test of them."""
    text = "[{deny: {or: [groups: a]}}, {allow: {or: [http_method: GET]}}]"
    assert missed(text, facts({"groups": ["a"]})) == [
        "groups has a does not hold",
        "http_method is GET holds",
        "http_method is GET does not hold",
    ]
    assert "http_path is /x holds" in missed("allow: {and: [{groups: a}, {http_path: /x}]}", facts({}, path="/x"))


def test_constants_have_one_outcome():
    assert missed("allow: {or: [accept: 1]}", facts(None)) == []
    assert missed("allow: {or: [reject: 1]}", facts(None)) == []
    assert measure_coverage(policy_of("allow: {or: [accept: 1]}"), []).percent == 0.0


def test_who_is_not_signed_in_shows_nothing_of_criteria_about_people():
    assert missed("allow: {or: [groups: a]}", facts(None)) == ["groups has a holds", "groups has a does not hold"]
    assert missed("allow: {or: [authenticated_user: 1]}", facts(None)) == ["authenticated_user holds"]
