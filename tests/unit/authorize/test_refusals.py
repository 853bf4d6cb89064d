"""A refusal in the words of whoever asked."""

import json
import re
from pathlib import Path

import pytest
from tests.unit.authorize.builders import CONFIG, World, status

from doorward.envoy_api.envoy.service.auth.v3.external_auth_pb2 import CheckResponse

TELLING = CONFIG.replace("    sensitive: true\n", "    show_remedy: true\n")
ADMIN = "admin.example.com"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, TELLING)


def headers(response: CheckResponse) -> dict[str, str]:
    return {option.header.key: option.header.value for option in response.denied_response.headers}


def body(response: CheckResponse) -> str:
    return response.denied_response.body


def bob(world: World) -> str:
    return world.sign_in("bob", groups=frozenset({"eng", "<i>"}), host=ADMIN)


async def test_a_person_gets_a_page_that_works_without_any_script(world: World):
    response = await world.check("admin", cookie=bob(world), accept="text/html", sec_fetch_dest="document")
    text, told = body(response), headers(response)
    assert status(response) == 403
    assert told["content-type"] == "text/html; charset=utf-8"
    assert text.startswith('<!doctype html><html lang="en">')
    assert text.count("<h1>") == text.count("<main") == 1
    assert 'name="viewport"' in text
    assert "color-scheme: light dark" in text
    assert "<script" not in text
    assert "default-src 'none'" in told["content-security-policy"]
    assert "frame-ancestors 'none'" in told["content-security-policy"]
    assert told["cache-control"] == "no-store"
    assert told["x-doorward-decision-id"] in text
    assert "Ask for &lt;admins&gt;." in text
    assert "bob@example.com" in text


async def test_what_would_let_somebody_in_is_told_where_the_route_says_so(world: World):
    response = await world.check("admin", cookie=bob(world), accept="text/html")
    assert "What would let you in" in body(response)
    assert "groups has admins" in body(response)
    assert "<i>" not in body(response), "facts are text, not HTML"
    told = json.loads(body(await world.check("admin", cookie=bob(world))))
    assert told["remedies"] == ["groups has admins (saw <i>, eng)"]
    assert told["explanation"] == "Ask for <admins>."


async def test_by_default_nobody_learns_what_a_policy_asks_for(tmp_path: Path):
    world = World(tmp_path)
    response = await world.check("admin", cookie=bob(world), accept="text/html")
    assert "groups has" not in body(response)
    assert "remedies" not in json.loads(body(await world.check("admin", cookie=bob(world))))


async def test_a_program_gets_json_with_the_reasons(world: World):
    response = await world.check("admin", cookie=bob(world), accept="*/*")
    told = json.loads(body(response))
    assert (status(response), told["error"], told["reasons"]) == (403, "deny", ["groups-unauthorized"])
    nobody = await world.check("admin")
    assert status(nobody) == 401
    assert json.loads(body(nobody))["sign_in"] == "https://sign-in.example.com"
    assert headers(nobody)["www-authenticate"] == 'Doorward sign-in="https://sign-in.example.com"'


@pytest.mark.parametrize(
    "content_type",
    ["application/grpc", "application/grpc+proto", "application/grpc-web", "application/grpc-web-text+proto"],
)
async def test_s85_grpc_and_grpc_web_get_their_own_status(world: World, content_type: str):
    response = await world.check("admin", cookie=bob(world), method="POST", content_type=content_type)
    told = headers(response)
    assert status(response) == 200
    assert (told["content-type"], told["grpc-status"]) == (content_type, "7")
    assert re.fullmatch(r"[\x20-\x7e]+", told["grpc-message"])
    assert headers(await world.check("admin", method="POST", content_type=content_type))["grpc-status"] == "16"


async def test_a_page_of_a_listed_origin_can_read_why(world: World):
    friend = {"origin": "https://friend.example.com", "sec_fetch_site": "cross-site"}
    told = headers(await world.check(method="POST", content_type="application/grpc-web", **friend))
    assert told["access-control-allow-origin"] == "https://friend.example.com"
    assert "grpc-status" in told["access-control-expose-headers"]
    stranger = {"origin": "https://stranger.example.com", "sec_fetch_site": "cross-site"}
    refused = headers(await world.check(method="POST", content_type="application/grpc-web", **stranger))
    assert "access-control-allow-origin" not in refused


@pytest.mark.parametrize("accept", ["text/html", "*/*"])
async def test_what_cannot_be_decided_now_says_when_to_come_again(world: World, accept: str):
    world.records.age = 60
    response = await world.check("public", accept=accept, origin="https://friend.example.com")
    assert (status(response), headers(response)["retry-after"]) == (503, "5")
    friend = {"origin": "https://friend.example.com", "accept": accept}
    assert "retry-after" in headers(await world.check("app", **friend))["access-control-expose-headers"]
    kubernetes = await world.check("public", user_agent="kubectl/v1.31.0 kubernetes/9edcffc")
    assert headers(kubernetes)["retry-after"] == "5"
    assert json.loads(body(kubernetes))["details"] == {"retryAfterSeconds": 5}
    world.records.age = 0
    assert "retry-after" not in headers(await world.check("admin", accept=accept)), "no time will mend that"


async def test_a_check_that_failed_says_so_too_and_grpc_is_left_alone(world: World):
    world.records.age = 60
    grpc = await world.check("public", method="POST", content_type="application/grpc")
    assert (headers(grpc)["grpc-status"], "retry-after" in headers(grpc)) == ("14", False)
    failed = CheckResponse.FromString(world.checker.overloaded(b""))
    assert (status(failed), headers(failed)["retry-after"]) == (503, "5")


@pytest.mark.parametrize(
    "sent",
    [
        {"user_agent": "kubectl/v1.31.0 (linux/amd64) kubernetes/9edcffc"},
        {"user_agent": "Go", "accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"},
        {"user_agent": "Go", "accept": "application/vnd.kubernetes.protobuf"},
    ],
)
async def test_a_kubernetes_client_gets_a_status_object(world: World, sent: dict[str, str]):
    response = await world.check("admin", cookie=bob(world), **sent)
    told = json.loads(body(response))
    assert (told["kind"], told["apiVersion"], told["status"]) == ("Status", "v1", "Failure")
    assert (status(response), told["code"], told["reason"]) == (403, 403, "Forbidden")
    assert headers(response)["x-doorward-decision-id"] in told["message"]
    nobody = await world.check("admin", **sent)
    assert json.loads(body(nobody))["reason"] == "Unauthorized"


async def test_an_upgrade_is_told_in_json_even_by_a_browser(world: World):
    """A browser shows nothing of it, but its console and other clients do."""
    response = await world.check(
        "admin", cookie=bob(world), upgrade="websocket", sec_fetch_site="same-origin", accept="text/html"
    )
    assert status(response) == 403
    assert json.loads(body(response))["reasons"] == ["groups-unauthorized"]
    assert status(await world.check("admin", upgrade="websocket")) == 401
