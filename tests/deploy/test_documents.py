"""The operations documents: every command of ours that they tell to type exists, with these options."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.deploy.tools import ROOT

from doorward.cli.app import app

DOCUMENTS = sorted((ROOT / "docs" / "operations").glob("*.md"))


def commands(text: str) -> Iterator[list[str]]:
    """Every line of a code block that calls `doorward`, as words."""
    for block in re.findall(r"```[a-z]*\n(.*?)```", text, re.DOTALL):
        for line in re.findall(
            r"^\s*(?:\.venv/bin/|/opt/doorward/bin/)?doorward (.+)$", block.replace("\\\n", " "), re.MULTILINE
        ):
            yield shlex.split(line, comments=True)


def unknown(words: list[str]) -> str | None:
    """The first word that is no command or no option of its command."""
    command: Any = typer.main.get_command(app)
    rest = list(words)
    while subcommands := getattr(command, "commands", None):
        name = rest.pop(0) if rest else ""
        if name not in subcommands:
            return name or "(nothing)"
        command = subcommands[name]
    options = {option for parameter in command.params for option in parameter.opts}
    return next((word for word in rest if word.startswith("-") and word.split("=")[0] not in options), None)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_in_a_document_exists(document: Path) -> None:
    for words in commands(document.read_text()):
        assert unknown(words) is None, f"{document.name}: doorward {' '.join(words)}"


def test_the_documents_do_tell_commands() -> None:
    assert any(True for path in DOCUMENTS for _ in commands(path.read_text()))
