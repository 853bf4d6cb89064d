"""The reference is true: it is the code's own, covers every criterion, and its examples come out as they say."""

import re
from pathlib import Path

import pytest
from tests.support.policy import NOW, policy_of

from doorward.policy import Facts, Library, Policy, compile_policy, interpret_policy, parse_policy, read_sets
from doorward.policy.criteria import BY_NAME, CRITERIA
from doorward.policy.interpreter import combine
from doorward.policy.nodes import Comparison, Operator, terms
from doorward.policy.reference import documented_comparisons, reference
from doorward.policy.truth import Truth
from doorward.policy.written_facts import read_principal, read_request, read_time_node
from doorward.source import Mapping, Node, Problems, Sequence, plain, read_yaml

REFERENCE = Path(__file__).parents[4] / "docs/policy/reference.md"
TEXT = REFERENCE.read_text()
SECTIONS = re.findall(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL)
BLOCKS = [
    (TEXT[: match.start()].count("\n") + 1, match[1])
    for match in re.finditer(r"^```yaml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
]
TRUTHS = {"true": Truth.TRUE, "false": Truth.FALSE, "unknown": Truth.UNKNOWN, "not signed in": Truth.ANONYMOUS}
REQUEST = {"method": "GET", "host": "app.example.com", "path": "/"}


def example(text: str) -> tuple[Policy, list[Mapping]]:
    """The policy of an example and its cases; names are those that the example itself defines."""
    node = read_yaml(text, "reference.md")
    assert isinstance(node, Mapping)
    problems = Problems()
    sets, named = node.get("sets"), node.get("policies")
    found = read_sets(sets, problems) if sets is not None else {}
    policies: dict[str, Policy | None] = {}
    for key, value in named.entries if isinstance(named, Mapping) else ():
        policies[str(key.value)] = parse_policy(value, problems, Library(sets=found))
    written, cases = node.get("policy"), node.get("cases")
    assert written is not None
    policy = parse_policy(written, problems, Library(policies=policies, sets=found))
    assert problems.all == ()
    assert isinstance(cases, Sequence)
    assert cases.items
    return policy, [case for case in cases.items if isinstance(case, Mapping)]


def asked(case: Mapping) -> Facts:
    """The facts of a case."""
    problems = Problems()
    time = case.get("time")
    now = NOW if time is None else read_time_node(time, problems)
    assert now is not None
    who, what = case.get("principal"), case.get("request")
    principal = read_principal(who, now, problems, name="u1") if isinstance(who, Mapping) else None
    request = read_request(what if isinstance(what, Mapping) else Mapping((), case.position), REQUEST, problems)
    assert problems.all == ()
    assert request is not None
    return Facts(principal=principal, request=request, now=now)


def said(node: Node | None) -> object:
    assert node is not None
    return plain(node)


def test_the_page_is_what_the_criteria_say():
    assert reference() == TEXT, "python -m doorward.policy.reference > docs/policy/reference.md"


def test_every_criterion_has_a_section_in_the_order_of_the_code():
    assert [name for name, _ in SECTIONS] == [criterion.name for criterion in CRITERIA]


@pytest.mark.parametrize(("name", "section"), SECTIONS, ids=[name for name, _ in SECTIONS])
def test_the_example_of_a_section_uses_its_criterion(name: str, section: str):
    blocks = re.findall(r"^```yaml\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    policy, _ = example(blocks[0])
    assert name in {term.criterion for rule in policy.rules for term in terms(rule.group)}


@pytest.mark.parametrize(("line", "block"), BLOCKS, ids=[f"line-{line}" for line, _ in BLOCKS])
def test_every_example_comes_out_as_it_says(line: int, block: str):
    policy, cases = example(block)
    compiled = compile_policy(policy)
    for case in cases:
        facts = asked(case)
        decision = compiled.decide(facts)
        assert decision == interpret_policy(policy, facts)
        assert decision.effect == said(case.get("effect")), case
        assert list(decision.reasons) == said(case.get("reasons")), case
        if case.get("rule") is not None:
            assert decision.rule == said(case.get("rule")), case
        assert {key.value for key, _ in case.entries} <= {"principal", "request", "time", "effect", "reasons", "rule"}


def test_the_truth_table_is_the_code():
    words = "|".join(TRUTHS)
    rows = re.findall(r"^\|" + rf" ({words}) \|" * 6 + "$", TEXT, re.MULTILINE)
    assert len(rows) == 10
    for row in rows:
        first, second, *outcomes = (TRUTHS[word] for word in row)
        for pair in ([first, second], [second, first]):
            assert [combine(operator, pair) for operator in Operator] == outcomes


def test_every_operator_and_matcher_is_listed():
    assert {word for word in Operator if f"| `{word}` |" in TEXT} == set(Operator)
    assert documented_comparisons() == set(Comparison)


@pytest.mark.parametrize("criterion", CRITERIA, ids=lambda criterion: criterion.name)
def test_the_one_line_example_of_a_criterion_parses(criterion):
    policy = policy_of(f"allow: {{or: [{{{criterion.example}}}]}}")
    (term,) = terms(policy.rules[0].group)
    assert BY_NAME[term.criterion] is criterion
    assert criterion.summary.endswith(".")
