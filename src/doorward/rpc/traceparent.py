"""The `traceparent` of a call (W3C Trace Context), read out of what HTTP/2 made of it."""

from hpack.exceptions import HPACKError
from hpack.huffman_table import decode_huffman

_HUFFMAN = 0x80
_ZEROS = 11


def is_unsampled(coded: bytes) -> bool:
    """Whether ``coded`` (``CallHeaders.traceparent``) ends with `-00`: nearly always so, and seen without decoding the rest.

    In Huffman's code (RFC 7541, appendix B) `-` ends with one zero, `0` is five, and ones fill the last octet up. No other flags leave
    so many zeros in the end.
    """
    if not coded or not coded[0] & _HUFFMAN:
        return coded.endswith(b"-00")
    tail = int.from_bytes(coded[-3:], "big")
    tail >>= _lowest(tail + 1)
    return _lowest(tail) >= _ZEROS


def text_of(coded: bytes) -> str | None:
    """The text of ``coded``; ``None`` when there is none."""
    if not coded:
        return None
    value = coded[1:]
    if coded[0] & _HUFFMAN:
        try:
            value = decode_huffman(value)
        except (HPACKError, ValueError, IndexError):
            return None
    return value.decode("latin-1")


def _lowest(number: int) -> int:
    """How many zeros ``number`` ends with."""
    return (number & -number).bit_length() - 1
