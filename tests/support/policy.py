"""Policies from text, and facts with the parts that a test does not care about filled in."""

from collections.abc import Mapping

from doorward.policy import Facts, Policy, PrincipalFacts, RequestFacts, parse_policy
from doorward.source import Problem, Problems, read_yaml

NOW = 1_900_000_000.0
"""2030-03-17T17:46:40Z, a Sunday."""


def read_policy(text: str) -> tuple[Policy, Problems]:
    """The policy in ``text`` with everything that is wrong with it."""
    node = read_yaml(text, "policy.yaml")
    assert node is not None
    problems = Problems()
    return parse_policy(node, problems), problems


def policy_of(text: str) -> Policy:
    """The policy in ``text``, which must be free of problems."""
    policy, problems = read_policy(text)
    assert problems.all == ()
    return policy


def problems_of(text: str) -> tuple[Problem, ...]:
    """What the parser says of ``text``."""
    return read_policy(text)[1].all


def facts(principal: Mapping[str, object] | None = None, *, now: float = NOW, **request: object) -> Facts:
    """Somebody (``None``: nobody signed in) with the given facts, asking for ``GET /`` unless told otherwise."""
    who = None
    if principal is not None:
        values: dict[str, object] = {"user_id": "u1", "groups": frozenset(), **principal}
        if isinstance(values["groups"], list):
            values["groups"] = frozenset(values["groups"])
        who = PrincipalFacts(**values)  # type: ignore[arg-type]  # tests give what the fields take
    what = RequestFacts(**{"method": "GET", "host": "app.example.com", "path": "/", **request})  # type: ignore[arg-type]  # tests give what the fields take
    return Facts(principal=who, request=what, now=now)
