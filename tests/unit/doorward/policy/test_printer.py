import json

import pytest
from tests.support.policy import policy_of

from doorward.policy import print_policy
from doorward.policy.nodes import terms


def test_the_canonical_text_is_json_without_positions():
    policy = policy_of("allow:\n  or:\n    - accept: 1\n    - email: A@b.c\n    - {groups: {has: [x, y], exclude: z}}")
    assert json.loads(print_policy(policy)) == [
        {
            "allow": {
                "or": [
                    {"accept": True},
                    {"email": {"is": "a@b.c"}},
                    {"groups": {"has": ["x", "y"], "exclude": "z"}},
                ]
            }
        }
    ]


@pytest.mark.parametrize("value", ["é", "😀", "\x85", "\u2028", "\x7f", "\ufeff", 'a"b', "a\\b", "a\nb", "\t", "true"])
def test_every_character_survives_printing_and_parsing(value):
    policy = policy_of("allow: {or: [{user: " + _yaml(value) + "}]}")
    assert [term.matchers[0].operand for term in terms(policy.rules[0].group)] == [(value,)]
    again = policy_of(print_policy(policy))
    assert print_policy(again) == print_policy(policy)
    assert [term.matchers[0].operand for term in terms(again.rules[0].group)] == [(value,)]


def _yaml(value: str) -> str:
    return '"' + "".join(f"\\U{ord(character):08x}" for character in value) + '"'
