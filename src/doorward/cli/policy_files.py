"""The files that policy commands read: configurations, single policies, people. The engine itself reads none."""

import sys
from pathlib import Path

from doorward.cli.problems import print_problems, print_rendered
from doorward.config.load import load
from doorward.config.named_policies import read_library
from doorward.config.references import no_secret
from doorward.config.settings import RoutePolicy
from doorward.errors import ConfigurationError
from doorward.policy import Library, parse_policy
from doorward.policy.testing import Target, Targets
from doorward.source import Mapping, Node, Position, Problem, Problems, read_yaml

LIMIT_BYTES = 16 * 1024 * 1024
UNUSABLE = 2
"""Exit status of a command whose files cannot be used; 1 is an answer that somebody did not want."""


def read_node(path: Path) -> Node:
    """The document in ``path``.

    Raises:
        ConfigurationError: it cannot be read, is no YAML or holds nothing.
    """
    start = Position(str(path), 1, 1)
    try:
        if path.stat().st_size > LIMIT_BYTES:
            raise ConfigurationError([Problem(start, f"larger than {LIMIT_BYTES} bytes").render()])
        node = read_yaml(path.read_text(), str(path))
    except OSError as error:
        raise ConfigurationError([Problem(start, f"cannot be read: {error.strerror}").render()]) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError([Problem(start, "not UTF-8 text").render()]) from error
    if node is None:
        raise ConfigurationError([Problem(start, "the file is empty").render()])
    return node


def configured_targets(path: Path) -> Targets:
    """The routes of the configuration in ``path``; secrets that it refers to are not read.

    Raises:
        ConfigurationError: it cannot be used.
    """
    loaded = load(path, secrets=no_secret)
    if loaded.settings is None:
        raise ConfigurationError([problem.render() for problem in loaded.problems if problem.severity == "error"])
    return Targets(tuple(target_of(item) for item in loaded.settings.routes))


def read_targets(path: Path) -> Targets:
    """The routes of the configuration in ``path``, or the one policy that is all that it holds.

    Raises:
        ConfigurationError: it is neither.
    """
    node = read_node(path)
    if isinstance(node, Mapping) and node.get("routes") is not None:
        return configured_targets(path)
    return policy_target(node, path.stem)


def target_of(item: RoutePolicy) -> Target:
    """A configured route as what is tested and asked about."""
    route = item.route
    return Target(
        route.name,
        item.policy,
        host=route.host,
        match=route.match,
        path_parameters=route.path_parameters,
        route_id=route.id,
        broken=route.broken,
    )


def policy_target(node: Node, name: str) -> Targets:
    """A policy by itself, for every request.

    Raises:
        ConfigurationError: it does not parse.
    """
    problems = Problems()
    library = Library()
    if isinstance(node, Mapping) and node.get("policy") is not None:
        library = read_library(node, problems)
    policy = parse_policy(_policy_in(node), problems, library)
    problems.raise_errors()
    return Targets((Target(name, policy),))


def _policy_in(node: Node) -> Node:
    """The policy in a document: all of it, or what stands under ``policy``."""
    if isinstance(node, Mapping) and (inner := node.get("policy")) is not None:
        return inner
    return node


def report(error: ConfigurationError) -> int:
    """Print what is wrong with the files; the exit status."""
    print_rendered(error.problems)
    return UNUSABLE


def report_problems(problems: Problems) -> int:
    """Print what is wrong with the files; the exit status."""
    print_problems(problems.all)
    print(f"{len(problems.errors)} error{'' if len(problems.errors) == 1 else 's'}", file=sys.stderr)
    return UNUSABLE
