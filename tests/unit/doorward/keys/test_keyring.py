import json

import pytest

from doorward.errors import DataCorruptedError, InvalidTokenError
from doorward.keys.keyring import Key, Keyring

FIRST, SECOND = bytes(range(32)), bytes(range(32, 64))


def keyring(*secrets):
    return Keyring("flow", [Key.from_bytes(secret) for secret in secrets])


def test_the_first_key_signs_and_all_are_found():
    ring = keyring(FIRST, SECOND)

    assert ring.primary.secret.reveal() == FIRST
    assert ring.find(Key.from_bytes(SECOND).id).secret.reveal() == SECOND


def test_a_retired_key_is_not_found():
    with pytest.raises(InvalidTokenError):
        keyring(FIRST).find(Key.from_bytes(SECOND).id)


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_a_key_has_32_bytes(size):
    with pytest.raises(ValueError):
        Key.from_bytes(bytes(size))


@pytest.mark.parametrize("secrets", [[], [FIRST, FIRST]], ids=["none", "twice"])
def test_a_keyring_without_a_key_or_with_one_twice_is_refused(secrets):
    with pytest.raises(ValueError):
        keyring(*secrets)


def test_the_file_form_comes_back_in_order():
    ring = Keyring.from_json(keyring(FIRST, SECOND).to_json(), "flow")

    assert ring.purpose == "flow"
    assert ring.primary.secret.reveal() == FIRST
    assert ring.find(Key.from_bytes(SECOND).id).secret.reveal() == SECOND


def test_a_keyring_of_another_purpose_is_refused():
    """A flow key used for session handles would let whoever may sign one make the other."""
    with pytest.raises(DataCorruptedError, match="flow"):
        Keyring.from_json(keyring(FIRST).to_json(), "session-handle")


GOOD = FIRST.hex()
DAMAGED = {
    "empty": "",
    "no json": "{",
    "list": "[]",
    "null": "null",
    "number": "1",
    "no purpose": json.dumps({"keys": [GOOD]}),
    "no keys": json.dumps({"purpose": "flow"}),
    "no key": json.dumps({"purpose": "flow", "keys": []}),
    "keys a text": json.dumps({"purpose": "flow", "keys": GOOD}),
    "keys an object": json.dumps({"purpose": "flow", "keys": {GOOD: 1}, "more": 1}).replace(GOOD, "00"),
    "short key": json.dumps({"purpose": "flow", "keys": ["00" * 31]}),
    "key no hex": json.dumps({"purpose": "flow", "keys": ["zz" * 32]}),
    "key a number": json.dumps({"purpose": "flow", "keys": [7]}),
    "key null": json.dumps({"purpose": "flow", "keys": [None]}),
    "twice": json.dumps({"purpose": "flow", "keys": [GOOD, GOOD]}),
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_file_is_reported_without_its_content(text):
    with pytest.raises(DataCorruptedError) as caught:
        Keyring.from_json(text, "flow")

    assert GOOD not in str(caught.value)
    assert caught.value.__cause__ is None


def test_printing_a_key_shows_nothing_of_it():
    assert FIRST.hex() not in repr(Key.from_bytes(FIRST))
    assert repr(FIRST) not in repr(Key.from_bytes(FIRST))
