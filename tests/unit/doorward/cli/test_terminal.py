"""What people call themselves does nothing to an operator's terminal, nor to the library that draws tables."""

import pytest
from rich.console import Console
from rich.table import Table

from doorward.cli.operate import print_table
from doorward.cli.terminal import add_row, shown, shown_lines

HOSTILE = [
    "[/b]",
    "[red]x",
    "\x1b[2Jgone",
    "a\nb",
    "a\rb",
    "\u202egnp.exe",
    "\x9b31m",
    "\ud800",
    "\x00",
    "Zoë 山田 \\[x]",
]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("terminal", [False, True])
def test_a_name_is_shown_as_it_is_written_and_as_nothing_else(
    name: str, terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Mark-up that does not close would otherwise end the list with an error: one person could keep operators from seeing anybody."""
    monkeypatch.setattr(Console, "is_terminal", property(lambda _: terminal))
    monkeypatch.setenv("COLUMNS", "200")
    table = Table("name", "more")
    add_row(table, name, 7)
    print_table(table)
    printed = capsys.readouterr().out
    assert shown(name) in printed
    assert "\x1b[2J" not in printed
    assert not set(printed) & set("\u202e\x9b\ud800\x00\r")


@pytest.mark.parametrize("name", HOSTILE)
def test_what_does_not_print_is_spelled_out_and_a_line_stays_one(name: str):
    assert shown(name).isprintable()
    assert shown_lines(f"{name}\nsecond").split("\n")[-1] == "second"
    if name.isprintable():
        assert shown(name) == name
