"""Values with facts in them: read whole, or refused with the reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.route.header_template import Part, Variable, has_variables, parse_template


def test_text_and_variables_come_apart_in_order():
    assert parse_template("Bearer ${assertion}; for=${claim/team/name}") == (
        Part(None, "Bearer "),
        Part(Variable.ASSERTION, ""),
        Part(None, "; for="),
        Part(Variable.CLAIM, "team/name"),
    )


@pytest.mark.parametrize("text", ["$${user}", "a $${ b", "${user}$${x}"])
def test_two_dollars_stand_for_the_braces_themselves(text: str):
    parts = parse_template(text)
    assert "${" in "".join(part.text for part in parts if part.variable is None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${", "not closed"),
        ("a ${user", "not closed"),
        ("${}", "no variable"),
        ("${nobody}", "no variable"),
        ("${USER}", "no variable"),
        ("${user/x}", "no variable"),
        ("${claim}", "no variable"),
        ("${claim/}", "no variable"),
        ("${claim//x}", "no variable"),
        ("${${user}}", "not closed"),
    ],
)
def test_what_is_no_variable_is_refused(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        parse_template(text)


@given(st.text(alphabet="${}ab/usercm ", max_size=30))
def test_any_text_is_read_whole_or_refused(text: str):
    try:
        parts = parse_template(text)
    except ValueError:
        assert has_variables(text)
        return
    rebuilt = "".join(
        part.text.replace("${", "$${")
        if part.variable is None
        else f"${{{part.variable}/{part.text}}}"
        if part.text
        else f"${{{part.variable}}}"
        for part in parts
    )
    assert rebuilt == text
