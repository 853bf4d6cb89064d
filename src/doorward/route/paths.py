"""Paths that another server may read differently than we do.

Envoy has normalised a path before anybody here sees it. What is left can still mean one thing to us and another to an
upstream: path parameters, another round of decoding, a backslash. Such paths are refused before policy, because a
policy cannot protect a path that it reads differently from the one that is served.
"""

import re
import urllib.parse

_CONTROL = re.compile(r"%(?:[01][0-9a-fA-F]|7[fF])")
_DOTS = frozenset({".", ".."})
_ENDS_A_PATH = frozenset("\\#?")
"""Where some readers see the end of a path, or of a segment; with a query in it, what is compared is not what is served."""
_MALFORMED = re.compile(r"%(?![0-9a-fA-F]{2})")
_NEEDLESS = re.compile(r"%(?:2[dDeE]|3[0-9]|[46][1-9a-fA-F]|[57][0-9aA]|5[fF]|7[eE])")
"""Encodings of what needs none anywhere (RFC 3986, section 2.3). Envoy decodes them."""
_ENCODED_BY_ENVOY = frozenset('"<>^`{|}')
_OVERLONG = re.compile(r"%(?:c[01]|e0%[89]|f0%8)")
"""Encodings longer than a character needs (RFC 3629, section 3): ``%c0%af`` is a slash to a careless decoder."""

LIMIT_BYTES = 8_192
"""Of a path that must be looked at more closely: nobody else may wait for what a client writes. Many servers take no longer ones at all."""
_PLAIN = re.compile(r"(?:/(?!\.)[A-Za-z0-9._~!$&'()*+,=:@-]+)+/?\Z|/\Z", re.ASCII)
"""Nearly every path: no encoding, no parameters, no empty segment, none that begins with a dot. Nothing in it is read in two ways."""


def ambiguity(path: str, *, allow_parameters: bool = False) -> str | None:
    """Why ``path`` (no query) must be refused, as a short reason; ``None`` when everybody reads it alike.

    ``allow_parameters`` is for routes that say ``path_parameters: allow``; only ``;`` itself is excused.
    """
    if _PLAIN.match(path):
        return None
    if len(path) > LIMIT_BYTES:
        return "path-too-long"
    if not path.startswith("/"):
        return "path-not-absolute"
    if any(not "!" <= character <= "~" for character in path) or not _ENDS_A_PATH.isdisjoint(path):
        return "path-characters"
    lowered = path.lower()
    if not allow_parameters and (";" in path or "%3b" in lowered):
        return "path-parameters"
    if "%5c" in lowered or "%2f" in lowered or _CONTROL.search(path):
        return "path-encoded-separator"
    if "//" in path:
        return "path-empty-segment"
    if _MALFORMED.search(path):
        return "path-encoding"
    decoded, needless = path, False
    for _ in range(3):
        if _OVERLONG.search(decoded.lower()):
            return "path-encoding"
        # `/public/..;/admin` and `%2e%2e` in any number of layers: cut at the parameter, decode, look again.
        if any(segment.split(";", 1)[0] in _DOTS for segment in re.split(r"[/\\]", decoded)):
            return "path-dot-segment"
        further = urllib.parse.unquote(decoded, errors="surrogateescape")
        if further == decoded:
            # `/%2561dmin` is another path only for whoever decodes twice, and nobody writes it but for them.
            return "path-encoding" if needless else None
        if any(ord(character) < 0x20 or ord(character) == 0x7F or character == "\\" for character in further):
            return "path-encoded-separator"
        if further.count("/") != decoded.count("/") or (not allow_parameters and ";" in further):
            return "path-encoded-separator"
        decoded, needless = further, needless or _NEEDLESS.search(further) is not None
    # Still changing after two more rounds: nobody honest encodes three times.
    return "path-encoding"


def unmatchable(path: str) -> str | None:
    """How a route's ``path`` must be written instead for a request to be found by it; ``None`` when it is right.

    Envoy compares byte by byte, after it has decoded what needs no encoding and encoded what no path may hold.
    """
    plain = _NEEDLESS.sub(lambda found: chr(int(found[0][1:], 16)), path)
    right = "".join(f"%{ord(each):02X}" if each in _ENCODED_BY_ENVOY else each for each in plain)
    return None if right == path else right


def decoded_path(path: str) -> str | None:
    """``path`` percent-decoded once as UTF-8, or ``None`` when it is no UTF-8."""
    if "%" not in path:
        return path
    try:
        return urllib.parse.unquote(path, errors="strict")
    except UnicodeDecodeError:
        return None
