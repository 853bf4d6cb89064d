import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.key_material import keyring

from doorward.errors import InvalidTokenError
from doorward.keys.keyring import KEY_ID_BYTES, Key, Keyring
from doorward.keys.sealed import OVERHEAD_BYTES, Sealer, derivation, from_text, to_text
from doorward.keys.store import Purpose

SEALER = Sealer(keyring(Purpose.RECORDS))


@pytest.mark.parametrize(
    ("key", "aad", "ciphertext"),
    [
        (b"\x01" * 32, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
        (b"\x03" * 32, b"c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"),
    ],
    ids=["top bit clear", "with additional data"],
)
def test_the_published_vectors_of_xaes_256_gcm(key, aad, ciphertext):
    """C2SP, XAES-256-GCM, test vectors."""
    nonce = b"ABCDEFGHIJKLMNOPQRSTUVWX"

    assert derivation(key)(nonce).encrypt(nonce[12:], b"XAES-256-GCM", aad).hex() == ciphertext


@given(st.binary(max_size=200), st.binary(max_size=40))
def test_what_is_sealed_opens_with_the_same_context(plaintext, context):
    assert SEALER.open(SEALER.seal(plaintext, context), context) == plaintext


@given(st.binary(max_size=40), st.binary(max_size=20), st.binary(max_size=20))
def test_another_context_does_not_open(plaintext, context, other):
    if context == other:
        other += b"x"

    with pytest.raises(InvalidTokenError):
        SEALER.open(SEALER.seal(plaintext, context), other)


def test_no_changed_byte_opens():
    token = SEALER.seal(b"payload", b"context")

    for index in range(len(token)):
        for flip in (0x01, 0x80):
            changed = bytearray(token)
            changed[index] ^= flip
            with pytest.raises(InvalidTokenError):
                SEALER.open(bytes(changed), b"context")


def test_no_truncated_or_extended_value_opens():
    token = SEALER.seal(b"payload", b"context")

    for changed in [token[:length] for length in range(len(token))] + [token + b"\0"]:
        with pytest.raises(InvalidTokenError):
            SEALER.open(changed, b"context")


@given(st.binary(max_size=200))
def test_noise_does_not_open(noise):
    with pytest.raises(InvalidTokenError):
        SEALER.open(noise, b"")


def test_every_seal_is_different():
    """A repeated nonce would give the key stream away."""
    assert len({SEALER.seal(b"same", b"") for _ in range(50)}) == 50


def test_a_rotated_key_still_opens_and_a_dropped_one_does_not():
    old, new = Key.from_bytes(b"o" * 32), Key.from_bytes(b"n" * 32)
    token = Sealer(Keyring("records", [old])).seal(b"payload", b"")

    assert Sealer(Keyring("records", [new, old])).open(token, b"") == b"payload"
    assert Sealer(Keyring("records", [new, old])).seal(b"", b"")[1 : 1 + KEY_ID_BYTES] == new.id
    with pytest.raises(InvalidTokenError):
        Sealer(Keyring("records", [new])).open(token, b"")


def test_the_purpose_is_bound_even_when_two_purposes_share_a_key():
    """An operator who copies one key file over another must not make the tokens interchangeable."""
    shared = Key.from_bytes(b"s" * 32)
    token = Sealer(Keyring("flow", [shared])).seal(b"payload", b"context")

    with pytest.raises(InvalidTokenError):
        Sealer(Keyring("session-handle", [shared])).open(token, b"context")


def test_the_overhead_is_as_documented():
    assert len(SEALER.seal(b"payload", b"")) == len(b"payload") + OVERHEAD_BYTES


@given(st.binary(max_size=100))
def test_text_comes_back(token):
    assert from_text(to_text(token), 200) == token


@given(st.text(max_size=40))
def test_text_that_decodes_is_the_only_text_for_its_bytes(text):
    """Two spellings of one token would slip past whatever remembers the text, such as the list of spent codes."""
    try:
        token = from_text(text, 40)
    except InvalidTokenError:
        return
    assert to_text(token) == text


@pytest.mark.parametrize("text", ["AA==", "A", "AB", "AA\n", " AA", "A+/A", "ＡＡ", "AA=", "A A", "é"])
def test_text_that_is_not_canonical_is_refused(text):
    with pytest.raises(InvalidTokenError):
        from_text(text, 100)


def test_text_over_the_limit_is_refused_before_it_is_decoded():
    with pytest.raises(InvalidTokenError):
        from_text("A" * 101, 100)
