"""Somebody whose sign-in is too old or too weak, in the words of whoever asks."""

import json
import urllib.parse
from pathlib import Path

import pytest
from tests.unit.authorize.builders import CONFIG, World, status

from doorward.envoy_api.envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from doorward.keys.flow import WantedStepUp

STEPPING = (
    CONFIG.replace("    claims: {groups: groups}\n", "    claims: {groups: groups}\n    method_classes: {hwk: phr}\n")
    + """\
  - name: vault
    from: https://vault.example.com
    to: http://127.0.0.1:9003
    allowed_origins: ["https://friend.example.com"]
    policy: [{allow: {and: [{domain: example.com}, {authentication: {max_age: 15m, methods: [hwk]}}]}}]
  - name: quoted
    from: https://quoted.example.com
    to: http://127.0.0.1:9004
    policy: [{allow: {and: [{authentication: {context_class: 'a"\\b'}}]}}]
"""
)
VAULT = "vault.example.com"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, STEPPING)


def told(response: CheckResponse, name: str) -> list[str]:
    return [option.header.value for option in response.denied_response.headers if option.header.key == name]


async def test_a_browser_is_sent_to_confirm_its_own_session(world: World):
    response = await world.check(
        "vault", cookie=world.sign_in(host=VAULT), accept="text/html", sec_fetch_dest="document"
    )
    assert status(response) == 302
    wanted = world.signer.verify(urllib.parse.urlsplit(told(response, "location")[0]).query, world.clock.now())
    assert (wanted.authority, wanted.purpose) == (VAULT, "step-up")
    session = b"alice".hex().ljust(32, "0")[:32]
    assert wanted.step_up == WantedStepUp(session_id=session, max_age_seconds=900, methods=("hwk",))


async def test_a_program_is_challenged_as_rfc_9470_says(world: World):
    response = await world.check("vault", cookie=world.sign_in(host=VAULT), accept="application/json")
    body = json.loads(response.denied_response.body)
    assert (status(response), body["error"]) == (401, "step-up")
    assert body["step_up"] == {"acr_values": ["phr"], "methods": ["hwk"], "max_age": 900}
    assert told(response, "www-authenticate")[1] == (
        'Bearer error="insufficient_user_authentication", error_description="A fresher or stronger sign-in is needed", '
        'acr_values="phr", max_age="900"'
    )


async def test_a_word_of_the_policy_cannot_end_the_quotes(world: World):
    response = await world.check("quoted", cookie=world.sign_in(host="quoted.example.com"), accept="application/json")
    assert 'acr_values="a\\"\\\\b"' in told(response, "www-authenticate")[1]


@pytest.mark.parametrize(
    ("sent", "http_status"),
    [
        ({"method": "POST", "content_type": "application/grpc"}, 200),
        ({"method": "POST", "content_type": "application/grpc-web"}, 200),
        ({"upgrade": "websocket", "sec_fetch_site": "same-origin"}, 401),
        ({"user_agent": "kubectl/v1.31.0 (linux/amd64) kubernetes/9edcffc"}, 401),
        ({"method": "POST", "accept": "text/html", "sec_fetch_site": "same-origin"}, 401),
    ],
)
async def test_nobody_else_is_redirected(world: World, sent: dict[str, str], http_status: int):
    response = await world.check("vault", cookie=world.sign_in(host=VAULT), **sent)
    assert status(response) == http_status
    assert not told(response, "location")
    assert any("insufficient_user_authentication" in value for value in told(response, "www-authenticate"))
    if http_status == 200:
        assert told(response, "grpc-status") == ["16"]


async def test_a_preflight_is_answered_before_anybody_is_asked_for_anything(world: World):
    response = await world.check(
        "vault", method="OPTIONS", origin="https://friend.example.com", access_control_request_method="POST"
    )
    assert status(response) == 204


async def test_a_program_with_a_token_of_ours_cannot_step_up_and_is_denied(world: World):
    response = await world.check("quoted", authorization=f"Bearer {world.account()}")
    assert status(response) == 403
