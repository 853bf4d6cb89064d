"""The pages on testing are true: files, commands and output are those of a terminal, and recipes hold."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from doorward.cli.app import app
from doorward.cli.policy_files import policy_target
from doorward.policy import check_policy
from doorward.policy.testing import measure_coverage, mutate, read_header, read_suite, run_cases
from doorward.source import Mapping, Problems, read_yaml

ROOT = Path(__file__).parents[4]
TESTING = (ROOT / "docs/policy/testing.md").read_text()
COOKBOOK = (ROOT / "docs/policy/cookbook.md").read_text()
FILES = re.findall(r"^```yaml\n# (\S+)\n(.*?)^```", TESTING, re.MULTILINE | re.DOTALL)
SESSIONS = re.findall(r"^```console\n\$ (.*?)\n(.*?)^```", TESTING, re.MULTILINE | re.DOTALL)
RECIPES = re.findall(r"^## (.*?)\n.*?^```yaml\n(.*?)^```", COOKBOOK, re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, text in FILES:
        # The comment with the name stays, so that lines are counted as on the page.
        (tmp_path / name).write_text(f"# {name}\n{text}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")


@pytest.mark.parametrize(("command", "wanted"), SESSIONS, ids=[command for command, _ in SESSIONS])
def test_every_command_prints_what_the_page_says(command: str, wanted: str):
    program, *arguments = shlex.split(command)
    assert program == "doorward"
    result = CliRunner().invoke(app, arguments)
    assert [line.rstrip() for line in result.output.splitlines()] == wanted.splitlines(), result.output


def test_the_pages_hold_something():
    assert len(FILES) == 3
    assert len(SESSIONS) == 4
    assert len(RECIPES) >= 5
    assert COOKBOOK.count("```yaml") == len(RECIPES)


@pytest.mark.parametrize(("title", "text"), RECIPES, ids=[title for title, _ in RECIPES])
def test_every_recipe_holds_and_nothing_in_it_could_change_unnoticed(title: str, text: str):
    node = read_yaml(text, "cookbook.md")
    assert isinstance(node, Mapping)
    problems = Problems()
    header = read_header(node, problems)
    assert header is not None
    assert header.inline is not None
    targets = policy_target(header.inline, title)
    (target,) = targets.all
    check_policy(target.policy, problems)
    cases = read_suite(node, targets, None, problems).cases
    assert [problem.render() for problem in problems.all] == []
    assert [outcome.failures for outcome in run_cases(cases) if not outcome.passed] == []
    coverage = measure_coverage(target.policy, [case.facts for case in cases])
    assert [(str(branch.expression.position), branch.outcome) for branch in coverage.missed] == []
    assert [(str(mutant.position), mutant.change) for mutant in mutate(target.policy, cases).survivors] == []
