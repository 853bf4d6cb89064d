"""Values with facts in them: read whole, or refused with the reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.route.header_template import (
    CertificateField,
    Part,
    Variable,
    has_variables,
    parse_template,
    reads_certificate,
)


def test_text_and_variables_come_apart_in_order():
    assert parse_template("Bearer ${assertion}; for=${claim/team/name}") == (
        Part(None, "Bearer "),
        Part(Variable.ASSERTION, ""),
        Part(None, "; for="),
        Part(Variable.CLAIM, "team/name"),
    )


@pytest.mark.parametrize("field", CertificateField)
def test_a_certificates_field_is_named_as_policy_names_it(field: CertificateField):
    template = parse_template(f"${{client_certificate/{field}}}")
    assert template == (Part(Variable.CLIENT_CERTIFICATE, field),)
    assert reads_certificate(template)
    assert not reads_certificate(parse_template("${user} client_certificate $${client_certificate/pem}"))


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
        ("${client_certificate}", "no variable"),
        ("${client_certificate/}", "no variable"),
        ("${client_certificate/nothing}", "no variable.*`fingerprint`"),
        ("${client_certificate/san_dns/0}", "no variable"),
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
