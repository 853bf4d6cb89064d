"""The editor's schema takes every policy that the parser takes, and tells the mistakes that an editor can see."""

import json
from pathlib import Path

import jsonschema
import pytest
from tests.support.policy_generator import RandomChoices, make_policy
from tests.unit.doorward.policy.test_reference import BLOCKS

from doorward.config.schema import json_schema
from doorward.policy import print_policy
from doorward.source import Mapping, plain, read_yaml

SCHEMA = json_schema()
POLICY = jsonschema.Draft202012Validator({"$ref": "#/$defs/Policy", "$defs": SCHEMA["$defs"]})


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize(("line", "block"), BLOCKS, ids=[f"line-{line}" for line, _ in BLOCKS])
def test_it_takes_every_example_of_the_reference(line: int, block: str) -> None:
    node = read_yaml(block, "reference.md")
    assert isinstance(node, Mapping)
    written = node.get("policy")
    assert written is not None
    POLICY.validate(plain(written))


def test_it_takes_whatever_the_language_can_say() -> None:
    for seed in range(300):
        policy = make_policy(RandomChoices(seed))
        if policy.rules:
            POLICY.validate(json.loads(print_policy(policy)))


@pytest.mark.parametrize(
    "written",
    [
        {"alow": {"or": [{"accept": True}]}},
        {"allow": {"xor": [{"accept": True}]}},
        {"allow": {"or": []}},
        {"allow": {"or": [{"emial": "a@b.c"}]}},
        {"allow": {"or": [{"claim": "x"}]}},
        {"allow": {"or": [{"email": {"starts": "a"}}]}},
        {"allow": {"or": [{"accept": False}]}},
        {"allow": {"or": [{"accept": True, "email": "a@b.c"}]}},
        {"allow": {"or": [{"time_of_day": {"after": "08:00", "zone": "UTC"}}]}},
        {"dialect": "rego", "rules": [{"allow": {"or": [{"accept": True}]}}]},
        [],
        7,
    ],
)
def test_it_refuses_what_an_editor_should_mark(written: object) -> None:
    assert not POLICY.is_valid(written)


def test_the_examples_of_the_deployments_are_valid() -> None:
    root = Path(__file__).parents[4] / "deploy"
    validator = jsonschema.Draft202012Validator(SCHEMA)
    files = sorted(root.rglob("doorward.yaml"))
    assert files
    for path in files:
        node = read_yaml(path.read_text(), path.name)
        assert node is not None
        validator.validate(plain(node))
