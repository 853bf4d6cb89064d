import json

from tests.support.policy import facts, policy_of

from doorward.policy import compile_policy, explain_policy

POLICY = policy_of(
    """
- allow:
    and:
      - domain: example.com
      - or: [{http_method: GET}, {claim/department: ops}]
- deny:
    or: [{groups: suspended}]
"""
)


def test_each_criterion_is_shown_with_its_result_and_what_it_saw():
    asked = facts({"email": "bob@partner.example", "groups": ["b", "a"]}, method="PUT")
    explanation = explain_policy(POLICY, asked)
    assert explanation.decision == compile_policy(POLICY).decide(asked)
    assert explanation.render().splitlines() == [
        "DENY  claim-unknown, domain-unauthorized, http-method-unauthorized",
        "",
        "deny-1 does not hold                              policy.yaml:7:5",
        "  ✗ groups has suspended                          saw a, b",
        "",
        "allow-1 does not hold                             policy.yaml:3:5",
        "  ✗ all of",
        "    ✗ domain is example.com                       saw partner.example",
        "    ? any of",
        "      ✗ http_method is GET                        saw PUT",
        "      ? claim/department has ops                  not known",
        "",
        "to be let in, one of these:",
        "  1. domain is example.com (saw partner.example)",
        "     and http_method is GET (saw PUT)",
        "  2. domain is example.com (saw partner.example)",
        "     and claim/department has ops",
    ]


def test_the_data_is_plain_and_complete():
    asked = facts(None)
    data = json.loads(json.dumps(explain_policy(POLICY, asked).to_dict()))
    assert (data["effect"], data["reasons"], data["rule"]) == ("sign-in", ["user-unauthenticated"], "allow-1")
    deny, allow = data["rules"]
    assert (deny["name"], deny["result"], deny["decides"]) == ("deny-1", "not signed in", False)
    assert (allow["name"], allow["decides"]) == ("allow-1", True)
    assert allow["members"][0] == {
        "criterion": "domain",
        "matchers": {"is": ["example.com"]},
        "position": "policy.yaml:4:9",
        "result": "not signed in",
        "saw": None,
        "error": None,
    }
    assert data["remedies"] == [
        {
            "sign_in": True,
            "changes": [
                {
                    "criterion": "domain",
                    "matchers": {"is": ["example.com"]},
                    "must_hold": True,
                    "saw": None,
                    "position": "policy.yaml:4:9",
                }
            ],
        }
    ]


def test_an_error_is_shown_by_its_kind_and_never_by_its_text():
    """The text of an exception may hold what the criterion looked at."""
    asked = facts({"claims": 7, "email": "a@example.com"}, method="PUT")
    text = explain_policy(POLICY, asked).render()
    assert "? claim/department has ops                  failed (TypeError)" in text


def test_what_decides_is_marked_and_who_is_let_in_is_told_no_remedy():
    allowed = explain_policy(POLICY, facts({"email": "a@example.com"}))
    assert "allow-1 holds  ◄ decides" in allowed.render()
    assert allowed.remedies == ()
    assert "let in" not in allowed.render()


def test_a_long_list_is_named_by_its_first_values():
    policy = policy_of(f"allow: {{or: [groups: {{has: [{', '.join(f'g{n}' for n in range(200))}]}}]}}")
    assert "groups has g0, g1, g2, g3 and 196 more" in explain_policy(policy, facts({})).render()
