"""CheckRequests taken apart: what is read equals what Envoy's own message says, whatever is remembered."""

from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from doorward.envoy_api.envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from doorward.identity.cookies import parse_cookies
from doorward_authorize.check_request import CheckedRequest, CheckParser

NAMES = st.sampled_from(
    ["cookie", "Cookie", "accept", "Accept", "x-team", ":path", "x-request-id", "origin"]
) | st.text(max_size=8)
HEADERS = st.lists(st.tuples(NAMES, st.binary(max_size=30), st.booleans()), max_size=8)
CONTEXT = st.dictionaries(st.sampled_from(["route", "digest", "host", "other"]), st.text(max_size=8))


def message_of(
    method: str, path: str, headers: list[tuple[str, bytes, bool]], context: dict[str, str], noise: str
) -> CheckRequest:
    message = CheckRequest()
    http = message.attributes.request.http
    http.method, http.path, http.id, http.body = method, path, noise, noise
    message.attributes.source.principal = noise
    message.attributes.request.time.seconds = 5
    for name, value, raw in headers:
        header = http.header_map.headers.add(key=name)
        if raw:
            header.raw_value = value
        else:
            header.value = value.decode("latin-1")
    message.attributes.context_extensions.update(context)
    return message


def plainly(message: CheckRequest) -> dict[str, Any]:
    """The obvious reading, through the whole message."""
    http, context = message.attributes.request.http, message.attributes.context_extensions
    headers: dict[str, tuple[str, ...]] = {}
    lines = []
    for header in http.header_map.headers:
        raw = header.raw_value or header.value.encode()
        name = header.key.lower()
        headers[name] = (*headers.get(name, ()), raw.decode("latin-1"))
        if name == "cookie":
            lines.append(raw)
    path, _, query = http.path.partition("?")
    return {
        "route_id": context.get("route", ""),
        "digest": context.get("digest", ""),
        "host": context.get("host", ""),
        "method": http.method,
        "path": path,
        "query": query,
        "headers": headers,
        "cookies": tuple(parse_cookies(lines)),
        "request_id": headers.get("x-request-id", ("",))[0],
    }


def fields(request: CheckedRequest) -> dict[str, Any]:
    names = ("route_id", "digest", "host", "method", "path", "query", "headers", "cookies", "request_id")
    return {name: getattr(request, name) for name in names}


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.text(max_size=6), st.text(max_size=20), HEADERS, CONTEXT, st.text(max_size=5)), max_size=6)
)
def test_s34_one_parser_reads_every_request_as_a_new_one_would(
    requests: list[tuple[str, str, list[tuple[str, bytes, bool]], dict[str, str], str]],
):
    """What is remembered of one request must not show in another; names fold, values keep their bytes and their number."""
    parser = CheckParser()
    for parts in requests + requests:
        message = message_of(*parts)
        data = message.SerializeToString()
        assert fields(parser.parse(data)) == plainly(message)


def test_entries_without_end_are_not_kept():
    parser = CheckParser()
    for number in range(30_000):
        headers = [("user-agent", b"%d" % number, True), ("cookie", b"a=%d" % number, True)]
        parser.parse(message_of("GET", "/", headers, {"route": str(number)}, "").SerializeToString())
    parser.parse(message_of("GET", "/", [("cookie", b"a" * 5_000, True)], {}, "").SerializeToString())
    assert max(len(parser._headers), len(parser._cookies), len(parser._contexts)) <= 8_192
    assert all(len(entry) <= 2_048 for entry in parser._headers)


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/x?y", "/x", "y"),
        ("/x?", "/x", ""),
        ("/x#y", "/x#y", ""),
        ("*", "*", ""),
        ("", "", ""),
        ("http://app/x?y?z", "http://app/x", "y?z"),
        ("//admin/x", "//admin/x", ""),
        ("?a", "", "a"),
    ],
)
def test_s12_the_path_is_never_taken_for_an_address(target: str, path: str, query: str):
    request = CheckParser().parse(message_of("GET", target, [], {}, "").SerializeToString())
    assert (request.path, request.query) == (path, query)


@pytest.mark.parametrize("data", [b"\x0a", b"\xff\xff", b"\x0a\x05\x22\x03\x12\x01\x6a"])
def test_bytes_that_are_no_check_request_raise(data: bytes):
    with pytest.raises(DecodeError):
        CheckParser().parse(data)


def test_a_spoiled_header_raises_every_time():
    """Also after a good one, and also the second time: a failure is never remembered as something else."""
    entry = b"\x0a\xff"
    good = message_of("GET", "/", [("a", b"b", True)], {}, "").SerializeToString()
    http = b"\x6a" + bytes([len(entry) + 2]) + b"\x0a" + bytes([len(entry)]) + entry
    request = b"\x12" + bytes([len(http)]) + http
    bad = b"\x0a" + bytes([len(request) + 2]) + b"\x22" + bytes([len(request)]) + request
    parser = CheckParser()
    parser.parse(good)
    for _ in range(2):
        with pytest.raises(DecodeError):
            parser.parse(bad)
