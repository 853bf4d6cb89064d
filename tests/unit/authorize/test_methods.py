"""The method is compared exactly, and before any policy."""

from pathlib import Path

import pytest
from tests.unit.authorize.builders import CONFIG, World, passed, status
from tests.unit.authorize.test_guard_watcher import Streams
from tests.unit.authorize.test_refusals import headers
from tests.unit.authorize.test_server import CONTEXT, OPERATOR, asking, servicer

from doorward.api.authorize.v1 import authorize_pb2 as pb
from doorward.errors import InvalidArgumentError
from doorward_authorize.server import AuthorizeServicer

__all__ = ["servicer"]
PUBLIC = "  - name: public\n    from: https://public.example.com\n"
WEBDAV = CONFIG.replace(PUBLIC, PUBLIC + "    extra_methods: [PROPFIND, get2]\n    continuous: true\n")
ORDINARY = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
UNKNOWN = ("get", "Get", "FOO", "TRACE", "TRACK", "CONNECT", "PRI", "PROPFIND", "GETX", "get2")
MALFORMED = ("", "G ET", " GET", "GET ", "a\r\nb", "GET\0", "GÉT", "GET/1", "GET,POST")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize("method", ORDINARY)
async def test_s22_ordinary_methods_reach_policy(world: World, method: str):
    assert passed(await world.check("public", method=method))


@pytest.mark.parametrize("method", UNKNOWN)
async def test_s22_an_unknown_method_is_refused_where_policy_accepts_everything(world: World, method: str):
    response = await world.check("public", method=method)
    assert status(response) == 405
    assert headers(response)["allow"] == ", ".join(ORDINARY)
    assert status(await world.check("app", method=method, cookie=world.sign_in())) == 405


@pytest.mark.parametrize("method", MALFORMED)
async def test_s22_what_is_no_method_is_a_bad_request(world: World, method: str):
    for route in ("public", "app", "@pages", "@sign-in"):
        response = await world.check(route, method=method)
        assert status(response) == 400, route
        assert "allow" not in headers(response)


@pytest.mark.parametrize("route", ["@pages", "@sign-in"])
async def test_s22_our_own_pages_take_ordinary_methods(world: World, route: str):
    assert passed(await world.check(route, method="POST"))
    assert status(await world.check(route, method="TRACE")) == 405


async def test_s22_a_route_may_list_others_and_they_are_case_sensitive_too(tmp_path: Path):
    world = World(tmp_path, WEBDAV)
    assert passed(await world.check("public", method="PROPFIND"))
    assert passed(await world.check("public", method="get2"))
    for method in ("propfind", "GET2", "MKCOL", "TRACE"):
        response = await world.check("public", method=method)
        assert status(response) == 405
        assert headers(response)["allow"].endswith(", PROPFIND, get2")
    assert status(await world.check("app", method="PROPFIND")) == 405, "another route's list"


async def test_grpc_and_kubernetes_clients_are_told_in_their_own_words(world: World):
    grpc = await world.check("public", method="get", content_type="application/grpc")
    assert (status(grpc), headers(grpc)["grpc-status"]) == (200, "12")
    kubernetes = await world.check("public", method="get", user_agent="kubectl/v1 kubernetes/x")
    assert status(kubernetes) == 405
    assert '"reason": "MethodNotAllowed"' in kubernetes.denied_response.body


async def test_a_preflight_names_the_methods_of_its_route(tmp_path: Path):
    listed = CONFIG.replace("    allowed_origins:", "    extra_methods: [PROPFIND]\n    allowed_origins:")
    response = await World(tmp_path, listed).check(
        method="OPTIONS", origin="https://friend.example.com", access_control_request_method="PROPFIND"
    )
    assert status(response) == 204
    assert headers(response)["access-control-allow-methods"].endswith("OPTIONS, PROPFIND")


async def test_s22_a_stream_whose_method_is_taken_off_the_list_ends(tmp_path: Path):
    streams = Streams(tmp_path)
    await streams.change(WEBDAV)
    number = await streams.opened("public", method="PROPFIND")
    (ended,) = await streams.change(WEBDAV.replace("PROPFIND, ", ""))
    assert ended == (number, False, "route-changed")


def question(method: str) -> pb.DecideRequest:
    return pb.DecideRequest(request=pb.RequestFacts(route_id="public", method=method, path="/"))


@pytest.mark.parametrize("method", [*UNKNOWN, *MALFORMED])
async def test_s22_decide_refuses_the_same_methods(servicer: AuthorizeServicer, method: str):
    with asking(OPERATOR):
        with pytest.raises(InvalidArgumentError, match="the method is refused: expected one of GET, HEAD"):
            await servicer.Decide(question(method), CONTEXT)
        request = pb.BatchDecideRequest(requests=[question(method), question("GET")])
        refused, allowed = (await servicer.BatchDecide(request, CONTEXT)).responses
    assert (refused.decision.effect, list(refused.decision.reasons)) == (pb.EFFECT_DENY, ["method-not-allowed"])
    assert allowed.decision.effect == pb.EFFECT_ALLOW
