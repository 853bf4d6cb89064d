from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.key_material import keyring

from doorward.errors import InvalidTokenError
from doorward.keys.code import CodeSealer, OneTimeCode, spent_id
from doorward.keys.flow import flow_fingerprint
from doorward.keys.sealed import Sealer
from doorward.keys.store import Purpose

CODE = OneTimeCode(
    session_id="00112233445566778899aabbccddeeff",
    session_expires_at=1_800_003_600,
    epoch=2,
    number=7,
    host="verify.example.com",
    fingerprint=flow_fingerprint(bytes(16)),
    expires_at=1_800_000_030,
)
CODES = CodeSealer(Sealer(keyring(Purpose.ONE_TIME_CODE)))
NUMBERS = st.integers(0, 2**64 - 1)


@given(
    st.binary(min_size=16, max_size=16),
    st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS),
    st.from_regex(r"[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63}){0,3}", fullmatch=True),
    st.binary(min_size=32, max_size=32),
)
def test_a_code_comes_back(session_id, numbers, host, fingerprint):
    code = OneTimeCode(
        session_id=session_id.hex(),
        session_expires_at=numbers[0],
        epoch=numbers[1],
        number=numbers[2],
        host=host,
        fingerprint=fingerprint,
        expires_at=numbers[3],
    )

    assert CODES.open(CODES.mint(code)) == code


def test_s37_no_byte_of_a_code_can_be_changed():
    text = CODES.mint(CODE)

    for index, character in enumerate(text):
        for other in "A", "z", "_", "%", "\0", "ü":
            if other != character:
                with pytest.raises(InvalidTokenError):
                    CODES.open(text[:index] + other + text[index + 1 :])


def test_s37_no_part_of_a_code_is_a_code():
    text = CODES.mint(CODE)

    for piece in [text[:length] for length in range(len(text))] + [text[1:], text + "A", text + "=", text + text]:
        with pytest.raises(InvalidTokenError):
            CODES.open(piece)


@given(st.text(max_size=400))
def test_noise_is_no_code(text):
    with pytest.raises(InvalidTokenError):
        CODES.open(text)


@pytest.mark.parametrize(
    "changes",
    [{"session_id": "00"}, {"session_id": "00" * 17}, {"fingerprint": b""}, {"fingerprint": bytes(33)}],
    ids=str,
)
def test_fields_that_would_be_cut_or_padded_are_not_minted(changes):
    with pytest.raises(ValueError):
        CODES.mint(replace(CODE, **changes))


def test_two_codes_for_one_sign_in_are_spent_apart():
    first, second = CODES.mint(CODE), CODES.mint(CODE)

    assert first != second
    assert spent_id(first) != spent_id(second)
    assert spent_id(first) == spent_id(first)
    assert len(spent_id(first)) == 64


def test_the_list_of_spent_codes_does_not_hold_codes():
    text = CODES.mint(CODE)

    assert text not in spent_id(text)
