"""What a route yields to: the routes before it on its host that take part of what it matches."""

import pytest

from doorward.config.route_lists import Places, RouteList, join
from doorward.config.settings import RoutePolicy
from doorward.policy import Policy, parse_policy
from doorward.route.route import Match, MatchKind, Route
from doorward.source import Position, Problems
from doorward.source import Sequence as SequenceNode

START = Position("test", 1, 1)
NOBODY: Policy = parse_policy(SequenceNode((), START), Problems())


def written(text: str, host: str) -> RoutePolicy:
    """A route of this match: a prefix, ``=`` and a path, or the port of a tunnel."""
    kind = MatchKind.PATH if text.startswith("=") else MatchKind.PREFIX if text.startswith("/") else MatchKind.TCP
    match = Match(kind=kind, value=text.removeprefix("="))
    return RoutePolicy(
        route=Route(id=host + text, name=text, host=host, port=443, match=match, upstreams=()), policy=NOBODY
    )


def digests(*texts: str, host: str = "a.example", beside: str = "") -> dict[str, str]:
    routes = [written(text, host) for text in texts] + ([written(beside, "b.example")] if beside else [])
    found = RouteList(routes=tuple((item, START) for item in routes))
    joined = join([found], Places(), Problems(), Problems())
    return {item.route.name: item.route.digest for item in joined.routes if item.route.host == host}


ALONE = {text: digest for text in ("/", "/a", "/a/b", "5432") for text, digest in digests(text).items()}


@pytest.mark.parametrize("narrower", ["/a", "=/a", "=/", "/a/b"])
def test_a_narrower_route_before_it_changes_what_a_route_reaches(narrower: str):
    assert digests(narrower, "/")["/"] != ALONE["/"]
    assert digests("/", narrower)["/"] == ALONE["/"], "behind it, it takes nothing from it"


def test_so_does_each_further_one_and_one_that_goes():
    found = [digests(*before, "/")["/"] for before in ([], ["/a"], ["=/a"], ["/a", "/b"], ["/b"], ["/a/b"])]
    assert len(set(found)) == len(found)


def test_the_order_of_those_before_it_does_not():
    assert digests("/a", "/b", "/")["/"] == digests("/b", "/a", "/")["/"]


def test_a_broader_one_before_it_takes_all_of_it():
    assert digests("/", "/a")["/a"] != ALONE["/a"]
    assert digests("/a", "/a/b")["/a/b"] != ALONE["/a/b"]


@pytest.mark.parametrize("other", ["/b", "=/b", "/ab", "5432"])
def test_one_that_takes_nothing_of_it_does_not(other: str):
    assert digests(other, "/a")["/a"] == ALONE["/a"]


def test_tunnels_and_other_hosts_take_nothing():
    assert digests("/", "5432")["5432"] == ALONE["5432"]
    assert digests("/", beside="/a")["/"] == ALONE["/"]


def test_a_host_that_has_not_changed_keeps_its_routes():
    places = Places()
    first, second = written("/a", "a.example"), written("/", "a.example")
    before = places.placed([first, second, written("/", "b.example")])
    after = places.placed([first, second, written("/x", "b.example"), written("/", "b.example")])
    assert [known is item for known, item in zip(before[:2], after[:2], strict=True)] == [True, True]
    assert places.placed([second])[0].route.yields_to == ""
