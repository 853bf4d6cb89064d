"""The reference is true: it covers every criterion, its tables are the code's, its examples come out as they say."""

import re
from pathlib import Path

import pytest
from tests.support.policy import facts, policy_of

from doorward.policy import compile_policy, interpret_policy, parse_policy
from doorward.policy.criteria import BY_NAME, CRITERIA
from doorward.policy.criteria.matching import STRING_COMPARISONS, STRINGS_COMPARISONS
from doorward.policy.interpreter import combine
from doorward.policy.nodes import Operator, Policy, terms
from doorward.policy.truth import Truth
from doorward.source import Mapping, Node, Problems, Scalar, Sequence, read_yaml

REFERENCE = Path(__file__).parents[4] / "docs/policy/reference.md"
TEXT = REFERENCE.read_text()
SECTIONS = re.findall(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL)
BLOCKS = [
    (TEXT[: match.start()].count("\n") + 1, match[1])
    for match in re.finditer(r"^```yaml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
]
TRUTHS = {"true": Truth.TRUE, "false": Truth.FALSE, "unknown": Truth.UNKNOWN, "not signed in": Truth.ANONYMOUS}


def plain(node: Node | None) -> object:
    match node:
        case Mapping():
            return {str(key.value): plain(value) for key, value in node.entries}
        case Sequence():
            return [plain(item) for item in node.items]
        case Scalar():
            return node.value
        case None:
            raise AssertionError("the example lacks a part")


def example(text: str) -> tuple[Policy, list[dict[str, object]]]:
    node = read_yaml(text, "reference.md")
    assert isinstance(node, Mapping)
    written, cases = node.get("policy"), plain(node.get("cases"))
    assert written is not None
    problems = Problems()
    policy = parse_policy(written, problems)
    assert problems.all == ()
    assert isinstance(cases, list)
    assert cases
    return policy, cases


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
        principal, request = case.get("principal"), case.get("request", {})
        assert isinstance(principal, dict | None)
        assert isinstance(request, dict)
        asked = facts(principal, **request)
        decision = compiled.decide(asked)
        assert decision == interpret_policy(policy, asked)
        assert decision.effect == case["effect"], case
        assert list(decision.reasons) == case["reasons"], case
        if "rule" in case:
            assert decision.rule == case["rule"], case
        assert set(case) <= {"principal", "request", "effect", "reasons", "rule"}


def test_the_truth_table_is_the_code():
    words = "|".join(TRUTHS)
    rows = re.findall(r"^\|" + rf" ({words}) \|" * 6 + "$", TEXT, re.MULTILINE)
    assert len(rows) == 10
    for row in rows:
        first, second, *outcomes = (TRUTHS[word] for word in row)
        for pair in ([first, second], [second, first]):
            assert [combine(operator, pair) for operator in Operator] == outcomes


def test_every_operator_and_matcher_is_listed():
    listed = set(re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE))
    known = {str(word) for word in (*Operator, *STRING_COMPARISONS, *STRINGS_COMPARISONS)}
    assert listed == known


@pytest.mark.parametrize("criterion", CRITERIA, ids=lambda criterion: criterion.name)
def test_the_one_line_example_of_a_criterion_parses(criterion):
    policy = policy_of(f"allow: {{or: [{{{criterion.example}}}]}}")
    (term,) = terms(policy.rules[0].group)
    assert BY_NAME[term.criterion] is criterion
    assert criterion.summary.endswith(".")
