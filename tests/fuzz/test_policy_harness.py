"""The harness of the fuzzer, driven by Hypothesis: short here, long by hand with ``make fuzz``."""

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fuzz.policy_harness import EVERYTHING, TOKENS, policy_of_bytes, suite_of_bytes, values_of_bytes

from doorward.policy import print_policy

texts = (
    st.lists(st.sampled_from(TOKENS) | st.text(max_size=3), max_size=25)
    .map("".join)
    .map(lambda text: text.encode("utf-8", "surrogateescape"))
)
printed = print_policy(EVERYTHING).encode()


@settings(max_examples=300, deadline=None)
@given(texts | st.binary(max_size=200))
def test_any_text_is_refused_or_is_a_policy_for_every_consumer(data: bytes):
    policy_of_bytes(data)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(printed) - 1), st.integers(0, 20), st.sampled_from(TOKENS))
def test_a_real_policy_with_a_piece_exchanged(at: int, length: int, piece: str):
    policy_of_bytes(printed[:at] + piece.encode() + printed[at + length :])


@settings(max_examples=200, deadline=None)
@given(texts)
def test_any_test_file_is_refused_or_run(data: bytes):
    suite_of_bytes(data)
    suite_of_bytes(b"version: 1\npolicy: p\ntests: [{name: n, effect: deny, principal: {" + data + b"}}]")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=20) | texts, max_size=9).map(b"\x00".join))
def test_any_value_is_decided_and_both_engines_agree(data: bytes):
    values_of_bytes(data)
