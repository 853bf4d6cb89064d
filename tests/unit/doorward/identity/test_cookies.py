import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.identity.cookies import (
    HEADER_LIMIT_BYTES,
    OUR_PREFIX,
    SESSION_COOKIE,
    SIGN_IN_COOKIE,
    parse_cookies,
    single_cookie,
    without_ours,
)
from doorward.keys.flow import COOKIE_PREFIX

LINES = st.lists(
    st.binary(max_size=60)
    | st.lists(
        st.sampled_from(
            [b"__Host-doorward", b"__host-DOORWARD-x", b"__Host-doorward-sso", b"=", b";", b" ", b"\t", b'"', b"a", b"\xe2\x80\x80"]
        ),
        max_size=12,
    ).map(b"".join),
    max_size=4,
)  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "cookies"),
    [
        ([b"a=1; b=2"], [(b"a", b"1"), (b"b", b"2")]),
        ([b"a=1", b"b=2"], [(b"a", b"1"), (b"b", b"2")]),
        ([b"a=1;b=2"], [(b"a", b"1"), (b"b", b"2")]),
        ([b" \ta \t= 1 ;"], [(b"a", b"1")]),
        ([b"a=b=c"], [(b"a", b"b=c")]),
        ([b"a="], [(b"a", b"")]),
        ([b"lonely"], [(b"", b"lonely")]),
        ([b"=x"], [(b"", b"x")]),
        ([b'a="1; b=2"'], [(b"a", b'"1'), (b"b", b'2"')]),
        ([b"$Version=1; a=1; $Path=/"], [(b"$Version", b"1"), (b"a", b"1"), (b"$Path", b"/")]),
        ([b"a=1, b=2"], [(b"a", b"1, b=2")]),
        ([b"", b";;", b" ; \t"], []),
        ([], []),
    ],
    ids=repr,
)
def test_cookies_are_what_stands_between_semicolons(lines, cookies):
    assert parse_cookies(lines) == cookies


@pytest.mark.parametrize(
    "space", ["\u2000", "\u00a0", "\u3000", "\u0085", "\u200b", "\ufeff", "\x0b", "\x0c", "\x1c", "\r", "\n"], ids=ascii
)
def test_s45_only_space_and_tab_are_trimmed(space):
    """A parser that strips more turns a cookie that a sibling host may set into one with our protected name."""
    line = f"{space}{SESSION_COOKIE}=tossed; {SESSION_COOKIE}{space}=tossed".encode()

    assert single_cookie(parse_cookies([line]), SESSION_COOKIE) is None


def test_s45_quoted_strings_hide_nothing():
    line = f'a="x; {SESSION_COOKIE}=real; b=y"'.encode()

    assert single_cookie(parse_cookies([line]), SESSION_COOKIE) == "real"
    assert without_ours(parse_cookies([line])) == b'a="x; b=y"'


@pytest.mark.parametrize(
    "lines",
    [
        [f"{SESSION_COOKIE}=one; {SESSION_COOKIE}=two".encode()],
        [f"{SESSION_COOKIE}=same; {SESSION_COOKIE}=same".encode()],
        [f"{SESSION_COOKIE}=one".encode(), f"{SESSION_COOKIE}=two".encode()],
        [f"{SESSION_COOKIE}=; {SESSION_COOKIE}=two".encode()],
        [f"{SESSION_COOKIE} =one; {SESSION_COOKIE}=two".encode()],
    ],
    ids=["two values", "same value", "two lines", "one empty", "spelled with space"],
)
def test_s46_two_cookies_of_our_name_count_as_none(lines):
    """With two candidates, one of them was put there by somebody else."""
    assert single_cookie(parse_cookies(lines), SESSION_COOKIE) is None


@pytest.mark.parametrize(
    "name", ["__host-doorward", "__HOST-DOORWARD", "__Host-Doorward", "__Host-doorward2", "Host-doorward", "doorward"]
)
def test_s46_a_name_that_only_resembles_ours_is_not_ours(name):
    """Browsers protect ``__Host-`` names; any other spelling can be set by a sibling host."""
    assert single_cookie(parse_cookies([f"{name}=x".encode()]), SESSION_COOKIE) is None


def test_s46_our_names_have_the_protected_prefix():
    for name in SESSION_COOKIE, SIGN_IN_COOKIE, COOKIE_PREFIX:
        assert name.startswith("__Host-")
        assert name.startswith(OUR_PREFIX)


def test_s44_a_value_that_is_not_ascii_is_absent():
    assert single_cookie(parse_cookies([f"{SESSION_COOKIE}=é".encode()]), SESSION_COOKIE) is None


def test_s44_oversize_lines_sign_nobody_in():
    line = f"{SESSION_COOKIE}=x; a=".encode()

    assert parse_cookies([line + b"b" * (HEADER_LIMIT_BYTES - len(line))])
    assert parse_cookies([line + b"b" * (HEADER_LIMIT_BYTES - len(line) + 1)]) == []
    assert parse_cookies([line] * (HEADER_LIMIT_BYTES // len(line) + 1)) == []


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        (b"a=1; __Host-doorward=x; b=2", b"a=1; b=2"),
        (b"__Host-doorward=x", b""),
        (b"__Host-doorward-sso=x; __Host-doorward-flow-1800000000-00010203=y", b""),
        (b"__host-DOORWARD=x; a=1", b"a=1"),
        (b"__Host-doorwardish=x", b""),
        (b"__Host-doorward", b""),
        (b"=__Host-doorward=x; ==__Host-doorward=x; = = __Host-doorward=x", b""),
        (b"x__Host-doorward=1", b"x__Host-doorward=1"),
        (b"__Host-other=1; plain", b"__Host-other=1; plain"),
        (b"a=__Host-doorward=x", b"a=__Host-doorward=x"),
    ],
    ids=repr,
)
def test_an_upstream_sees_every_cookie_but_ours(line, kept):
    assert without_ours(parse_cookies([line])) == kept


@given(LINES)
def test_nothing_of_ours_is_left_however_often_it_is_parsed(lines):
    """The session handle in an application's log is a session in the hands of whoever reads the log."""
    text = without_ours(parse_cookies(lines))

    for _ in range(4):
        cookies = parse_cookies([text])
        assert not any(name.lower().startswith(OUR_PREFIX.lower().encode()) for name, _ in cookies)
        text = b"; ".join(name + b"=" + value if name else value for name, value in cookies)


@given(LINES)
def test_removing_ours_changes_no_other_named_cookie(lines):
    cookies = parse_cookies(lines)
    others = [item for item in cookies if item[0] and not item[0].lower().startswith(OUR_PREFIX.lower().encode())]

    assert [item for item in parse_cookies([without_ours(cookies)]) if item in others][: len(others)] == others


@given(LINES)
def test_a_single_cookie_is_one_that_stands_once(lines):
    cookies = parse_cookies(lines)
    found = single_cookie(cookies, SESSION_COOKIE)

    assert (found is not None) <= ([name for name, _ in cookies].count(SESSION_COOKIE.encode()) == 1)
