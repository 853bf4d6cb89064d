"""``dialect: ppl``: documents as PPL's users have them, and what they mean there."""

import pytest
from tests.support.policy import facts, read_policy

from doorward.policy import (
    Dialect,
    Effect,
    Library,
    Policy,
    compile_policy,
    interpret_policy,
    parse_policy,
    read_sets,
)
from doorward.source import Problems, read_yaml


def ppl(rules: str) -> Policy:
    policy, problems = read_policy(f"{{dialect: ppl, rules: {rules}}}")
    assert not problems.has_errors, problems.all
    assert policy.dialect is Dialect.PPL
    return policy


def effect(rules: str, principal: dict[str, object] | None = None, **request: object) -> Effect:
    policy, asked = ppl(rules), facts(principal, **request)
    decision = compile_policy(policy).decide(asked)
    assert decision == interpret_policy(policy, asked)
    return decision.effect


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("[{allow: {or: [{accept: true}]}}]", Effect.ALLOW),
        ("[{allow: {or: [{authenticated_user: true}]}}]", Effect.SIGN_IN),
        # A rule about people among the denying ones asks even visitors of a public route to sign in.
        ("[{allow: {or: [{accept: true}]}}, {deny: {or: [{email: a@b.example}]}}]", Effect.SIGN_IN),
        # The reason of a criterion that does not hold is kept though another one is false as well.
        ("[{allow: {and: [{email: a@b.example}, {http_method: PUT}]}}]", Effect.SIGN_IN),
        # `not` turns the value and keeps the reason, so strangers sign in instead of walking in.
        ("[{allow: {not: [{email: a@b.example}]}}]", Effect.SIGN_IN),
        ("[{allow: {nor: [{email: a@b.example}, {http_method: PUT}]}}]", Effect.SIGN_IN),
        # What holds drops the reasons of what does not.
        ("[{allow: {or: [{email: a@b.example}, {http_method: GET}]}}]", Effect.ALLOW),
        ("[{allow: {or: [{http_method: PUT}]}}]", Effect.DENY),
        ("[{deny: {or: [{email: a@b.example}, {http_method: GET}]}}, {allow: {or: [{accept: true}]}}]", Effect.DENY),
        ("[{deny: {or: [{http_method: GET}]}}, {allow: {or: [{email: a@b.example}]}}]", Effect.SIGN_IN),
    ],
)
def test_somebody_who_is_not_signed_in_is_decided_as_ppl_does(rules, expected):
    assert effect(rules) is expected


def test_an_absent_claim_is_false_there_and_unknown_here():
    rule = "{claim/department: sales}"
    assert effect(f"[{{allow: {{not: [{rule}]}}}}]", {}) is Effect.ALLOW
    policy, problems = read_policy(f"allow: {{not: [{rule}]}}")
    assert not problems.all
    assert compile_policy(policy).decide(facts({})).effect is Effect.DENY


def test_s63_groups_that_are_not_known_deny_there_too():
    assert effect("[{allow: {or: [{accept: true}]}}, {deny: {or: [{groups: x}]}}]", {"groups": None}) is Effect.DENY
    assert effect("[{allow: {not: [{groups: x}]}}]", {"groups": None}) is Effect.DENY


def test_groups_are_ids_and_people_are_subjects():
    named = {"groups": ["g-1", "admins"], "group_ids": frozenset({"g-1"}), "group_names": frozenset({"admins"})}
    assert effect("[{allow: {or: [{groups: g-1}]}}]", named) is Effect.ALLOW
    assert effect("[{allow: {or: [{groups: admins}]}}]", named) is Effect.DENY
    assert effect("[{allow: {or: [{user: '1001'}]}}]", {"subject": "1001"}) is Effect.ALLOW
    assert effect("[{allow: {or: [{user: u1}]}}]", {"subject": "1001"}) is Effect.DENY


@pytest.mark.parametrize(
    "text",
    [
        '{"dialect": "ppl", "allow": {"and": [{"domain": {"is": "example.com"}}]}, "deny": {"or": [{"email": {"is": "x@y.z"}}]}}',
        "{dialect: ppl, allow: {and: [{claim/family_name: Smith}], or: [{domain: {is: a.example}}]}}",
        "{dialect: ppl, rules: {allow: {and: [{day_of_week: tue-fri}]}}}",
        "{dialect: ppl, rules: [{allow: {and: [{date: {after: '2020-01-02T16:20:00', before: '2150-01-02T16:20:00'}}]}}]}",
        "{dialect: ppl, rules: [{allow: {and: [{time_of_day: {timezone: UTC, after: '2:20:00', before: 4:30PM}}]}}]}",
        "{dialect: ppl, rules: [{allow: {or: [{device: {type: any}}, {device: {is: 5Vn3C1RS}}]}}]}",
        "{dialect: ppl, rules: [{allow: {and: [{record: {type: pomerium.io/ExternalDataSource, exists: true}}]}}]}",
        "{dialect: ppl, rules: [{allow: {and: [{record: {type: a/b, field: trust_score, '>=': 5}}]}}]}",
        "{dialect: ppl, rules: [{allow: {and: [{source_ip: [10.1.2.3/8, 192.0.2.1]}]}}]}",
        "{dialect: ppl, rules: [{allow: {and: [{groups: {has: 00gv40ki4gmtCyl5d4x6}}, {claim/level: 3}]}}]}",
        "{dialect: ppl, rules: [{allow: {or: [{cors_preflight: true}, {http_path: {starts_with: /a}}]}}]}",
        "{dialect: ppl, rules: [{deny: {or: [{invalid_client_certificate: true}]}}]}",
        "{dialect: ppl, rules: [{allow: {and: [{client_certificate: {san_email: {ends_with: '@a.example'}}}]}}]}",
    ],
)
def test_documents_of_ppl_are_taken_as_they_are(text):
    policy, problems = read_policy(text)
    assert problems.all == ()
    assert policy.rules


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{dialect: ppl, allow: {and: [{or: [{accept: true}]}]}}", "PPL does not nest operators"),
        ("{dialect: ppl, allow: {all: [{accept: true}]}}", "unknown operator `all`"),
        ("{dialect: ppl, allow: {or: [{grant: x}]}}", "not one of PPL's criteria"),
        ("{dialect: ppl, allow: {or: [{mcp_tool: x}]}}", "never read"),
        ("{dialect: ppl, allow: {or: [{ssh_username: x}]}}", "about SSH"),
        ("{dialect: ppl, version: 1, allow: {or: [{accept: true}]}}", "exclude each other"),
        ("{dialect: rego, allow: {or: [{accept: true}]}}", "unknown dialect"),
        ("{version: 2, allow: {or: [{accept: true}]}}", "unknown version"),
    ],
)
def test_what_is_not_ppl_is_named(text, message):
    policy, problems = read_policy(text)
    assert message in problems.errors[0].message
    assert policy.rules == ()


def test_a_span_over_midnight_never_holds_there_and_is_said_so():
    text = "{dialect: ppl, rules: [{allow: {and: [{time_of_day: {timezone: UTC, after: '22:00', before: '6:00'}}]}}]}"
    policy, problems = read_policy(text)
    assert "never lets hold" in problems.all[0].message
    assert compile_policy(policy).decide(facts({}, now=1_893_456_000.0 - 60)).effect is Effect.DENY


def test_a_set_is_read_as_each_dialect_reads_it():
    """PPL takes a network by any address in it; what it has read is no licence for version 1."""
    written = read_yaml("office: [10.1.2.3/8]", "sets.yaml")
    assert written is not None
    sets = read_sets(written, Problems())
    for text, has_errors in (("{dialect: ppl, rules: RULES}", False), ("RULES", True)):
        written = read_yaml(text.replace("RULES", "[{allow: {or: [{source_ip: {set: office}}]}}]"), "policy.yaml")
        assert written is not None
        found = Problems()
        parse_policy(written, found, Library(sets=sets))
        assert found.has_errors is has_errors
