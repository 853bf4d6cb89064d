"""A path that is encoded in another way than in the configuration does not get to the broader route behind."""

from pathlib import Path
from typing import Any

import pytest
from tests.unit.authorize.builders import CONFIG, World, passed, status
from tests.unit.authorize.test_server import CONTEXT, OPERATOR, asking, servicer

from doorward.api.authorize.v1 import authorize_pb2 as pb
from doorward.errors import InvalidArgumentError
from doorward.route.route import Match
from doorward_authorize.server import AuthorizeServicer

__all__ = ["servicer"]
SHARED = """\
  - name: {name}
    from: https://shared.example.com
    {match}
    to: http://127.0.0.1:9003
    policy: {policy}
"""
CLOSED = "[{allow: {and: [{groups: {has: admins}}]}}]"
OPEN = "[{allow: {or: [{accept: true}]}}]"
NARROW = {"team": "prefix: /@team", "cafe": "prefix: /caf%C3%A9", "mail": "path: /a%40b", "plus": "path: /x+y"}
SEVERAL = (
    CONFIG
    + "".join(SHARED.format(name=name, match=match, policy=CLOSED) for name, match in NARROW.items())
    + SHARED.format(name="rest", match="prefix: /", policy=OPEN)
    + SHARED.format(name="late", match="prefix: /@late", policy=CLOSED)
)
OF_ANOTHER = [
    "/%40team",
    "/%40team/x",
    "/%40te%61m",
    "/caf%c3%a9",
    "/caf%C3%a9/x",
    "/a@b",
    "/x%2By",
    "/x%2by",
    "/%2540team",
]
OF_REST = ["/", "/%40teams", "/x/%40team", "/caf%C3%A8", "/a@b/c", "/x+y/z", "/%40late", "/100%25", "/%20"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, SEVERAL)


@pytest.mark.parametrize("path", OF_ANOTHER)
async def test_s11_what_is_meant_for_a_narrower_route_is_refused_by_the_broader_one(world: World, path: str):
    """To Envoy it is neither the narrower one's nor anything odd; to the application behind both it is."""
    assert status(await world.check("rest", path=path)) == 400


@pytest.mark.parametrize("path", OF_REST)
async def test_what_is_meant_for_no_other_passes(world: World, path: str):
    assert passed(await world.check("rest", path=path))


async def test_the_narrower_route_takes_its_paths_as_they_are_written(world: World):
    cookie = world.sign_in(host="shared.example.com")
    for route, path in {"team": "/@team/x", "cafe": "/caf%C3%A9", "mail": "/a%40b", "plus": "/x+y"}.items():
        assert passed(await world.check(route, path=path, cookie=cookie)), route


async def test_s11_a_route_that_is_gone_or_broken_still_stands_before_the_broader_one(world: World):
    world.reload(SEVERAL.replace("to: http://127.0.0.1:9003", "to: nowhere", 1))
    assert world.evaluator.snapshot.routes["team"].route.broken is not None
    assert status(await world.check("rest", path="/%40team")) == 400
    # Envoy may ask by a route that the configuration has lost; it stood before whatever came in its place.
    world.reload(SEVERAL.replace("name: rest", "name: other"))
    assert world.evaluator.snapshot.routes["rest"].removed_at is not None
    assert status(await world.check("rest", path="/%40team")) == 400


async def test_s11_routes_that_are_lost_together_stand_as_they_stood(world: World):
    """With all of its routes gone, a host is still Envoy's for a moment."""
    world.reload(CONFIG)
    assert world.evaluator.snapshot.routes["rest"].removed_at is not None
    assert status(await world.check("rest", path="/%40team")) == 400
    assert passed(await world.check("rest", path="/%40late"))
    world.reload(CONFIG + SHARED.format(name="new", match="prefix: /", policy=OPEN))
    assert passed(await world.check("new", path="/%40team")), "what is gone stands before nothing that is there"


async def test_other_hosts_do_not_mind(world: World):
    assert passed(await world.check("public", path="/%40team"))


async def test_a_program_that_asks_about_such_a_path_is_told(world: World, servicer: AuthorizeServicer):
    del world
    wanted = pb.DecideRequest(request=pb.RequestFacts(route_id="rest", method="GET", path="/%40team"))
    with asking(OPERATOR), pytest.raises(InvalidArgumentError, match="path-of-another-route"):
        await servicer.Decide(wanted, CONTEXT)


class Counting(dict[str, list[tuple[int, Match]]]):
    """Counts what is looked up."""

    count = 0

    def get(self, key: str, default: Any = None) -> Any:
        self.count += 1
        return super().get(key, default)


def test_a_path_of_any_length_costs_no_more_than_the_longest_match_has_segments(world: World):
    """Whoever needs no sign-in could keep everybody waiting with one request of sixty kilobytes."""
    neighbours = world.evaluator.snapshot.neighbours["shared.example.com"]
    neighbours._prefixes = counting = Counting(neighbours._prefixes)
    path = "/@b" + "/a" * 30_000
    assert not neighbours.takes("rest", path.replace("@", "%40"), path)
    assert counting.count <= 1 + len("/café") // 2
    assert neighbours.takes("rest", "/%40team" + "/a" * 30_000, "/@team" + "/a" * 30_000)
