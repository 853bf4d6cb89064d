from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.doorward.route.test_route import ROUTE

from doorward.route.methods import FORBIDDEN_METHODS, ORDINARY_METHODS, is_method
from doorward.route.route import Match, MatchKind

TUNNEL = replace(ROUTE, match=Match(kind=MatchKind.TCP, value="5432"))
WEBDAV = replace(ROUTE, extra_methods=("PROPFIND",))


@pytest.mark.parametrize("method", ORDINARY_METHODS)
def test_ordinary_methods_count_on_every_route_but_tunnels(method):
    assert ROUTE.takes(method)
    assert WEBDAV.takes(method)
    assert not TUNNEL.takes(method)


def test_others_count_where_they_are_listed_and_connect_opens_tunnels():
    assert WEBDAV.takes("PROPFIND")
    assert not ROUTE.takes("PROPFIND")
    assert TUNNEL.takes("CONNECT")
    assert not WEBDAV.takes("CONNECT")
    assert (WEBDAV.methods[-1], TUNNEL.methods) == ("PROPFIND", ("CONNECT",))


@given(st.text())
def test_s22_nothing_else_counts(method):
    for route in (ROUTE, WEBDAV, TUNNEL):
        assert route.takes(method) is (method in route.methods)


@given(st.text(max_size=8))
def test_a_method_is_a_token(text):
    odd = [
        character
        for character in text
        if not character.isascii() or not (character.isalnum() or character in "!#$%&'*+.^_`|~-")
    ]
    assert is_method(text) is bool(text and not odd)


def test_what_no_route_may_list_is_no_ordinary_method():
    assert not FORBIDDEN_METHODS & set(ORDINARY_METHODS)
