"""Packed records say what the original said, and are as small as promised."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.api.session.v1.session_pb2 import Session as SessionMessage
from doorward.api.user.v1.user_pb2 import User as UserMessage
from doorward.identity.user import User
from doorward.records import packing
from doorward.records.packing import MessagePacker, Names
from doorward.records.record import RecordVersion

HEX = st.text("0123456789abcdef", min_size=32, max_size=32)
USERS = st.builds(
    UserMessage,
    id=HEX,
    issuer=st.text(max_size=20),
    subject=st.text(max_size=20),
    email=st.text(max_size=20),
    groups=st.lists(st.text(max_size=10), unique=True, max_size=300).map(sorted),
    groups_known=st.booleans(),
    active=st.booleans(),
)


def packer(table: Names | None = None) -> MessagePacker:
    return MessagePacker(UserMessage, table or Names(), names=("issuer",), sets=("groups",))


@given(st.lists(USERS, min_size=1, max_size=4))
def test_what_is_packed_says_the_same(users: list[UserMessage]):
    shared = packer()
    packed = [shared.pack(user.id, user.SerializeToString()) for user in users]
    for user, small in zip(users, packed, strict=True):
        assert small is not None
        assert UserMessage.FromString(shared.unpack(user.id, small)) == user


@given(
    HEX, st.binary(max_size=100), st.floats(0, 1e11) | st.none(), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
)
def test_any_payload_survives(record_id: str, payload: bytes, end: float | None, epoch: int, number: int):
    shared = packer()
    version = RecordVersion(epoch, number)
    as_it_came = packing.pack(version, payload, end)
    assert packing.payload_in(record_id, as_it_came, shared) == payload
    packed = packing.smaller(record_id, as_it_came, shared)
    assert packing.smaller(record_id, packed, shared) == packed
    assert packing.version_in(packed) == version
    assert packing.end_of(packed) == end
    assert not packing.is_tombstone(packed)
    back = packing.payload_in(record_id, packed, shared)
    assert back == payload or UserMessage.FromString(back) == UserMessage.FromString(payload)


def test_unknown_fields_survive():
    later = UserMessage(id="0" * 32, groups=["a"]).SerializeToString() + b"\xfa\x07\x03new"
    shared = packer()
    small = shared.pack("0" * 32, later)
    assert small is not None
    assert b"new" in shared.unpack("0" * 32, small)


@pytest.mark.parametrize("payload", [b"\xff", UserMessage(id="another").SerializeToString(), b""])
def test_what_is_not_as_expected_stays_as_it_is(payload: bytes):
    assert packer().pack("0" * 32, payload) is None


def test_an_id_that_is_not_hexadecimal_keeps_a_message_as_it_is():
    sessions = MessagePacker(SessionMessage, Names(), ids=("user_id",))
    message = SessionMessage(id="s", user_id="U" * 32).SerializeToString()
    assert sessions.pack("s", message) is None


@given(st.text(max_size=40) | HEX | HEX.map(str.upper) | HEX.map(lambda text: f"0x{text[2:]}"))
def test_keys_are_as_different_as_ids(record_id: str):
    assert packing.id_of(packing.key_of(record_id)) == record_id


def test_fifty_groups_fit_in_little_space():
    rnd, shared = random.Random(1), packer()
    groups = [f"team-{number:04}-engineering" for number in range(2_000)]
    for group in groups:
        shared._table.number(group)
    user = User(
        id="a" * 32,
        issuer="https://idp.example.com",
        subject="subject-00000001",
        email="user1@example.com",
        email_verified=True,
        name="User Number 1",
        groups=frozenset(rnd.sample(groups, 50)),
    ).to_bytes()
    assert len(user) > 1_000
    assert len(packing.smaller("a" * 32, packing.pack(RecordVersion(1, 1), user, None), shared)) < 150
