"""Policy tests from text, against one policy or several routes."""

from tests.support.policy import policy_of

from doorward.policy.testing import Case, Header, Suite, Target, Targets, read_header, read_suite
from doorward.route.route import Match, MatchKind
from doorward.source import Mapping, Problems, read_yaml


def target(name: str, policy: str, host: str = "app.example.com", prefix: str | None = None) -> Target:
    """A route with a policy; without ``prefix`` it takes every path."""
    match = None if prefix is None else Match(kind=MatchKind.PREFIX, value=prefix)
    return Target(name, policy_of(policy), host=host, match=match)


def read_tests(text: str, *targets: Target) -> tuple[Suite, Header | None, Problems]:
    """The suite in ``text`` with everything that is wrong with it."""
    node = read_yaml(text, "policy.test.yaml")
    assert isinstance(node, Mapping)
    problems = Problems()
    header = read_header(node, problems)
    return read_suite(node, Targets(targets), None, problems), header, problems


def cases_of(text: str, *targets: Target) -> tuple[Case, ...]:
    """The cases under ``tests`` and ``people`` in ``text``, which must be free of problems."""
    suite, _, problems = read_tests("version: 1\npolicy: policy.yaml\n" + text, *targets)
    assert [problem.render() for problem in problems.all] == []
    return suite.cases
