import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from typer.testing import CliRunner, Result

from doorward.cli.app import app

CONFIGURATION = """\
version: 1
authenticate_url: https://sign-in.example.com
identity_providers:
  - {id: corp, issuer: https://login.example.com, client_id: d, client_secret: env:DOORWARD_TEST_UNSET}
routes:
  - name: wiki
    from: https://wiki.example.com
    to: http://10.0.0.7:8080
    policy:
      - allow: {and: [{domain: example.com}, {groups: staff}]}
  - name: status
    from: https://status.example.com
    to: http://10.0.0.7:8080
    policy:
      - allow: {or: [accept: true]}
"""
TESTS = """\
version: 1
configuration: doorward.yaml
people:
  alice: {email: alice@example.com, groups: [staff]}
  eve: {email: eve@elsewhere.example, groups: [staff]}
  bob: {email: bob@example.com, groups: []}
tests:
  - name: the wiki is for staff
    route: wiki
    effect: {alice: allow, bob: deny, nobody: sign-in}
"""
WHOLE = (
    TESTS.replace("bob: deny", "bob: deny, eve: deny") + "  - {name: status is open, route: status, effect: allow}\n"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    (tmp_path / "doorward.yaml").write_text(CONFIGURATION)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["policy", "test", *arguments])


def test_files_beside_the_policies_are_found_and_run(folder: Path):
    (folder / "doorward.test.yaml").write_text(WHOLE)
    result = run("--min-coverage", "100", "--min-mutants", "100")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "✓ doorward.test.yaml  5 passed"
    assert lines[-1] == "5 passed; branches 100%; mutants 100%"


def test_what_is_not_tested_is_named_with_its_place(folder: Path):
    (folder / "doorward.test.yaml").write_text(TESTS)
    result = run()
    assert result.exit_code == 0
    assert "not seen  doorward.yaml:10:24  domain is example.com does not hold" in result.output
    assert "not noticed  doorward.yaml:10:24  domain is example.com always holds" in result.output
    assert "routes without a test: status" in result.output
    assert run("--min-coverage", "100").exit_code == 1
    assert "(at least 90% wanted)" in run("--min-mutants", "90").output
    assert run("--min-mutants", "90").exit_code == 1
    assert "mutants 0" not in run("--no-mutation").output


def test_a_failure_is_explained(folder: Path):
    (folder / "doorward.test.yaml").write_text(TESTS.replace("bob: deny", "bob: allow"))
    result = run()
    assert result.exit_code == 1
    assert "✗ doorward.test.yaml  2 passed, 1 failed" in result.output
    assert "✗ the wiki is for staff: bob  doorward.test.yaml:10:28" in result.output
    assert "wanted allow, got deny" in result.output
    assert "wiki: bob, GET https://wiki.example.com/, 2030-01-01 12:00:00 UTC" in result.output
    assert "✗ groups has staff                            saw none" in result.output
    assert "-  groups has staff (saw none)" in result.output


def test_json_holds_everything(folder: Path):
    (folder / "doorward.test.yaml").write_text(TESTS.replace("bob: deny", "bob: allow"))
    result = run("--json")
    assert result.exit_code == 1
    data = json.loads(result.output)
    assert (data["passed"], data["failed"]) == (2, 1)
    (file,) = data["files"]
    failed = next(test for test in file["tests"] if not test["passed"])
    assert failed["failures"] == ["wanted allow, got deny"]
    assert failed["explanation"]["effect"] == "deny"
    assert data["policies"][0]["mutants"] is None
    assert data["untested_routes"] == ["status"]
    (folder / "doorward.test.yaml").write_text(TESTS)
    data = json.loads(run("--json").output)
    assert data["mutants"]["killed"] < data["mutants"]["tried"]
    assert data["policies"][0]["mutants"]["survivors"][0]["position"] == "doorward.yaml:10:24"


def test_junit_is_what_build_systems_read(folder: Path):
    (folder / "doorward.test.yaml").write_text(
        TESTS.replace("bob: deny", "bob: allow").replace("staff\n", "staff \\a\n")
    )
    run("--junit", "report.xml")
    root = ET.fromstring((folder / "report.xml").read_text())  # noqa: S314  # our own
    assert (root.tag, root.get("tests"), root.get("failures")) == ("testsuites", "3", "1")
    (suite,) = root
    assert suite.get("name") == "doorward.test.yaml"
    failures = [case for case in suite if case.find("failure") is not None]
    assert [case.get("line") for case in failures] == ["10"]
    text = failures[0].findtext("failure")
    assert text is not None
    assert "groups has staff" in text


def test_a_policy_may_stand_alone_or_in_the_test_file(folder: Path):
    (folder / "one.yaml").write_text("- allow: {or: [groups: staff]}\n")
    alone = "version: 1\npolicy: one.yaml\ntests: [{name: n, principal: {groups: [staff]}, effect: allow}]\n"
    (folder / "one.test.yaml").write_text(alone)
    inline = alone.replace("policy: one.yaml", "policy: [{allow: {or: [groups: staff]}}]")
    (folder / "two.test.yaml").write_text(inline)
    assert run().output.splitlines()[-1].startswith("2 passed")


def test_people_may_stand_in_a_file_of_their_own(folder: Path):
    (folder / "people.yaml").write_text("alice: {email: alice@example.com, groups: [staff]}\n")
    (folder / "doorward.test.yaml").write_text(
        "version: 1\nconfiguration: doorward.yaml\npeople: people.yaml\n"
        "tests: [{name: n, route: wiki, principal: alice, effect: allow}]\n"
    )
    assert run().exit_code == 0


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (TESTS.replace("route: wiki", "route: wikki"), "did you mean `wiki`?"),
        (TESTS.replace("configuration: doorward.yaml", "configuration: absent.yaml"), "absent.yaml:1:1: error: cannot be read"),
        ("", "the file is empty"),
        ("version: 1\ntests: [", "not valid YAML"),
        ("[]", "expected a mapping"),
        ("version: 1\npolicy: [{alow: {or: [accept: 1]}}]\ntests: [{name: n, effect: deny}]", "unknown action `alow`"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_used_are_another_status_than_a_failing_test(folder: Path, text: str, part: str):
    (folder / "doorward.test.yaml").write_text(text)
    result = run()
    assert result.exit_code == 2, result.output
    assert part in result.output


def test_no_tests_at_all_is_no_success(folder: Path):
    result = run()
    assert result.exit_code == 2
    assert "no test files" in result.output


def test_a_broken_route_cannot_be_tested(folder: Path):
    """It answers 503 to everybody; a test of its policy would say otherwise."""
    (folder / "doorward.yaml").write_text(CONFIGURATION.replace("groups: staff", "grups: staff"))
    (folder / "doorward.test.yaml").write_text(WHOLE)
    result = run()
    assert result.exit_code == 2
    assert "`wiki` cannot be served" in result.output
