import json

from tests.support.policy import facts, policy_of

from doorward.policy import compile_policy, explain_policy

POLICY = policy_of(
    """
- deny:
    or: [{groups: suspended}]
- allow:
    and:
      - domain: example.com
      - or: [{http_method: GET}, {claim/department: ops}]
"""
)


def test_each_criterion_is_shown_with_its_result_and_what_it_saw():
    asked = facts({"email": "bob@partner.example", "groups": ["b", "a"]}, method="PUT")
    explanation = explain_policy(POLICY, asked)
    assert explanation.decision == compile_policy(POLICY).decide(asked)
    assert explanation.render().splitlines() == [
        "deny: claim-unknown, domain-unauthorized, http-method-unauthorized",
        "deny-1 at policy.yaml:3:5: no",
        "  or: no",
        '    groups has suspended: no, saw ["a", "b"]',
        "allow-1 at policy.yaml:5:5: no",
        "  and: no",
        '    domain is example.com: no, saw "partner.example"',
        "    or: unknown",
        '      http_method is GET: no, saw "PUT"',
        "      claim/department has ops: unknown, saw null",
    ]


def test_the_data_is_plain_and_complete():
    asked = facts(None)
    data = json.loads(json.dumps(explain_policy(POLICY, asked).to_dict()))
    assert (data["effect"], data["reasons"], data["rule"]) == ("sign-in", ["user-unauthenticated"], "allow-1")
    deny, allow = data["rules"]
    assert (deny["name"], deny["result"]) == ("deny-1", "not signed in")
    assert allow["members"][0] == {
        "criterion": "domain",
        "matchers": {"is": ["example.com"]},
        "result": "not signed in",
        "saw": None,
        "error": None,
    }


def test_an_error_is_shown_by_its_kind_and_never_by_its_text():
    """The text of an exception may hold what the criterion looked at."""
    asked = facts({"claims": 7, "email": "a@example.com"}, method="PUT")
    text = explain_policy(POLICY, asked).render()
    assert "claim/department has ops: unknown, saw error (TypeError)" in text
