"""Tokens of service accounts: one form, and a hash that says nothing."""

import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.key_material import keyring

from doorward.keys.keyring import Key, Keyring
from doorward.keys.service_token import TokenHasher, new_token, parse_token
from doorward.keys.store import Purpose

NUMBER, SECRET = bytes(range(16)), bytes(range(32))


def test_a_token_is_read_as_it_was_made():
    assert parse_token(new_token(NUMBER, SECRET)) == (NUMBER.hex(), SECRET)


@pytest.mark.parametrize(
    "change", [str.upper, lambda t: t + "0", lambda t: t[:-1], lambda t: " " + t, lambda t: t + "\n"]
)
def test_another_form_is_no_token(change):
    assert parse_token(change(new_token(NUMBER, SECRET))) is None


@given(st.text(max_size=120))
def test_any_text_is_read_or_refused(text: str):
    parsed = parse_token(text)
    assert parsed is None or new_token(bytes.fromhex(parsed[0]), parsed[1]) == text


def test_a_hash_is_of_one_secret_one_account_and_one_key():
    hasher = TokenHasher(keyring(Purpose.SERVICE_ACCOUNT))
    stored = hasher.hash(NUMBER.hex(), SECRET)
    assert SECRET not in stored
    assert hasher.match(NUMBER.hex(), SECRET, stored) == hasher.keys[0].id
    assert hasher.match(NUMBER.hex(), SECRET[::-1], stored) is None
    assert hasher.match(NUMBER[::-1].hex(), SECRET, stored) is None
    assert hasher.match(NUMBER.hex(), SECRET, b"") is None
    other = Keyring(Purpose.SERVICE_ACCOUNT, [Key.from_bytes(secrets.token_bytes(32))])
    assert TokenHasher(other).match(NUMBER.hex(), SECRET, stored) is None


def test_a_hash_made_with_an_older_key_still_counts():
    old, new = (Key.from_bytes(secrets.token_bytes(32)) for _ in range(2))
    stored = TokenHasher(Keyring(Purpose.SERVICE_ACCOUNT, [old])).hash(NUMBER.hex(), SECRET)
    rotated = TokenHasher(Keyring(Purpose.SERVICE_ACCOUNT, [new, old]))
    assert rotated.match(NUMBER.hex(), SECRET, stored) == old.id
    assert rotated.holds(old.id)
    assert not TokenHasher(Keyring(Purpose.SERVICE_ACCOUNT, [new])).holds(old.id)
    assert rotated.hash(NUMBER.hex(), SECRET) != stored
