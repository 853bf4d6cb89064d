"""Mistakes that other access proxies have made, each as a test of the language."""

import ast
import random
import time
from pathlib import Path

import pytest
from tests.support.policy import facts, policy_of, problems_of

import doorward.policy
from doorward.errors import ConfigurationError
from doorward.policy import Decision, Effect, compile_policy, interpret_policy, parse_policy
from doorward.policy.criteria import CRITERIA
from doorward.policy.criteria.patterns import MAX_PATTERN, glob_matches, glob_test
from doorward.policy.criteria.port import Fact
from doorward.policy.facts import RequestFacts
from doorward.source import Problems, read_yaml


def decide(text: str, principal: dict[str, object] | None = None, **request: object) -> Decision:
    policy, asked = policy_of(text), facts(principal, **request)
    decision = compile_policy(policy).decide(asked)
    assert decision == interpret_policy(policy, asked)
    return decision


ADMIN_HEADER = "[{allow: {or: [{accept: true}]}}, {deny: {or: [{http_header/x-role: admin}]}}]"


@pytest.mark.parametrize("values", [("ok", "admin"), ("admin", "ok"), ("ok,admin",), ("ok, admin",), ("admin",)])
def test_s09_a_repeated_or_joined_header_cannot_slip_past_a_deny(values):
    assert decide(ADMIN_HEADER, headers={"x-role": values}).effect is Effect.DENY
    assert decide("allow: {or: [{http_header/x-role: ok}]}", headers={"x-role": values}).effect is Effect.DENY
    assert decide("allow: {not: [{http_header/x-role: admin}]}", headers={"x-role": values}).effect is Effect.DENY


def test_s09_one_plain_value_is_compared():
    assert decide(ADMIN_HEADER, headers={"x-role": ("ok",)}).effect is Effect.ALLOW
    assert decide("allow: {or: [{http_header/X-Role: ok}]}", headers={"x-role": ("ok", "ok")}).effect is Effect.ALLOW


STOLEN = f"fingerprint: {'a' * 64}"


@pytest.mark.parametrize(
    "text",
    [
        f"[{{allow: {{or: [{{accept: true}}]}}}}, {{deny: {{or: [{{client_certificate: {{{STOLEN}, optional: true}}}}]}}}}]",
        f"[{{allow: {{nor: [{{client_certificate: {{{STOLEN}, optional: true}}}}]}}}}]",
        f"{{dialect: ppl, rules: [{{allow: {{or: [{{accept: true}}]}}}}, {{deny: {{or: [{{client_certificate: {{{STOLEN}}}}}]}}}}]}}",
    ],
)
def test_a_certificate_that_nobody_told_of_is_not_one_that_does_not_match(text):
    """A deny of a stolen one must not be got round through a gateway that is not believed about certificates."""
    assert decide(text, is_certificate_unknown=True).effect is Effect.DENY
    assert decide(text).effect is Effect.ALLOW


@pytest.mark.parametrize("text", ["authentication: {methods: sms}", "authentication: {context_class: weak}"])
def test_a_sign_in_of_which_nobody_says_how_is_not_one_that_was_done_otherwise(text):
    """Many identity providers report no methods at all; a deny of a weak one must not be got round through them."""
    policies = [
        f"[{{allow: {{nor: [{{{text}}}]}}}}]",
        f"[{{allow: {{or: [{{accept: true}}]}}}}, {{deny: {{or: [{{{text}}}]}}}}]",
    ]
    for policy in policies:
        assert decide(policy, {}).effect is Effect.DENY
        assert decide(policy, {"methods": ("hwk",), "context_class": "strong"}).effect is Effect.ALLOW


@pytest.mark.parametrize("value", ["admin\t", " admin", "admin ", "\u00e9", "\u00c3\u00a9", "admin\u00a0", "\x80"])
def test_s10_a_header_that_servers_read_differently_is_unknown(value):
    """It gets past no deny rule, and satisfies no allow rule, whichever way the upstream reads it."""
    assert decide(ADMIN_HEADER, headers={"x-role": (value,)}).effect is Effect.DENY
    for rule in (
        "{http_header/x-role: ok}",
        "{http_header/x-role: {not: admin}}",
        "{http_header/x-role: {contains: a}}",
    ):
        assert decide(f"allow: {{or: [{rule}]}}", headers={"x-role": (value,)}).effect is Effect.DENY
    assert decide("allow: {not: [{http_header/x-role: admin}]}", headers={"x-role": (value,)}).effect is Effect.DENY


@pytest.mark.parametrize("path", ["/private", "/private/status"])
def test_s17_a_pattern_sees_the_path_and_never_the_query(path):
    text = 'allow: {or: [{http_path: {regex: "^/api/.*/status$"}}, {http_path: {glob: /api/*/status}}]}'
    assert decide(text, path=path, query="path=/api/x/status").effect is Effect.DENY
    assert decide(text, path="/api/x/status", query="a=b").effect is Effect.ALLOW
    assert decide(text, path="/api/x/status\n").effect is Effect.DENY


@pytest.mark.parametrize("path", ["/admin#/health", "/admin/health#", "/health#x"])
def test_s18_a_fragment_belongs_to_the_path_for_patterns_too(path):
    assert decide(
        'allow: {or: [{http_path: {regex: "^/health$"}}, {http_path: {glob: /health}}]}', path=path
    ).effect is (Effect.DENY)


LOOKING_AT_TEXTS = [
    criterion
    for criterion in CRITERIA
    if criterion.name not in {"accept", "authenticated_user", "invalid_client_certificate"}
    and "time" not in criterion.reads
]
ODD_VALUES = ["", "\0", "\ud800", "a" * 100_000, "%", "%zz", "\u202e", "[::1]", "1e999", "٣", "//", "?#;&=", "💥"]


@pytest.mark.parametrize("odd", ODD_VALUES, ids=range(len(ODD_VALUES)))
@pytest.mark.parametrize("criterion", LOOKING_AT_TEXTS, ids=lambda criterion: criterion.name)
def test_s19_no_odd_value_lets_anybody_in(criterion, odd):
    """Whatever stands in the facts, access needs a criterion that holds; these examples hold for none of it."""
    who: dict[str, object] = {"user_id": odd, "email": odd, "groups": [odd], "claims": {"department": odd}}
    what: dict[str, object] = {"method": odd, "host": odd, "path": odd, "query": odd, "client_address": odd}
    what["headers"] = dict.fromkeys(("x-team", "origin"), (odd,))
    assert decide(f"allow: {{and: [{{{criterion.example}}}]}}", who, **what).effect is not Effect.ALLOW


@pytest.mark.parametrize("written", ["Admin.Example.COM", "admin.example.com"])
def test_s20_a_host_is_compared_in_lower_case(written):
    text = f"[{{allow: {{or: [{{accept: true}}]}}}}, {{deny: {{or: [{{http_host: {written}}}]}}}}]"
    assert decide(text, host="admin.example.com").effect is Effect.DENY
    assert decide(text, host="wiki.example.com").effect is Effect.ALLOW


@pytest.mark.parametrize(
    "written", ["admin.example.com.", "admin.example.com:443", "a@admin.example.com", "ädmin.example"]
)
def test_s20_a_host_that_can_never_match_is_an_error(written):
    (problem,) = problems_of(f"allow: {{or: [{{http_host: '{written}'}}]}}")
    assert "can never match" in problem.message


def test_s21_a_compiled_glob_matches_what_the_obvious_one_does():
    """Also with a literal star in the path, which an attacker may send."""
    choose = random.Random(21)
    pieces = ["*", "**", "?", "/", "a", "b", ".", "+", "(", "[", "\\", "\n", "é"]
    for _ in range(20_000):
        pattern = "".join(choose.choices(pieces, k=choose.randint(1, 6)))
        value = "".join(
            choose.choices(["/", "a", "b", "*", ".", "+", "(", "[", "\\", "\n", "é"], k=choose.randint(0, 6))
        )
        assert glob_test(pattern)(value) is glob_matches(pattern, value), (pattern, value)


def test_s21_a_star_stays_within_its_segment():
    text = "allow: {or: [{http_path: {glob: /teams/*/news}}]}"
    assert decide(text, path="/teams/*/news").effect is Effect.ALLOW
    assert decide(text, path="/teams/a/b/news").effect is Effect.DENY


def test_s35_there_is_no_body_to_read():
    """A policy on a body would decide by the part of it that fitted a buffer, so there is neither fact nor criterion."""
    assert not [name for name in RequestFacts.__dataclass_fields__ if "body" in name]
    assert not [fact for fact in Fact if "body" in fact]
    for name in ("body", "http_body", "mcp_tool", "graphql"):
        (problem, *_) = problems_of(f"allow: {{or: [{{{name}: x}}]}}")
        assert f"`{name}`" in problem.message
        node = read_yaml(f"allow: {{or: [{{{name}: x}}, {{accept: true}}]}}", "policy.yaml")
        assert node is not None
        assert compile_policy(parse_policy(node, Problems())).decide(facts({})).effect is Effect.DENY


@pytest.mark.parametrize(
    ("term", "same", "other"),
    [
        ("email: Alice@Example.com", {"email": "alice@example.com"}, {"email": "al\u0131ce@example.com"}),
        ("domain: Example.com", {"email": "a@EXAMPLE.com"}, {"email": "a@example.com."}),
        ("groups: admins", {"groups": ["admins"]}, {"groups": ["Admins"]}),
        ("user: u1", {"user_id": "u1"}, {"user_id": "U1"}),
    ],
)
def test_s67_one_form_of_each_identifier_everywhere(term, same, other):
    """Allow, deny, one, many and negated use the same form: nobody is two people, and nobody is somebody else."""
    name, value = term.split(": ")
    comparison = "has" if name == "groups" else "in"
    for written in (term, f"{name}: {{{comparison}: [{value}]}}"):
        assert decide(f"allow: {{or: [{{{written}}}]}}", same).effect is Effect.ALLOW
        assert decide(f"allow: {{or: [{{{written}}}]}}", other).effect is Effect.DENY
        denied = decide(f"[{{allow: {{or: [accept: true]}}}}, {{deny: {{or: [{{{written}}}]}}}}]", same)
        assert denied.effect is Effect.DENY


@pytest.mark.parametrize("address", ["10.0.0.1", "::ffff:10.0.0.1", "::ffff:a00:1", "0:0:0:0:0:ffff:10.0.0.1"])
@pytest.mark.parametrize("network", ["10.0.0.0/8", "'::ffff:10.0.0.0/104'", "10.0.0.1"])
def test_s68_an_ipv4_address_is_one_however_it_is_written(address, network):
    text = f"[{{allow: {{or: [accept: true]}}}}, {{deny: {{or: [{{source_ip: {network}}}]}}}}]"
    assert decide(text, client_address=address).effect is Effect.DENY
    assert decide(text, client_address="192.0.2.1").effect is Effect.ALLOW


@pytest.mark.parametrize("address", [None, "", "10.0.0.1:80", "fe80::1%eth0", "010.0.0.1", "10.0.0.256"])
def test_s68_an_address_that_is_none_is_unknown(address):
    text = "[{allow: {or: [accept: true]}}, {deny: {or: [{source_ip: 10.0.0.0/8}]}}]"
    assert decide(text, client_address=address) == Decision(
        effect=Effect.DENY, reasons=("source-ip-unknown",), rule="deny-1"
    )


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/33", "fe80::1%eth0", "x", "10.0.0.0/8/8"])
def test_s68_a_network_that_is_none_is_an_error(text):
    assert problems_of(f"allow: {{or: [{{source_ip: '{text}'}}]}}")


@pytest.mark.parametrize("text", ["!!python/object/apply:os.system [id]", "!!python/name:os.system x", "!x y"])
def test_s75_a_policy_is_data_and_never_code(text):
    with pytest.raises(ConfigurationError):
        read_yaml(f"allow: {{or: [{{user: {text}}}]}}", "policy.yaml")


def test_s75_the_language_has_no_way_to_run_anything():
    forbidden = {"eval", "exec", "compile", "__import__", "open", "globals", "setattr"}
    for path in Path(doorward.policy.__file__).parent.glob("criteria/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            assert called not in forbidden, path
            modules = [item.name for item in node.names] if isinstance(node, ast.Import) else []
            assert not {"os", "subprocess", "socket", "importlib", "pickle"} & set(modules), path


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*$", "(a|aa)+$", "(.*a){20}$", "^(([a-z])+.)+[A-Z]([a-z])+$"])
def test_s83_no_pattern_takes_more_than_linear_time(pattern):
    """Backtracking engines need years for these; the request is refused while somebody else waits."""
    compiled = compile_policy(policy_of(f"allow: {{or: [{{http_path: {{regex: '{pattern}'}}}}]}}"))
    asked = facts(None, path="a" * 30_000 + "!")
    began = time.perf_counter()
    compiled.decide(asked)
    assert time.perf_counter() - began < 2.0


@pytest.mark.parametrize(
    "pattern", ["(?=a)", r"(a)\\1", "((a{500}){500}){9}", "(", "a" * (MAX_PATTERN + 1), r"\\Qa", "(?P<a>x)(?P=a)"]
)
def test_s83_what_needs_more_than_linear_time_or_much_memory_is_refused(pattern):
    (problem,) = problems_of(f'allow: {{or: [{{http_path: {{regex: "{pattern}"}}}}]}}')
    assert "regular expression" in problem.message or "not understood" in problem.message
