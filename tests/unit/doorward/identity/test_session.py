from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.api.session.v1 import session_pb2
from doorward.errors import DataCorruptedError
from doorward.identity.session import Session

SESSION = Session(
    id="0" * 32,
    user_id="1" * 32,
    identity_provider_id="example",
    issued_at=1_800_000_000.0,
    expires_at=1_800_003_600.0,
    authenticated_at=1_799_999_990.0,
    methods=("pwd", "otp"),
    context_class="urn:example:gold",
    provider_session_id="theirs",
    claims_json=b'{"department": "tools"}',
)


def test_a_session_comes_back():
    assert Session.from_bytes(SESSION.to_bytes()) == SESSION


@given(st.floats(0, 4e9), st.floats(0, 4e9), st.lists(st.text(max_size=5)).map(tuple), st.binary(max_size=20))
def test_times_come_back_within_a_microsecond(issued_at, expires_at, methods, claims):
    session = replace(SESSION, issued_at=issued_at, expires_at=expires_at, methods=methods, claims_json=claims)
    again = Session.from_bytes(session.to_bytes())

    assert again.issued_at == pytest.approx(issued_at, abs=1e-6, rel=0)
    assert again.expires_at == pytest.approx(expires_at, abs=1e-6, rel=0)
    assert (again.methods, again.claims_json) == (methods, claims)


def test_a_session_ends_at_its_moment_whatever_a_sweeper_does():
    assert not SESSION.is_expired(SESSION.expires_at - 0.001)
    assert SESSION.is_expired(SESSION.expires_at)
    assert SESSION.is_expired(SESSION.expires_at + 1e9)


@pytest.mark.parametrize("end", [float("nan"), float("inf")], ids=str)
def test_a_session_without_a_real_end_cannot_be_stored(end):
    """Nothing is ever later than not-a-number: such a session would live for ever."""
    with pytest.raises((ValueError, OverflowError)):
        replace(SESSION, expires_at=end).to_bytes()


@pytest.mark.parametrize("field", ["id", "user_id", "expires_at"])
def test_a_record_without_id_user_or_end_is_corrupt(field):
    """A missing end read as zero would be harmless; read as never it would not. Neither is guessed."""
    message = session_pb2.Session.FromString(SESSION.to_bytes())
    message.ClearField(field)

    with pytest.raises(DataCorruptedError):
        Session.from_bytes(message.SerializeToString())


@pytest.mark.parametrize("data", [b"", b"\xff", b"\x0a\xff", b"{}", SESSION.to_bytes()[:-5]], ids=repr)
def test_bytes_that_are_no_session_are_corrupt(data):
    with pytest.raises(DataCorruptedError):
        Session.from_bytes(data)


@given(st.binary(max_size=100))
def test_noise_is_corrupt_or_a_whole_session(data):
    try:
        session = Session.from_bytes(data)
    except DataCorruptedError:
        return
    assert session.id
    assert session.user_id
