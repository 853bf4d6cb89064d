from tests.support.policy import policy_of

from doorward.policy.merging import merge
from doorward.policy.printer import print_policy


def merged(text: str) -> str:
    return print_policy(merge(policy_of(text)))


def test_neighbours_under_or_and_not_become_one():
    for operator in ("or", "not"):
        text = f"allow: {{{operator}: [{{user: a}}, {{user: {{in: [b, a]}}}}, {{groups: x}}, {{groups: y}}]}}"
        expected = f"allow: {{{operator}: [{{user: {{in: [a, b]}}}}, {{groups: {{has: [x, y]}}}}]}}"
        assert merged(text) == print_policy(policy_of(expected))


def test_nothing_else_does():
    for text in (
        "allow: {and: [{user: a}, {user: b}]}",
        "allow: {nor: [{user: a}, {user: b}]}",
        "allow: {or: [{user: a}, {accept: true}, {user: b}]}",
        "allow: {or: [{user: a}, {user: {not: b}}]}",
        "allow: {or: [{user: a}, {user: {is: b, not: c}}]}",
        "allow: {or: [{groups: {is: a}}, {groups: {is: b}}]}",
        "allow: {or: [{groups: {exclude: a}}, {groups: {exclude: b}}]}",
        "allow: {or: [{claim/x: a}, {claim/y: a}]}",
        "allow: {or: [{accept: true}, {accept: true}]}",
    ):
        assert merged(text) == print_policy(policy_of(text))
