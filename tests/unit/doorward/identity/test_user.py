from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.api.user.v1 import user_pb2
from doorward.errors import DataCorruptedError
from doorward.identity.user import User, canonical_email, user_id

ALICE = User(
    id=user_id("https://idp.example", "alice"),
    issuer="https://idp.example",
    subject="alice",
    email="Alice@Example.com",
    email_verified=True,
    name="Alice",
    groups=frozenset({"admins", "eng"}),
    refreshed_at=1_800_000_000.0,
)


@pytest.mark.parametrize(
    "groups", [None, frozenset(), frozenset({"a", "b"})], ids=["unknown", "known to be none", "some"]
)
def test_a_user_comes_back(groups):
    """No groups and unknown groups differ: a deny by group holds when they are unknown."""
    user = replace(ALICE, groups=groups)

    assert User.from_bytes(user.to_bytes()) == user


@pytest.mark.parametrize("active", [True, False])
def test_whether_a_user_is_active_comes_back(active):
    assert User.from_bytes(replace(ALICE, active=active).to_bytes()).active is active


@pytest.mark.parametrize("field", ["id", "issuer", "subject"])
def test_a_record_without_its_key_is_corrupt(field):
    message = user_pb2.User.FromString(ALICE.to_bytes())
    message.ClearField(field)

    with pytest.raises(DataCorruptedError):
        User.from_bytes(message.SerializeToString())


def test_a_record_that_does_not_say_active_is_not():
    message = user_pb2.User.FromString(ALICE.to_bytes())
    message.ClearField("active")

    assert not User.from_bytes(message.SerializeToString()).active


@given(st.binary(max_size=100))
def test_noise_is_corrupt_or_a_whole_user(data):
    try:
        user = User.from_bytes(data)
    except DataCorruptedError:
        return
    assert user.id
    assert user.issuer
    assert user.subject


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_an_id_is_that_of_one_pair(issuer, subject, other_issuer, other_subject):
    """Were the parts only joined, one identity provider could mint another's users."""
    same = (issuer, subject) == (other_issuer, other_subject)

    assert (user_id(issuer, subject) == user_id(other_issuer, other_subject)) is same


def test_the_border_between_issuer_and_subject_counts():
    assert user_id("https://a", "b") != user_id("https://ab", "")
    assert user_id("a", "bc") != user_id("ab", "c")


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("alice@example.com", "alice@example.com"),
        ("Alice@EXAMPLE.com", "alice@example.com"),
        ("a+b.c_d-e'f@x-y.example", "a+b.c_d-e'f@x-y.example"),
        ("root@localhost", "root@localhost"),
    ],
)
def test_s61_an_address_has_one_form(text, canonical):
    assert canonical_email(text) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "a@evil.com@corp.com", "@corp.com", "a@", "a", "", "@", "@@", "a@corp.com.", "a@.corp.com", "a@corp..com",
        '"a@evil.com"@corp.com', '"a"@corp.com', "a b@corp.com", " a@corp.com", "a@corp.com ", "a@corp.com\n",
        "a@corp.com\0", "a@corp.com\x7f", "a\r\n@corp.com", "a@corp.com,b@corp.com", "a@corp.com;b", "<a@corp.com>",
        "Alice <a@corp.com>", "a(x)@corp.com", "a@[127.0.0.1]", "a\\b@corp.com", "a:b@corp.com", "ä@corp.com",
        "a@cörp.com", "a@corp。com", "a@ｃorp.com", "\u212aate@corp.com", "a" * 250 + "@x.com", "a@corp.com\u2028",
    ],
    ids=ascii,
)  # fmt: skip
def test_s61_what_is_no_plain_address_is_none(text):
    """`a@evil.com@corp.com` once passed for somebody at corp.com."""
    assert canonical_email(text) is None


@given(st.text(max_size=30) | st.emails())
def test_s61_the_canonical_form_is_stable_and_plain(text):
    address = canonical_email(text)
    if address is not None:
        assert canonical_email(address) == address == address.lower()
        assert address.count("@") == 1
        assert address.isascii()
        assert address.isprintable()


@pytest.mark.parametrize(
    ("changes", "domains", "address"),
    [
        ({}, None, "alice@example.com"),
        ({}, {"example.com"}, "alice@example.com"),
        ({}, set(), None),
        ({}, {"partner.example"}, None),
        ({}, {"sub.example.com"}, None),
        ({"email": "alice@sub.example.com"}, {"example.com"}, None),
        ({"email": "alice@notexample.com"}, {"example.com"}, None),
        ({"email_verified": False}, None, None),
        ({"email_verified": False}, {"example.com"}, None),
        ({"email": "a@evil.test@example.com"}, {"example.com"}, None),
        ({"email": ""}, None, None),
    ],
    ids=str,
)
def test_s61_an_address_counts_only_from_an_authority_for_its_domain(changes, domains, address):
    assert replace(ALICE, **changes).trusted_email(domains) == address
