from tests.support.policy_suite import cases_of, target

from doorward.policy.testing import mutate

PEOPLE = "people: {a: {groups: [a]}, ab: {groups: [a, b]}, b: {groups: [b]}}\n"


def survivors(policy, tests):
    cases = cases_of(PEOPLE + f"tests: [{tests}]", target("x", policy))
    mutation = mutate(cases[0].target.policy, cases)
    assert mutation.tried == mutation.killed + len(mutation.survivors)
    return [mutant.change for mutant in mutation.survivors]


def test_tests_of_both_outcomes_notice_every_change():
    assert survivors("allow: {or: [groups: a]}", "{name: n, effect: {a: allow, b: deny}}") == []


def test_a_criterion_that_no_test_needs_is_named():
    policy = "allow: {and: [{groups: a}, {groups: b}]}"
    assert survivors(policy, "{name: n, effect: {ab: allow, b: deny}}") == ["groups has b always holds"]
    assert survivors(policy, "{name: n, effect: {ab: allow}}") == [
        "`or` instead of `and`",
        "groups has a always holds",
        "groups has b always holds",
    ]


def test_a_deny_that_no_test_runs_into_is_named():
    policy = "[{deny: {or: [groups: b]}}, {allow: {or: [groups: a]}}]"
    assert "groups has b never holds" in survivors(policy, "{name: n, effect: {a: allow}}")
    assert survivors(policy, "{name: n, effect: {a: allow, ab: deny, b: deny}}") == ["groups has a always holds"]
    assert survivors(policy, "{name: n, effect: {a: allow, ab: deny, nobody: sign-in}}") == []


def test_a_matcher_beside_others_may_not_be_left_out():
    policy = "allow: {or: [http_path: {starts_with: /a, ends_with: .txt}]}"
    tests = "{name: n, request: {path: /a.txt}, effect: allow}, {name: m, request: {path: /b}, effect: deny}"
    assert survivors(policy, tests) == [
        "http_path without `starts_with /a`",
        "http_path without `ends_with .txt`",
    ]


def test_constants_are_changed_one_way():
    assert survivors("allow: {or: [accept: 1]}", "{name: n, effect: allow}") == []


def test_reasons_that_are_wanted_notice_more():
    policy = "allow: {or: [{groups: a}, {http_method: GET}]}"
    assert "groups has a never holds" in survivors(policy, "{name: n, principal: a, effect: allow}")
    wanted = "{name: n, principal: a, effect: allow, reasons: [groups-ok]}"
    assert "groups has a never holds" not in survivors(policy, wanted)


def test_too_many_mutants_are_sampled_and_said_so():
    groups = ", ".join(f"{{groups: g{n}}}" for n in range(40))
    cases = cases_of("tests: [{name: n, effect: sign-in}]", target("x", f"allow: {{or: [{groups}]}}"))
    mutation = mutate(cases[0].target.policy, cases, limit=20)
    assert (mutation.tried, mutation.untried) == (17, 64)
