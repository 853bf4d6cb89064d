"""What must hold for every text and every value; run by atheris, and by Hypothesis in the tests.

A text is refused with positions, or it is a policy that every consumer takes: checked, printed, parsed again, compiled,
interpreted, explained and asked about, all to one result.
"""

import json

from doorward.errors import ConfigurationError
from doorward.policy import (
    Effect,
    Facts,
    Policy,
    PrincipalFacts,
    RequestFacts,
    check_policy,
    compile_policy,
    explain_policy,
    interpret_policy,
    parse_policy,
    print_policy,
)
from doorward.policy.access import PERSON, Reach, judge_access
from doorward.policy.criteria import CRITERIA
from doorward.policy.testing import Target, Targets, mutate, read_header, read_suite, run_cases
from doorward.source import Mapping, Problems, read_yaml

NOW = 1_893_499_200.0
REQUEST = RequestFacts(method="GET", host="app.example.com", path="/a/b", query="x=1", client_address="10.0.0.1")
PEOPLE = (
    None,
    PrincipalFacts(user_id="u1", email="a@example.com", groups=frozenset({"a", "admins"}), claims={"c": ["x", 1]}),
    PrincipalFacts(user_id="", email=None, groups=None),
)


def policy_of_bytes(data: bytes) -> None:
    """Any bytes as the text of a policy."""
    try:
        node = read_yaml(data.decode("utf-8", "surrogateescape"), "fuzz.yaml")
    except ConfigurationError:
        return
    if node is None:
        return
    problems = Problems()
    policy = parse_policy(node, problems)
    for problem in problems.all:
        assert problem.position.line >= 1
        assert problem.render()
    if not problems.has_errors:
        _consumers_agree(policy)


def _consumers_agree(policy: Policy) -> None:
    check_policy(policy, Problems())
    printed = print_policy(policy)
    again, problems = _parsed(printed)
    assert not problems.has_errors, printed
    assert print_policy(again) == printed
    compiled = compile_policy(policy)
    for principal in PEOPLE:
        facts = Facts(principal=principal, request=REQUEST, now=NOW)
        decision = compiled.decide(facts)
        explanation = explain_policy(policy, facts)
        assert decision == interpret_policy(policy, facts) == explanation.decision
        assert explanation.render()
        json.dumps(explanation.to_dict(), default=str)
        reach = judge_access(policy, facts, PERSON).reach
        assert reach is not Reach.YES or decision.effect is Effect.ALLOW
        assert reach is not Reach.NO or decision.effect is not Effect.ALLOW


def suite_of_bytes(data: bytes) -> None:
    """Any bytes as a test file."""
    try:
        node = read_yaml(data.decode("utf-8", "surrogateescape"), "fuzz.test.yaml")
    except ConfigurationError:
        return
    if node is None:
        return
    problems = Problems()
    read_header(node, problems)
    if not isinstance(node, Mapping):
        return
    targets = Targets((Target("app", EVERYTHING),))
    cases = read_suite(node, targets, None, problems).cases
    if not problems.has_errors:
        run_cases(cases)
        mutate(EVERYTHING, cases[:3], limit=20)


def values_of_bytes(data: bytes) -> None:
    """Any bytes as the values of the facts, of right and of wrong types."""
    pieces = data.split(b"\x00")
    texts = [piece.decode("utf-8", "surrogateescape") for piece in pieces] + [""] * 8
    odd: object
    try:
        odd = json.loads(texts[6])
    except (ValueError, RecursionError):
        odd = texts[6]
    principal = PrincipalFacts(
        user_id=texts[0],
        email=texts[1] or None,
        groups=frozenset(texts[2].split(",")) if texts[2] else None,
        claims=odd if isinstance(odd, dict) else {"c": odd},
    )
    request = RequestFacts(
        method=texts[3],
        host="app.example.com",
        path=texts[4],
        query=texts[5],
        headers={"x-team": tuple(texts[5:7])},
        client_address=texts[7] or None,
    )
    for facts in (
        Facts(principal=principal, request=request, now=NOW),
        Facts(principal=None, request=request, now=float(len(data))),
        Facts(principal=odd, request=request, now=NOW),  # type: ignore[arg-type]  # a bug elsewhere must deny
    ):
        decision = compile_policy(EVERYTHING).decide(facts)
        assert decision == interpret_policy(EVERYTHING, facts)
        assert decision.effect in set(Effect)


def _parsed(text: str) -> tuple[Policy, Problems]:
    node = read_yaml(text, "printed.yaml")
    assert node is not None
    problems = Problems()
    return parse_policy(node, problems), problems


def _everything() -> Policy:
    """A policy that uses every criterion there is."""
    examples = [criterion.example for criterion in CRITERIA if criterion.name not in {"accept", "reject"}]
    rules = [
        f"- allow: {{and: [{{{example}}}]}}\n- deny: {{and: [{{{example}}}, {{reject: true}}]}}" for example in examples
    ]
    policy, problems = _parsed("\n".join(rules))
    problems.raise_errors()
    return policy


EVERYTHING = _everything()
TOKENS = (
    *(criterion.example for criterion in CRITERIA),
    *(criterion.name for criterion in CRITERIA),
    *("allow", "deny", "and", "or", "not", "nor", "is", "in", "has", "exclude", "starts_with", "ends_with", "contains"),
    *(
        "{",
        "}",
        "[",
        "]",
        ":",
        ": ",
        ",",
        "- ",
        "\n",
        "\n  ",
        "&a ",
        "*a",
        "!!str ",
        "'",
        '"',
        "true",
        "null",
        "0x1F",
        "1e9",
    ),
    *("name", "tests", "people", "effect", "principal", "request", "time", "version: 1", "route", "reasons", "rule"),
)
"""What policies and test files are made of, so that a fuzzer gets beyond the first line."""
