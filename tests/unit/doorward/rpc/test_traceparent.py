"""`traceparent` in header blocks: whatever stands in it, a block means what it means when it is read alone."""

from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import given
from hypothesis import strategies as st
from tests.support.grpc_wire import BLOCK, GREETING, Server, call

from doorward.rpc import http2_frames as frames
from doorward.rpc.grpc_methods import Methods
from doorward.rpc.http2_frames import CallHeaders, ConnectionFault, HeaderReader, StreamFault
from doorward.rpc.traceparent import is_unsampled, text_of

HUFFMAN = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
NAME = HUFFMAN.encode(b"traceparent")
FLAGS = st.sampled_from(["00", "01", "02", "03", "10", "ff"])


def string(text: bytes, *, huffman: bool = True) -> bytes:
    body = HUFFMAN.encode(text) if huffman else text
    return bytes([len(body) | (0x80 if huffman else 0)]) + body


def with_traceparent(value: str, *, huffman: bool = True, after: bytes = b"") -> bytes:
    return BLOCK + b"\0" + string(b"traceparent") + string(value.encode(), huffman=huffman) + after


def reader(known: dict[bytes, CallHeaders]) -> HeaderReader:
    """One whose peer keeps no table."""
    found = HeaderReader(known)
    found.acknowledged()
    found.decode(b"\x20" + BLOCK)
    return found


@st.composite
def traceparents(draw: st.DrawFn) -> tuple[str, str]:
    digits = st.text("0123456789abcdef", min_size=48, max_size=48)
    text, flags = draw(digits), draw(FLAGS)
    return f"00-{text[:32]}-{text[32:]}-{flags}", flags


@given(traceparents(), st.booleans())
def test_the_end_says_whether_it_is_sampled(value: tuple[str, str], huffman: bool):
    text, flags = value
    coded = string(text.encode(), huffman=huffman)
    assert is_unsampled(coded) is (flags == "00")
    assert text_of(coded) == text


@given(st.binary(max_size=60))
def test_noise_is_no_error(noise: bytes):
    is_unsampled(noise)
    text_of(noise)


def test_nothing_is_neither_sampled_nor_unsampled():
    assert not is_unsampled(b"")
    assert text_of(b"") is None


@given(st.lists(st.tuples(traceparents(), st.booleans()), min_size=2, max_size=4))
def test_blocks_that_differ_in_it_alone_are_remembered_once(values: list[tuple[tuple[str, str], bool]]):
    known: dict[bytes, CallHeaders] = {}
    headers = reader(known)
    found = [headers.call(with_traceparent(text, huffman=huffman)) for (text, _), huffman in values]
    assert [text_of(item.traceparent) for item in found] == [text for (text, _), _ in values]
    assert {item.path for item in found} == {b"/a/Check"}
    assert len(known) == 1


_pieces = st.sampled_from(
    [
        b"\x88" + NAME,
        b"\0\x88" + NAME,
        b"\0\x88" + NAME + b"\x80",
        b"\0\x88" + NAME + string(b"00-x-00"),
        b"\0\x88" + NAME + string(b"00-y-01", huffman=False),
        b"\0\x01a" + string(b"\x88" + NAME + b"\x03abc\0\x01b\x01c", huffman=False),
        b"\0\x01a\x0b\x88" + NAME + b"\x01",
        b"\0\x01a\x0c\x88" + NAME + b"\x02",
        b"\0\x01b\x01c",
        b"\x01c",
        b"\x7f",
    ]
)


@given(st.lists(st.lists(_pieces, max_size=4).map(b"".join), min_size=1, max_size=6))
def test_what_is_remembered_is_what_would_be_read(tails: list[bytes]):
    """The name may stand in another header's value, twice, cut off, or with a length that runs past the end."""
    known: dict[bytes, CallHeaders] = {}

    def read(headers: HeaderReader, block: bytes) -> object:
        try:
            found = headers.call(block)
        except (ConnectionFault, StreamFault) as fault:
            return type(fault)
        return found.method, found.path, found.content_type, found.user_agent, text_of(found.traceparent)

    for tail in tails:
        # Each on a connection of its own: a fault ends one, and what is known is shared.
        assert read(reader(known), BLOCK + tail) == read(reader({}), BLOCK + tail)


async def test_a_method_that_wants_it_gets_it_and_others_are_called_as_ever():
    server = Server()
    told: list[tuple[bytes, str | None]] = []

    def joined(message: bytes, coded: bytes) -> bytes:
        told.append((message, text_of(coded)))
        return message

    methods = server.host.methods_for(server.wire)
    server.connection._methods = Methods(
        unary=methods.unary, streams={}, overloaded=methods.overloaded, joined={b"/a/Check": joined}
    )
    parent = with_traceparent("00-a-b-01")
    later = parent.replace(b"/a/Check", b"/a/Later")
    server.feed(GREETING + call(1) + call(3, b"m", block=parent) + call(5, block=later))
    assert (server.served, told) == ([b"abc"], [(b"m", "00-a-b-01")])
    server.waiting.set_result(b"")


def test_frames_are_those_of_the_standard():
    assert string(b"traceparent") == frames._TRACEPARENT
