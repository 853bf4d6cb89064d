import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.route.paths import LIMIT_BYTES, ambiguity, decoded_path, unmatchable

PIECES = st.lists(
    st.sampled_from(
        ["/", ".", "..", ";", "%2e", "%2E", "%252e", "%2f", "%252f", "%5c", "%255c", "%3b", "%253b", "%25", "%00",
         "%0a", "%c0%ae", "%e9", "a", "public", "admin", "\\", "#", "?", "=", "~", "é", " ", "%zz", "%"]
    ),
    max_size=8,
).map(lambda pieces: "/" + "".join(pieces))  # fmt: skip


@pytest.mark.parametrize(
    "path",
    ["/", "/a", "/a/b/", "/a.b", "/a/...", "/.well-known/x", "/a/.b", "/%20", "/%E4%BD%A0", "/a%25b", "/a=b&c", "/~a",
     "/@a:b", "/%e9t%e9", "/a%2Bb", "/'(x)'", "/100%25"],
)  # fmt: skip
def test_paths_that_everybody_reads_alike_pass(path):
    assert ambiguity(path) is None


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "path-not-absolute"), ("*", "path-not-absolute"), ("a", "path-not-absolute"),
        ("https://x/", "path-not-absolute"), ("\\a", "path-not-absolute"),
        # S13: a second slash is another authority to some, an empty segment to others
        ("//a", "path-empty-segment"), ("///", "path-empty-segment"), ("/a//b", "path-empty-segment"),
        ("/.//a", "path-empty-segment"), ("/\\a", "path-characters"), ("/a\\..\\b", "path-characters"),
        # S14: dot segments, plain and encoded in any number of layers
        ("/..", "path-dot-segment"), ("/.", "path-dot-segment"), ("/a/../b", "path-dot-segment"),
        ("/a/%2e%2e/b", "path-dot-segment"), ("/a/%2E./b", "path-dot-segment"), ("/a/%252e%252e/b", "path-dot-segment"),
        ("/a/%25252e%25252e/b", "path-encoding"), ("/a/.%2e", "path-dot-segment"),
        # S15: separators and control bytes under an encoding
        ("/a%2fb", "path-encoded-separator"), ("/a%2Fb", "path-encoded-separator"),
        ("/a%5cb", "path-encoded-separator"), ("/a%5Cb", "path-encoded-separator"),
        ("/a%252fb", "path-encoded-separator"), ("/a%255cb", "path-encoded-separator"),
        ("/a%00", "path-encoded-separator"), ("/a%0a", "path-encoded-separator"), ("/a%7f", "path-encoded-separator"),
        ("/a%2500", "path-encoded-separator"), ("/a%250d", "path-encoded-separator"),
        ("/a%c0%af", "path-encoding"), ("/%C0%AE%C0%AE/b", "path-encoding"), ("/%e0%80%af", "path-encoding"),
        ("/%f0%80%80%af", "path-encoding"), ("/%25c0%25af", "path-encoding"),
        ("/a%", "path-encoding"), ("/a%2", "path-encoding"), ("/%u002e%u002e/", "path-encoding"),
        ("/%2\u0665", "path-characters"),
        # what needs no encoding, under two: only whoever decodes twice reads it as something else
        ("/%2561dmin", "path-encoding"), ("/a%252Db", "path-encoding"), ("/a%255Fb", "path-encoding"), ("/a%257eb", "path-encoding"),
        # path parameters
        ("/a;b", "path-parameters"), ("/a/..;/b", "path-parameters"), ("/a%3bb", "path-parameters"),
        ("/a%3Bb", "path-parameters"), ("/a%253bb", "path-encoded-separator"),
        # S16, S18: what a client library would never send
        ("/a#b", "path-characters"), ("/a?b", "path-characters"), ("/a?", "path-characters"), ("/a b", "path-characters"), ("/a\tb", "path-characters"),
        ("/a\0", "path-characters"), ("/é", "path-characters"), ("/\x7f", "path-characters"),
    ],
    ids=repr,
)  # fmt: skip
def test_s15_paths_that_another_server_may_read_differently_are_refused(path, reason):
    assert ambiguity(path) == reason


def test_a_long_path_is_read_closely_only_up_to_a_limit():
    encoded = "/%40"
    assert ambiguity(encoded.ljust(LIMIT_BYTES, "a")) is None
    assert ambiguity(encoded.ljust(LIMIT_BYTES + 1, "a")) == "path-too-long"
    assert ambiguity("/".ljust(8 * LIMIT_BYTES, "a")) is None, "nothing in it is read closely"


@pytest.mark.parametrize("path", ["/a;b", "/a;b=c/d", "/a%3bb", "/;", "/a;v=1.2/b"])
def test_a_route_may_allow_parameters(path):
    assert ambiguity(path, allow_parameters=True) is None


@pytest.mark.parametrize(
    "path", ["/a/..;/b", "/..;x", "/.;/", "/a/..%3b/b", "/%2e%2e;/b", "/%2e%2e%3b/b", "/a/%252e%252e;/b", "/a;%2fb"]
)
def test_s14_parameters_hide_no_dot_segment_even_where_they_are_allowed(path):
    assert ambiguity(path, allow_parameters=True) is not None


def readings(path):
    """How servers of every habit may read ``path``: up to three decodings, with and without parameters."""
    texts, text = {path}, path
    for _ in range(3):
        text = urllib.parse.unquote(text, errors="surrogateescape")
        texts.add(text)
    texts |= {"/".join(segment.split(";", 1)[0] for segment in text.split("/")) for text in set(texts)}
    return texts


@given(PIECES, st.booleans())
def test_s14_no_reading_of_an_accepted_path_leaves_its_folder(path, allow_parameters):
    """What policy saw is what the upstream sees, however often that decodes."""
    if ambiguity(path, allow_parameters=allow_parameters) is not None:
        return

    for text in readings(path):
        segments = text[1:].split("/")
        assert not {".", ".."} & set(segments), text
        assert "\\" not in text
        assert text.count("/") == path.count("/")
        assert not any(ord(character) < 0x20 or ord(character) == 0x7F for character in text)


@given(PIECES)
def test_allowing_parameters_excuses_nothing_else(path):
    """Wherever no semicolon can appear, the two answers agree."""
    if not any(";" in text for text in readings(path)):
        assert ambiguity(path) == ambiguity(path, allow_parameters=True)


@given(st.text(max_size=40))
def test_any_text_gets_an_answer(path):
    reason = ambiguity(path)

    assert reason is None or reason.startswith("path-")
    if not path.startswith("/") or not path.isascii():
        assert reason is not None


def test_a_path_is_decoded_once():
    assert decoded_path("/a%20b%252e") == "/a b%2e"
    assert decoded_path("/%e4%bd%a0") == "/\u4f60"


@pytest.mark.parametrize(
    ("path", "right"),
    [("/%61dmin", "/admin"), ("/a%2Db%5f%7E", "/a-b_~"), ("/a|b", "/a%7Cb"), ('/"<>^`{}', "/%22%3C%3E%5E%60%7B%7D")],
)
def test_a_match_that_no_request_is_found_by_has_another_spelling(path, right):
    assert unmatchable(path) == right
    assert unmatchable(right) is None


@pytest.mark.parametrize(
    "path", ["/", "/a-b_~.c", "/@a:b!$&'()*+,=", "/caf%C3%A9", "/caf%c3%a9", "/a%40b", "/a%20b", "/100%25"]
)
def test_other_matches_are_written_as_requests_are(path):
    assert unmatchable(path) is None


@pytest.mark.parametrize("path", ["/%ff", "/%e9", "/%ed%a0%80", "/%c3"])
def test_a_path_that_is_no_utf_8_has_no_decoded_form(path):
    assert decoded_path(path) is None
