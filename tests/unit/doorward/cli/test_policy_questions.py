import csv
import json
from pathlib import Path

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
  - name: billing
    from: https://billing.example.com
    to: http://10.0.0.7:8080
    policy:
      - deny: {or: [groups: contractors]}
      - allow:
          and:
            - groups: finance
            - or: [{http_method: GET}, {claim/role: chief}]
  - name: status
    from: https://status.example.com
    to: http://10.0.0.7:8080
    policy:
      - allow: {or: [accept: true]}
"""
PEOPLE = """\
alice: {email: alice@example.com, groups: [staff, finance]}
bob: {email: bob@example.com, groups: [staff]}
carol: {email: carol@example.com, groups: [finance, contractors]}
dave: {email: dave@example.com, groups: [finance], claims: {role: chief}}
"=cmd|x": {groups: [finance]}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "doorward.yaml").write_text(CONFIGURATION)
    (tmp_path / "people.yaml").write_text(PEOPLE)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["policy", *arguments])


def ask(*arguments: str) -> list[dict[str, object]]:
    result = run(*arguments, "--people", "people.yaml", "-o", "json")
    assert result.exit_code == 0, result.output
    found: list[dict[str, object]] = json.loads(result.output)
    return found


def test_who_can_tells_yes_depends_and_no_apart():
    answers = {str(row["person"]): row for row in ask("who-can", "billing")}
    assert {name: row["access"] for name, row in answers.items()} == {
        "dave": "yes",
        "alice": "depends",
        "=cmd|x": "depends",
        "nobody": "no",
        "bob": "no",
        "carol": "no",
    }
    assert answers["alice"]["conditions"] == ["http_method is GET"]
    assert answers["carol"]["denied_by"] == "deny-1"
    assert answers["dave"]["rules"] == ["allow-1"]


def test_what_is_said_about_the_request_is_no_longer_open():
    answers = {row["person"]: row["access"] for row in ask("who-can", "billing", "-X", "POST")}
    assert (answers["alice"], answers["dave"]) == ("no", "yes")
    by_url = ask("who-can", "--url", "https://billing.example.com/x", "--method", "POST")
    assert {row["person"]: row["access"] for row in by_url} == answers


def test_for_people_those_who_may_come_first_and_the_rest_is_counted():
    result = run("who-can", "billing", "--people", "people.yaml")
    assert result.exit_code == 0
    lines = [line.split() for line in result.output.splitlines()]
    assert lines[0] == ["person", "access", "by", "detail"]
    assert lines[1] == ["dave", "yes", "allow-1"]
    assert lines[2] == ["alice", "depends", "allow-1", "http_method", "is", "GET"]
    assert "carol" not in result.output
    assert result.output.splitlines()[-1] == "billing: 1 yes, 2 depends, 3 no (6 asked about)"
    assert "kept out by deny-1" in run("who-can", "billing", "--people", "people.yaml", "--all").output


def test_csv_is_complete_and_no_name_becomes_a_formula():
    """Names come from outside; a spreadsheet would run one that begins with an equals sign."""
    result = run("who-can", "billing", "--people", "people.yaml", "-o", "csv")
    rows = list(csv.DictReader(result.output.splitlines()))
    assert [row["person"] for row in rows] == ["dave", "alice", "'=cmd|x", "nobody", "bob", "carol"]
    assert rows[0]["access"] == "yes"
    assert rows[1]["detail"] == "http_method is GET"


def test_what_somebody_can_use():
    answers = {row["route"]: row["access"] for row in ask("what-can", "alice")}
    assert answers == {"wiki": "yes", "status": "yes", "billing": "depends"}
    assert {row["route"]: row["access"] for row in ask("what-can", "nobody")}["status"] == "yes"
    result = run("what-can", "alice", "--people", "people.yaml", "-X", "PUT", "--all")
    assert result.output.splitlines()[-1] == "alice: 2 yes, 0 depends, 1 no (3 routes)"


def test_explain_shows_each_criterion_and_what_would_help():
    result = run(
        "explain", "billing", "--as", "alice", "--people", "people.yaml", "-X", "POST", "--at", "2030-03-01T22:00Z"
    )
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert lines[0] == "billing: alice, POST https://billing.example.com/, 2030-03-01T22:00:00+00:00"
    assert lines[1] == "DENY  claim-unknown, http-method-unauthorized"
    assert lines[-3:] == [
        "to be let in, one of these:",
        "  1. http_method is GET (saw POST)",
        "  2. claim/role has chief",
    ]


def test_explain_takes_facts_from_the_command_line():
    assert run("explain", "billing", "--email", "x@example.com", "--group", "finance").exit_code == 0
    options = ("--group", "finance", "--claim", "role=chief", "--method", "PUT")
    assert run("explain", "billing", *options).exit_code == 0
    assert run("explain", "--url", "https://billing.example.com/a?b=c", "--as", "{groups: [finance]}").exit_code == 0
    more = ("--as", "bob", "--people", "people.yaml", "--group", "finance")
    assert run("explain", "billing", *more).exit_code == 0
    assert "SIGN-IN  user-unauthenticated" in run("explain", "billing").output


def test_explain_as_json_is_what_the_text_says():
    result = run("explain", "billing", "--as", "bob", "--people", "people.yaml", "--json")
    data = json.loads(result.output)
    assert result.exit_code == 1
    assert data["asked"]["principal"] == "bob"
    assert (data["effect"], data["rule"]) == ("deny", None)
    assert data["remedies"][0]["changes"][0]["criterion"] == "groups"


def test_one_policy_by_itself_can_be_asked_about(folder: Path):
    (folder / "one.yaml").write_text("- allow: {or: [groups: staff]}\n")
    assert run("explain", "-c", "one.yaml", "--group", "staff").exit_code == 0
    answers = ask("who-can", "-c", "one.yaml")
    assert {row["person"] for row in answers if row["access"] == "yes"} == {"alice", "bob"}


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("explain", "biling"), "did you mean `billing`?"),
        (("explain",), "name the `route`, or give the request's `url`"),
        (("explain", "billing", "--as", "{groups"), "the facts after --as cannot be read"),
        (("explain", "billing", "--as", "alise", "--people", "people.yaml"), "did you mean `alice`?"),
        (("explain", "billing", "--claim", "role"), "`role` is no claim"),
        (("explain", "billing", "-H", "role"), "`role` is no header"),
        (("explain", "billing", "--at", "noon"), "`noon` is no time"),
        (("explain", "billing", "-c", "absent.yaml"), "cannot be read"),
        (("who-can", "biling", "--people", "people.yaml"), "did you mean `billing`?"),
        (("who-can", "billing", "--people", "absent.yaml"), "cannot be read"),
        (("who-can", "billing", "--people", "doorward.yaml"), "expected the facts of"),
        (("who-can", "billing", "--data", "nothing"), "nothing runs on the data folder"),
        (("who-can", "billing", "-o", "xml"), "none of text, csv, json"),
    ],
)
def test_a_question_that_cannot_be_answered_says_why(arguments: tuple[str, ...], part: str):
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert part in result.output


def test_nobody_of_that_name_is_an_answer_of_its_own():
    result = run("what-can", "zoe", "--people", "people.yaml")
    assert result.exit_code == 1
    assert "nobody is called `zoe`" in result.output
