"""The path that policy saw is the path that the upstream got, or the request was refused."""

import posixpath
import urllib.parse

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.echo import EchoServer
from tests.support.raw_http import request_bytes, status_of
from tests.support.site import Site

pytestmark = pytest.mark.e2e


def get(made: Site, name: str, target: str, *lines: str) -> int:
    """The status of ``GET target``, sent byte for byte."""
    return status_of(made.raw(name, request_bytes(target, made.host(name), *lines)))


def readings(target: str) -> set[str]:
    """Every path that some server behind us might take ``target`` for."""
    found, text = set(), target.partition("?")[0]
    for _ in range(4):
        for path in (text, text.replace("\\", "/"), "/".join(part.split(";", 1)[0] for part in text.split("/"))):
            found.add("/" + posixpath.normpath(path).lstrip("/"))
        text = urllib.parse.unquote(text, errors="replace")
    return found


@pytest.mark.parametrize(
    "target",
    [
        "/admin", "/admin/", "/admin/x", "//admin", "///admin", "/./admin", "/x/../admin", "/x/%2e%2e/admin",
        "/x/%2E%2e/admin/y", "/admin/../admin", "/.//admin", "/\\admin", "/x\\..\\admin", "/%61dmin", "/adm%69n/x",
        "/admin%2f", "/admin;x=1", "/;x/admin", "/admin#", "/admin%23", "/admin%00", "/admin%20/..", "/admin?/exact",
        "/admin/..;/exact", "/%2e/admin", "/a%2f..%2fadmin", "/%5cadmin", "/admin%3b",
        "/@team", "/%40team", "/%40te%61m/x", "/x/../%40team", "//%40team", "/%2540team", "/@te%2561m", "/%2561dmin",
    ],
)  # fmt: skip
def test_s11_the_route_is_envoys_choice_and_the_broader_one_never_catches_it(
    open_site: Site, echo: EchoServer, target: str
):
    """`/admin` and `/@team` are for a group, everything else on the host for everyone."""
    status = get(open_site, "paths", target)
    if status == 200:
        (seen,) = echo.seen
        for path in readings(str(seen["target"])):
            assert not any(path == closed or path.startswith(f"{closed}/") for closed in ("/admin", "/@team")), seen
    else:
        assert status in {400, 401}
        assert echo.seen == []


def test_s11_each_of_two_overlapping_routes_is_decided_by_its_own_policy(open_site: Site, echo: EchoServer):
    wanted = {"/admin": 401, "/admin/x": 401, "/administrator": 200, "/exact": 401, "/exact/x": 200, "/": 200}
    assert {target: get(open_site, "paths", target) for target in wanted} == wanted
    assert [seen["target"] for seen in echo.seen] == ["/administrator", "/exact/x", "/"]


@pytest.mark.parametrize(
    ("target", "reads"),
    [
        ("//x", "/x"), ("///x//y", "/x/y"), ("/.//x", "/x"), ("/a//b", "/a/b"), ("/a\\b", "/a/b"), ("/\\x", "/x"),
        ("//open.localhost/x", "/open.localhost/x"), ("//a@b:1/x", "/a@b:1/x"),
    ],
)  # fmt: skip
def test_s13_no_path_is_taken_for_an_authority(open_site: Site, echo: EchoServer, target: str, reads: str):
    assert get(open_site, "open", target) == 200
    assert echo.seen[0]["target"] == reads


S14 = [
    "/public/../private", "/public/%2e%2e/private", "/public/%2E%2E/private", "/public/.%2e/private",
    "/public/%2e./private", "/public/..%2fprivate", "/public/%2e%2e%2fprivate", "/public/..%5cprivate",
    "/public/..\\private", "/public/..;/private", "/public/..;x=y/private", "/public/%252e%252e/private",
    "/public/%25252e%25252e/private", "/public/..%00/private", "/public/.../private/../../private",
    "/public/x/../../private", "/public/x/%2e%2e/%2e%2e/private", "/public/./secret", "/public/x/../secret",
    "/public//secret", "/public/%2e/secret", "/public/%73ecret", "/public/se%63ret", "/public/secret%2f..%2fx",
    "/private/../public/secret", "/public/;/secret", "/public/%2fsecret", "/./public/../public/secret/",
]  # fmt: skip


@pytest.mark.parametrize("target", S14)
def test_s14_dot_segments_get_past_neither_an_allow_nor_a_deny_by_prefix(
    open_site: Site, echo: EchoServer, target: str
):
    status = get(open_site, "rules", target)
    if status == 200:
        for path in readings(str(echo.seen[0]["target"])):
            assert path.startswith("/public/"), echo.seen
            assert not path.startswith("/public/secret"), echo.seen
    else:
        assert status in {400, 403}
        assert echo.seen == []


@pytest.mark.parametrize(
    "target",
    [
        "/a%2fb", "/a%2Fb", "/a%5cb", "/a%5Cb", "/a%252fb", "/a%252Fb", "/a%255cb", "/%c0%af", "/%C0%AF", "/a%00",
        "/a%0a", "/a%0A", "/a%0d%0ax", "/a%7f", "/a;b", "/a%3bb", "/a%3Bb", "/a;param=1/b", "/a%", "/a%2", "/a%zz",
    ],
)  # fmt: skip
def test_s15_encodings_that_servers_disagree_on_are_refused_in_either_case(
    open_site: Site, echo: EchoServer, target: str
):
    for host in ("open", "closed", "rules"):
        assert get(open_site, host, target) == 400
    assert echo.seen == []


@pytest.mark.parametrize("target", ["/pub#/../admin", "/public/x#", "/public/#/../../private", "/#", "/a?b#c"])
def test_s16_a_fragment_is_never_part_of_a_request(open_site: Site, echo: EchoServer, target: str):
    for host in ("open", "rules"):
        assert get(open_site, host, target) == 400
    assert echo.seen == []


PIECES = [
    "/", "//", ".", "..", "public", "secret", "private", "%2e", "%2E", "%2f", "%5c", "\\", ";", "%3b", "#", "?", "%25",
    "%252e", "%00", "%73", "a", "@", ":", "*", "%c0%af", "~", "%7e", "%20", "+",
]  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=9))
def test_whatever_passes_reads_for_the_upstream_as_it_read_for_policy(
    open_site: Site, echo: EchoServer, pieces: list[str]
):
    """The policy of `rules` names what may pass, so a 200 says how policy read the path; the upstream says how it did."""
    echo.seen.clear()
    target = "/public/" + "".join(pieces)
    status = get(open_site, "rules", target)
    assert status in {200, 400, 403}
    if status != 200:
        assert echo.seen == []
        return
    path = str(echo.seen[0]["target"]).partition("?")[0]
    assert all(reading == "/public" or reading.startswith("/public/") for reading in readings(path)), path
    assert not any(reading.startswith("/public/secret") for reading in readings(path)), path


NAMES = [
    "/", "//", "@team", "%40team", "%2540team", "@te", "am", "%61", "%41", "%2561", "m", "admin", "adm", "in", "exact", "x", "..", ".", "%2e",
    "%40", "@", "%", "+", "%2B",
]  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.sampled_from(NAMES), max_size=6))
def test_s11_however_a_path_is_written_the_broader_route_gets_none_that_reads_as_a_narrower_ones(
    open_site: Site, echo: EchoServer, pieces: list[str]
):
    echo.seen.clear()
    status = get(open_site, "paths", "/" + "".join(pieces))
    assert status in {200, 400, 401}
    if status != 200:
        assert echo.seen == []
        return
    for path in readings(str(echo.seen[0]["target"])):
        assert path != "/exact"
        assert not any(path == closed or path.startswith(f"{closed}/") for closed in ("/admin", "/@team")), path
