"""What `doorward databroker` shows of the store."""

import pytest

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
