"""What `doorward databroker` shows of the store."""

import pytest
from rich.table import Table

from doorward.cli.operate import print_table
from doorward.cli.store import _shown


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "none"),
        ([], "none"),
        ({}, "none"),
        ({"User": 20, "Session": 0}, "User 20, Session 0"),
        (["a", {"type": "User"}], "a; type User"),
        ("1.40", "1.40"),
        (0, "0"),
    ],
)
def test_what_is_there_is_shown_and_what_is_not_is_said(value: object, text: str):
    assert _shown(value) == text


def test_a_table_that_nobody_looks_at_is_plain_and_has_whole_ids(capsys: pytest.CaptureFixture[str]):
    table = Table("id", "who")
    table.add_row("a" * 300, "[b]x[/b]")
    table.add_row("b", "y")
    print_table(table)
    assert capsys.readouterr().out == f"id{' ' * 298}  who\n{'a' * 300}  [b]x[/b]\nb{' ' * 299}  y\n"
