"""CheckRequests under Hypothesis: short here, long by hand with ``make fuzz``."""

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fuzz.check_harness import NAMES, PATHS, ROUTES, check_of_bytes, request_of, request_of_bytes, world

from doorward.envoy_api.envoy.service.auth.v3.external_auth_pb2 import CheckResponse

CHOICES = st.binary(min_size=1, max_size=1).filter(lambda byte: byte != b"\x00")
WORDS = st.sampled_from(
    [text.encode() for text in (*ROUTES, *PATHS, *NAMES, "GET", "red", "blue", "websocket", "null")]
)
PIECES = CHOICES | WORDS | st.binary(max_size=12)
SPELLED = st.lists(PIECES, min_size=3, max_size=15).map(b"\x00".join)


@settings(max_examples=400, deadline=None)
@given(SPELLED)
def test_s19_no_request_gets_a_yes_that_policy_did_not_give(data: bytes):
    request_of_bytes(data)


@settings(max_examples=300, deadline=None)
@given(SPELLED, st.integers(0, 4_000), st.integers(0, 20), st.binary(max_size=8))
def test_s19_nor_does_one_with_bytes_exchanged(data: bytes, at: int, length: int, piece: bytes):
    whole = request_of(data).SerializeToString()
    at %= len(whole)
    check_of_bytes(whole[:at] + piece + whole[at + length :])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_s19_nor_do_any_bytes(data: bytes):
    check_of_bytes(data)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["app", "admin", "closed", "rules"]), st.sampled_from(["alice", "bob"]), st.data())
def test_s44_a_secret_with_one_character_exchanged_is_nobodys(route: str, name: str, data: st.DataObject):
    made = world()
    cookie = made.cookies[f"{name}@{route}.example.com"]
    at = data.draw(st.integers(len("__Host-doorward="), len(cookie) - 1))
    character = data.draw(st.sampled_from("Aa0_-"))
    request_of_bytes(
        b"\x00".join((route.encode(), b"GET", b"/", b"cookie", (cookie[:at] + character + cookie[at + 1 :]).encode()))
    )


def test_the_harness_does_get_a_yes():
    """Else it would hold whatever happens."""
    made = world()
    for route, secret in (("app", "alice@app.example.com"), ("admin", "alice@admin.example.com"), ("rules", None)):
        parts = [route.encode(), b"GET", b"/public/a"]
        if secret is not None:
            parts += [b"cookie", made.cookies[secret].encode()]
        data = request_of(b"\x00".join(parts)).SerializeToString()
        check_of_bytes(data)
        answer = made.checker.check(data)
        assert isinstance(answer, bytes)
        assert CheckResponse.FromString(answer).status.code == 0


def test_a_certificate_counts_though_something_is_spoiled_that_no_decision_reads():
    """Found by fuzzing: the oracle took nobody for connected then."""
    names = tuple(world().pieces())
    certificate = bytes([names.index("certificate")])
    whole = request_of(b"\x00".join((b"closed", b"GET", b"/", b"cookie", certificate)))
    destination = b"\x12\x12closed.example.com"  # of the connection; it should be a message
    data = whole.SerializeToString() + b"\x0a" + bytes([len(destination)]) + destination
    answer = world().checker.check(data)
    assert isinstance(answer, bytes)
    assert CheckResponse.FromString(answer).status.code == 0
    check_of_bytes(data)
