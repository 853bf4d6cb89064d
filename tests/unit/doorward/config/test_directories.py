"""Directories in the file: the examples of the documentation are read as they stand, and mistakes are named where they are."""

import re
from pathlib import Path

import pytest

from doorward.config.directories import DOCUMENTS
from doorward.config.load import load
from doorward.config.settings import Loaded

ROOT = Path(__file__).resolve().parents[4]
HEAD = """\
version: 1
authenticate_url: https://sign-in.example.com
identity_providers:
  - {id: main, issuer: "https://idp.example.com", client_id: x, client_secret: "file:secret"}
routes:
  - {from: "https://a.example.com", to: "http://127.0.0.1:1", policy: [{allow: {and: [{authenticated_user: true}]}}]}
"""
KEYCLOAK = """\
directories:
  - id: people
    type: keycloak
    identity_provider: main
    url: https://keycloak.example.com
    realm: corp
    client_id: reader
    client_secret: file:keycloak-secret
"""
EXAMPLES = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/operations/directory.md").read_text(), re.DOTALL)


def read(folder: Path, text: str) -> Loaded:
    (folder / "secret").write_text("s")
    (folder / "doorward.yaml").write_text(HEAD + text)
    return load(folder / "doorward.yaml")


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_documents_examples_are_read_as_they_stand(tmp_path: Path, example: str):
    loaded = read(tmp_path, example)
    assert [problem.render() for problem in loaded.problems] == []
    assert loaded.settings is not None
    (directory,) = loaded.settings.directories
    assert loaded.settings.directory_of("main") is directory


def test_every_kind_of_directory_has_an_example():
    kinds = {kind for example in EXAMPLES for kind in re.findall(r"type: (\w+)", example)}
    assert kinds == set(DOCUMENTS)


@pytest.mark.parametrize(
    ("change", "where", "message"),
    [
        (("type: keycloak", "type: keyclaok"), 9, "did you mean `keycloak`?"),
        (("identity_provider: main", "identity_provider: mian"), 10, "did you mean `main`?"),
        (("url: https:", "url: http:"), 11, "is not encrypted"),
        (("url: https://keycloak.example.com", "url: keycloak"), 11, "no address"),
        (("realm: corp", "relam: corp"), 12, "did you mean `realm`?"),
        (("file:keycloak-secret", "very-secret-itself"), 14, "expected `env:NAME` or `file:PATH`"),
        (("    realm: corp", "    realm: corp\n    join: email"), 13, "can change hands"),
        (("    realm: corp", "    realm: corp\n    join: 'a b'"), 13, "the name of a claim"),
        (("    realm: corp", "    realm: corp\n    every: 1s"), 13, "greater than or equal"),
    ],
)
def test_a_mistake_is_named_where_it_is(tmp_path: Path, change: tuple[str, str], where: int, message: str):
    loaded = read(tmp_path, KEYCLOAK.replace(*change))
    assert loaded.settings is None
    found = {problem.position.line: problem.render() for problem in loaded.problems}
    assert message in found.get(where, ""), found
    assert not any("very-secret-itself" in text for text in found.values())


@pytest.mark.parametrize("value", ["7", "text", "[7]", "[[]]", "{}", "[{}]", "[{type: [x]}]", "[{type: ldap}]"])
def test_what_is_no_directory_is_refused(tmp_path: Path, value: str):
    assert read(tmp_path, f"directories: {value}\n").settings is None or value == "[]"


def test_two_directories_for_one_identity_provider_are_refused(tmp_path: Path):
    second = KEYCLOAK.replace("directories:\n", "").replace("id: people", "id: more")
    loaded = read(tmp_path, KEYCLOAK + second)
    assert loaded.settings is None
    assert "one identity provider has one directory" in loaded.problems[0].render()


def test_a_join_by_address_is_warned_about(tmp_path: Path):
    loaded = read(tmp_path, KEYCLOAK + "    join: verified_email\n")
    assert loaded.settings is not None
    assert "can change hands" in loaded.problems[0].render()
    assert loaded.problems[0].severity == "warning"


def test_secrets_of_directories_are_not_needed_to_read_the_file(tmp_path: Path):
    """Every plane reads the file; only the worker holds these secrets."""
    loaded = read(tmp_path, KEYCLOAK)
    assert loaded.settings is not None
    assert "keycloak-secret" not in {path.name for path in loaded.files}


def test_a_listener_that_others_reach_needs_a_certificate(tmp_path: Path):
    scim = (
        "directories:\n  - {id: p, type: scim, identity_provider: main, join: employee, tokens: ['file:t']}\n"
        "scim: {listen: '0.0.0.0:8446'}\n"
    )
    loaded = read(tmp_path, scim)
    assert loaded.settings is None
    assert "`certificate` and `key`" in loaded.problems[0].render()
