from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.key_material import keyring

from doorward.errors import InvalidTokenError
from doorward.keys.handle import TEXT_LIMIT, HandleSealer, SessionHandle, key_of_handle
from doorward.keys.sealed import Sealer, from_text, to_text
from doorward.keys.store import Purpose

NOW = 1_800_000_000
HOST = "verify.example.com"
HANDLE = SessionHandle(session_id="0123456789abcdef" * 2, audience=HOST, expires_at=NOW + 60, epoch=3, number=41)
HANDLES = HandleSealer(Sealer(keyring(Purpose.SESSION_HANDLE)))


@given(
    st.binary(min_size=16, max_size=16),
    st.integers(NOW + 1, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
)
def test_a_handle_comes_back(session_id, expires_at, epoch, number):
    handle = SessionHandle(
        session_id=session_id.hex(), audience=HOST, expires_at=expires_at, epoch=epoch, number=number
    )

    assert HANDLES.open(HANDLES.mint(handle), HOST, NOW) == handle


def test_a_handle_names_the_key_that_it_was_sealed_with():
    keys = keyring(Purpose.SESSION_HANDLE, "old")
    handles = HandleSealer(Sealer(keys))
    old, before = handles.mint(HANDLE), keys.primary.id
    assert (key_of_handle(old), handles.holds(before)) == (before, True)
    keys.take_over(keyring(Purpose.SESSION_HANDLE, "new"))
    assert key_of_handle(handles.mint(HANDLE)) == keys.primary.id != before
    assert not handles.holds(before)


@pytest.mark.parametrize(
    "audience",
    [
        "admin.example.com", "example.com", "xverify.example.com", "verify.example.com.evil.test",
        "Verify.example.com", "verify.example.com:8443", "verify.example.com.", "",
    ],
)  # fmt: skip
def test_s90_a_handle_for_one_host_is_refused_on_another(audience):
    """An application that sees its own visitors' cookies must not become them elsewhere."""
    with pytest.raises(InvalidTokenError):
        HANDLES.open(HANDLES.mint(HANDLE), audience, NOW)


def test_a_handle_ends_at_its_second():
    text = HANDLES.mint(HANDLE)

    assert HANDLES.open(text, HOST, HANDLE.expires_at - 0.001) == HANDLE
    for late in (HANDLE.expires_at, HANDLE.expires_at + 1):
        with pytest.raises(InvalidTokenError):
            HANDLES.open(text, HOST, late)


def test_s44_truncated_cookie_is_not_signed_in():
    text = HANDLES.mint(HANDLE)

    for length in range(len(text)):
        with pytest.raises(InvalidTokenError):
            HANDLES.open(text[:length], HOST, NOW)


def test_s44_no_changed_character_is_signed_in():
    text = HANDLES.mint(HANDLE)

    for index, character in enumerate(text):
        for other in "A", "B", "-", "=", " ", "é":
            if other != character:
                with pytest.raises(InvalidTokenError):
                    HANDLES.open(text[:index] + other + text[index + 1 :], HOST, NOW)


@pytest.mark.parametrize("text", ["", "A" * (TEXT_LIMIT + 1), "A" * 1_000_000, "null", "undefined", "\0", "a.b.c"])
def test_s44_oversize_and_foreign_cookies_are_not_signed_in(text):
    with pytest.raises(InvalidTokenError):
        HANDLES.open(text, HOST, NOW)


def test_s44_a_handle_under_a_wrong_key_is_not_signed_in():
    foreign = HandleSealer(Sealer(keyring(Purpose.SESSION_HANDLE, "somebody else's")))

    with pytest.raises(InvalidTokenError):
        HANDLES.open(foreign.mint(HANDLE), HOST, NOW)


@given(st.text(max_size=300))
def test_s44_noise_is_refused_as_a_token_and_not_as_an_error(text):
    with pytest.raises(InvalidTokenError):
        HANDLES.open(text, HOST, NOW)


@pytest.mark.parametrize("session_id", ["", "ab", "0" * 30, "0" * 34, "A" * 32, "0 " * 16 + "0" * 16, "zz" * 16])
def test_an_id_that_would_be_cut_or_padded_is_not_minted(session_id):
    """A cut id could be that of another session."""
    with pytest.raises(ValueError):
        HANDLES.mint(replace(HANDLE, session_id=session_id))


def test_a_handle_fits_its_limit_with_room():
    assert len(HANDLES.mint(HANDLE)) < TEXT_LIMIT / 1.5
    assert from_text(HANDLES.mint(HANDLE), TEXT_LIMIT)
    assert to_text(b"") == ""
