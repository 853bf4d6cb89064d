from pathlib import Path

import pytest
from typer.testing import CliRunner

from doorward.cli.app import app
from doorward.config.load import load
from doorward.config.references import no_secret

HEAD = """\
version: 1
authenticate_url: https://sign-in.example.com
identity_providers:
  - {id: corp, issuer: https://login.example.com, client_id: d, client_secret: env:DOORWARD_TEST_SECRET}
"""
ROUTE = """\
  - name: wiki
    from: https://wiki.example.com
    to: http://10.0.0.7:8080
    policy:
      - allow: {and: [POLICY]}
"""


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DOORWARD_TEST_SECRET", "s")
    monkeypatch.setenv("NO_COLOR", "1")


def check(folder: Path, text: str, *arguments: str) -> tuple[int, list[str]]:
    path = folder / "doorward.yaml"
    path.write_text(text)
    result = CliRunner().invoke(app, ["check", str(path), *arguments])
    lines = result.output.replace(f"{folder}/", "").splitlines()
    return result.exit_code, [line.rstrip() for line in lines]


def test_an_error_shows_its_line_a_mark_and_what_was_meant(tmp_path: Path):
    status, lines = check(tmp_path, HEAD + "routes:\n" + ROUTE.replace("POLICY", "grups: admins"))
    assert status == 1
    assert lines == [
        "doorward.yaml:10:23: error: unknown criterion `grups`",
        "    10 |       - allow: {and: [grups: admins]}",
        "       |                       ^^^^^",
        "       = did you mean `groups`?",
        "doorward.yaml: 1 route, 1 error",
    ]


def test_warnings_are_shown_and_count_only_when_asked_for(tmp_path: Path):
    text = HEAD + "routes:\n" + ROUTE.replace("POLICY", "domain: {ends_with: example.com}")
    status, lines = check(tmp_path, text)
    assert status == 0
    assert "warning: `example.com` also ends other domains" in lines[0]
    assert lines[-1] == "doorward.yaml: 1 route, 1 warning"
    assert check(tmp_path, text, "--strict")[0] == 1


def test_all_is_well(tmp_path: Path):
    text = HEAD + "routes:\n" + ROUTE.replace("POLICY", "domain: example.com")
    assert check(tmp_path, text) == (0, ["doorward.yaml: 1 route, no errors, no warnings"])


def test_planes_apart_are_not_run_together(tmp_path: Path):
    """On one machine they would look for each other at addresses where nobody is, and nobody would be let in."""
    planes = "planes:\n  authorize: [10.0.0.5:7711]\n"
    status, lines = check(tmp_path, HEAD + planes + "routes:\n" + ROUTE.replace("POLICY", "domain: example.com"))
    assert status == 0
    assert lines[-1].endswith("no warnings; for `doorward serve` (`doorward run` refuses `planes`)")
    command = ["run", "--config", str(tmp_path / "doorward.yaml"), "--data", str(tmp_path / "data")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code != 0
    refused = "\n".join(result.exception.problems)  # type: ignore[union-attr]
    assert f"{tmp_path / 'doorward.yaml'}:6:3: error: `planes` is for planes apart" in refused
    assert "start each plane with `doorward serve`" in refused
    assert not (tmp_path / "data").exists()


def test_every_error_is_reported_at_once(tmp_path: Path):
    broken = ROUTE.replace("POLICY", "grups: a, {emial: b}, {http_methd: GET}").replace("grups: a", "{grups: a}")
    _, lines = check(tmp_path, HEAD + "listn: x\nroutes:\n" + broken)
    assert sum(": error: " in line for line in lines) == 4


def test_text_that_is_no_yaml_is_shown_too(tmp_path: Path):
    status, lines = check(tmp_path, HEAD + "routes: [\n")
    assert status == 1
    assert "not valid YAML" in lines[0]
    assert lines[-1] == "doorward.yaml: 1 error"


@pytest.mark.parametrize("line", ["client_secret: hunter2", 'client_secret: "hunter2"', "password: hunter2"])
def test_an_excerpt_never_repeats_what_may_be_a_secret(tmp_path: Path, line: str):
    """What is printed here ends up in the logs of build machines."""
    text = HEAD.replace("client_secret: env:DOORWARD_TEST_SECRET", line) + "routes: []\n"
    assert "hunter2" not in "\n".join(check(tmp_path, text)[1])
    redis = "databroker: {redis: 'http://joe:hunter2@redis'}\nroutes: []\n"
    assert "hunter2" not in "\n".join(check(tmp_path, HEAD + redis)[1])


def test_who_only_looks_at_policies_needs_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("DOORWARD_TEST_SECRET")
    path = tmp_path / "doorward.yaml"
    path.write_text(HEAD + "routes:\n" + ROUTE.replace("POLICY", "domain: example.com"))
    assert load(path).settings is None
    assert load(path, secrets=no_secret).settings is not None


def test_groups_that_nobody_has_are_warned_of_when_people_are_known(tmp_path: Path):
    (tmp_path / "people.yaml").write_text("alice: {groups: [staff], claims: {team: blue}}\n")
    text = HEAD + "routes:\n" + ROUTE.replace("POLICY", "groups: staf")
    status, lines = check(tmp_path, text, "--people", str(tmp_path / "people.yaml"))
    assert status == 0
    assert lines[0].endswith("warning: no group is called `staf`")
    assert lines[-2] == "       = did you mean `staff`?"


EVERYTHING = """\
version: 1
listn: 127.0.0.1:8443
listen: nowhere
authenticate_url: http://sign-in.example.com
identity_providers:
  - id: corp
    issuer: http://login.example.com
    client_id: x
    client_secret: env:DOORWARD_TEST_SECRET
    scope: [openid]
routes:
  - name: wiki
    from: https://wiki.example.com
    to: htp://10.0.0.7
    polcy: []
  - name: wiki
    from: https://wiki2.example.com
    to: http://10.0.0.8
    timeout: 5
    policy:
      - allow: {and: [{domian: example.com}]}
  - from: wiki3.example.com
    to: nowhere
    prefix: relative
    policy:
      - allow: {and: [{groups: {hass: staff}}]}
"""


def test_one_mistake_hides_no_other(tmp_path: Path):
    """In the file's head, in the providers, in routes without a place: all are told in one go."""
    status, lines = check(tmp_path, EVERYTHING)
    assert status == 1
    assert [line.split(": error: ")[0].removeprefix("doorward.yaml:") for line in lines if ": error: " in line] == [
        "2:1", "3:9", "4:19", "7:13", "10:5", "12:5", "14:9", "15:5", "16:5", "19:14", "21:24", "22:11", "23:9", "24:13",
        "26:33",
    ]  # fmt: skip
    text = "\n".join(lines)
    for meant in ("`listen`", "`scopes`", "`policy`", "`domain`", "`has`"):
        assert f"did you mean {meant}?" in text
    assert lines[-1] == "doorward.yaml: 0 routes, 15 errors"
