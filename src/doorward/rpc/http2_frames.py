"""HTTP/2 on the wire (RFC 9113) as far as a gRPC server needs it: frame layout, error codes, header blocks.

Pure functions and one reader of header blocks; nothing here does input or output.
"""

import dataclasses
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from hpack import Decoder
from hpack.exceptions import HPACKError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME = struct.Struct(">BHBBI")
"""Length (in two parts), type, flags, stream."""
FRAME_BYTES = 9
FRAME_LIMIT = 16_384
"""The most that a peer may put into one frame (SETTINGS_MAX_FRAME_SIZE, left at its default)."""
WINDOW_LIMIT = 2**31 - 1

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
ACK = END_STREAM = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

NO_ERROR, PROTOCOL_ERROR, _, FLOW_CONTROL_ERROR, _, STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL = range(9)
COMPRESSION_ERROR = 9
ENHANCE_YOUR_CALM = 11

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST = range(
    1, 7
)

BLOCK_LIMIT = 16 * 1024
"""Bytes of a header block, and of the headers in it; twice what gRPC expects of metadata."""
_TABLE_UPDATES = 2
"""At the beginning of a block (RFC 7541, section 4.2); each costs, and one byte is enough for it."""
_KNOWN_LIMIT = 256
_TRACEPARENT = b"\x88M\x83!k\x1d\x85\xa9?"
"""The name `traceparent` as Envoy writes it, in Huffman's code."""
_SINGLE = frozenset({b":method", b":path", b":scheme", b":authority"})
_FORBIDDEN = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])\Z")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


class ConnectionFault(Exception):  # noqa: N818  # RFC 9113 calls it a connection error; it ends the connection
    """The peer broke the protocol in a way that ends the connection."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class StreamFault(Exception):  # noqa: N818  # RFC 9113 calls it a stream error
    """The peer broke the protocol in a way that ends one stream."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class CallHeaders:
    """What the headers of a call say."""

    method: bytes
    path: bytes
    content_type: bytes
    timeout_seconds: float | None
    """`grpc-timeout`; ``None`` when the caller waits for ever."""
    user_agent: bytes = b""
    traceparent: bytes = b""
    """As a string literal of a header block (RFC 7541, section 5.2): reading it costs more than a check may, so ``traceparent.py`` does
    that where it is wanted. Empty without one, or with several."""

    @property
    def is_grpc(self) -> bool:
        """Whether it is a gRPC call at all."""
        return self.method == b"POST" and (
            self.content_type == b"application/grpc"
            or self.content_type.startswith((b"application/grpc+", b"application/grpc;"))
        )


class HeaderReader:
    """Reads the header blocks of one connection.

    We ask the peer to keep no table of past headers. Once it has said that it does not, equal bytes mean equal headers, and
    blocks are remembered: Envoy's calls all carry the same one, or, when it traces, one that differs in its `traceparent`. Before
    that every block is decoded, because it may change the table that the next one refers to.
    """

    def __init__(self, known: dict[bytes, CallHeaders]) -> None:
        self._decoder = Decoder(max_header_list_size=BLOCK_LIMIT)
        self._known = known
        self._stateless = False

    def acknowledged(self) -> None:
        """The peer has accepted our settings, a table of size 0 among them."""
        self._decoder.max_allowed_table_size = 0

    def call(self, block: bytes) -> CallHeaders:
        """The headers that open a call.

        Raises:
            ConnectionFault: the block cannot be decoded, and no later one could.
            StreamFault: the headers are malformed (RFC 9113, section 8.1.1).
        """
        emptied, coded = block, b""
        if self._stateless:
            known = self._known.get(block)
            if known is not None:
                return known
            emptied, coded = _emptied(block)
            known = self._known.get(emptied) if coded else None
            if known is not None:
                return CallHeaders(
                    known.method, known.path, known.content_type, known.timeout_seconds, known.user_agent, coded
                )
        decoded = self.decode(block)
        headers = _call_headers(decoded)
        if self._stateless:
            if len(self._known) >= _KNOWN_LIMIT:
                self._known.clear()
            if coded and self._is_emptied(emptied, decoded):
                self._known[emptied] = dataclasses.replace(headers, traceparent=b"")
            else:
                self._known[block] = headers
        return headers

    def _is_emptied(self, emptied: bytes, decoded: list[tuple[bytes, bytes]]) -> bool:
        """Whether ``emptied`` says what ``decoded`` says but for the value of `traceparent`: its name may stand in another value."""
        expected = [(name, b"" if name == b"traceparent" else value) for name, value in decoded]
        try:
            return self.decode(emptied) == expected
        except ConnectionFault:
            return False

    def decode(self, block: bytes) -> list[tuple[bytes, bytes]]:
        """Names and values.

        Raises:
            ConnectionFault: the block cannot be decoded.
        """
        if _table_updates(block) > _TABLE_UPDATES:
            raise ConnectionFault(COMPRESSION_ERROR, "a header block changes the table's size again and again")
        try:
            headers = [(bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)]
        except (HPACKError, ValueError, IndexError, OverflowError) as error:
            raise ConnectionFault(COMPRESSION_ERROR, "a header block cannot be decoded") from error
        # INVARIANT: with no room in the table and no right to ask for any, no block can leave anything behind.
        self._stateless = self._decoder.max_allowed_table_size == 0 and self._decoder.header_table_size == 0
        return headers


def _emptied(block: bytes) -> tuple[bytes, bytes]:
    """``block`` with nothing for the value of its one `traceparent`, and that value; the block itself and nothing if it has none."""
    head, name, tail = block.partition(_TRACEPARENT)
    size = tail[0] & 0x7F if tail else 0
    if not 0 < size < min(len(tail), 0x7F) or _TRACEPARENT in tail:
        return block, b""
    return head + name + b"\x80" + tail[size + 1 :], tail[: size + 1]


def _table_updates(block: bytes) -> int:
    """How many updates of the table's size a block begins with, counted to one more than may be."""
    count = position = 0
    while count <= _TABLE_UPDATES and position < len(block) and block[position] & 0xE0 == 0x20:
        count += 1
        more = block[position] & 0x1F == 0x1F
        position += 1
        while more and position < len(block):
            more = block[position] >= 0x80
            position += 1
    return count


def _call_headers(headers: Iterable[tuple[bytes, bytes]]) -> CallHeaders:
    pseudo: dict[bytes, bytes] = {}
    plain = False
    content_type = b""
    timeout = None
    user_agent = b""
    traceparents: list[bytes] = []
    for name, value in headers:
        if name.startswith(b":"):
            if plain or name not in _SINGLE or name in pseudo:
                raise StreamFault(PROTOCOL_ERROR)
            pseudo[name] = value
            continue
        plain = True
        if not name or name != name.lower() or name in _FORBIDDEN or b"\n" in value or b"\r" in value or b"\0" in value:
            raise StreamFault(PROTOCOL_ERROR)
        if name == b"content-type":
            content_type = value
        elif name == b"user-agent":
            user_agent = value
        elif name == b"traceparent":
            traceparents.append(value)
        elif name == b"grpc-timeout":
            match = _TIMEOUT.match(value)
            if match is None:
                raise StreamFault(PROTOCOL_ERROR)
            timeout = int(match[1]) * _UNITS[match[2]]
    path = pseudo.get(b":path", b"")
    if b":method" not in pseudo or b":scheme" not in pseudo or not path.startswith(b"/"):
        raise StreamFault(PROTOCOL_ERROR)
    one = len(traceparents) == 1 and 0 < len(traceparents[0]) < 0x7F
    traceparent = _literal(traceparents[0]) if one else b""
    return CallHeaders(pseudo[b":method"], path, content_type, timeout, user_agent, traceparent)


def frame(kind: int, flags: int, stream: int, payload: bytes | memoryview = b"") -> bytes:
    """One frame."""
    length = len(payload)
    return FRAME.pack(length >> 16, length & 0xFFFF, kind, flags, stream) + payload


def header_block(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Headers as literals that enter no table (RFC 7541, section 6.2.2)."""
    return b"".join(b"\0" + _literal(name) + _literal(value) for name, value in headers)


def _literal(text: bytes) -> bytes:
    """A string that is not compressed (RFC 7541, sections 5.1 and 5.2)."""
    length = len(text)
    if length < 127:
        return bytes([length]) + text
    length -= 127
    prefix = bytearray([127])
    while length > 127:
        prefix.append(length & 127 | 128)
        length >>= 7
    prefix.append(length)
    return bytes(prefix) + text


def settings(values: dict[int, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", name, value) for name, value in values.items()))


def window_update(stream: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def reset(stream: int, code: int) -> bytes:
    """An RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def unpadded(flags: int, payload: bytes) -> bytes:
    """The payload of a DATA or HEADERS frame without its padding and priority.

    Raises:
        ConnectionFault: the padding is longer than what it pads.
    """
    start, stop = 0, len(payload)
    if flags & PADDED:
        if not payload:
            raise ConnectionFault(FRAME_SIZE_ERROR, "a padded frame without a pad length")
        start, stop = 1, stop - payload[0]
    if flags & WITH_PRIORITY:
        start += 5
    if start > stop:
        raise ConnectionFault(PROTOCOL_ERROR, "more padding than payload")
    return payload[start:stop]
