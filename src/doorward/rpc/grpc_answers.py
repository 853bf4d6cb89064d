"""Answers of gRPC over HTTP/2 as bytes: made beforehand where they can be."""

import struct
from urllib.parse import quote

from doorward.rpc import http2_frames as h2

PREFIX_BYTES = 5
_TEXT_LIMIT = 1_000

_STATUS_200 = b"\x88"
_CONTENT_TYPE = h2.header_block([(b"content-type", b"application/grpc")])
OPENING = _STATUS_200 + _CONTENT_TYPE
TRAILERS = {code: h2.header_block([(b"grpc-status", b"%d" % code)]) for code in range(17)}
UNSUPPORTED_MEDIA = h2.header_block([(b":status", b"415")])
HEAD = h2.frame(h2.HEADERS, h2.END_HEADERS, 0, OPENING)[:5]
TAIL = h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, 0, TRAILERS[0])[:5]
# A whole answer but the message: opening headers, the frame and message prefixes of the data, then the trailers.
ANSWER_HEAD = struct.Struct(f">5sI{len(OPENING)}sBHBBIBI")
MESSAGE_HEAD = struct.Struct(">BHBBIBI")
ANSWER_TAIL = struct.Struct(f">5sI{len(TRAILERS[0])}s")

_PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


def trailers(status: int, text: str = "") -> bytes:
    """The block that ends a call. ``text`` is for people; what does not fit into a header is percent-encoded."""
    if not text:
        return TRAILERS[status]
    encoded = quote(text[:_TEXT_LIMIT], safe=_PLAIN).encode()
    return TRAILERS[status] + h2.header_block([(b"grpc-message", encoded)])
