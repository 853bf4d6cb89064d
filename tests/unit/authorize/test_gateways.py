"""Other gateways ask about their own routes, and are believed about clients only as far as the configuration says."""

import json
from pathlib import Path

import pytest
from tests.unit.authorize.builders import CONFIG, World, passed, status
from tests.unit.authorize.test_client_certificates import Certified, encoded, laptop

from doorward.envoy_api.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from doorward.rpc.planes import Gateway

ROUTES = """\
  - name: office
    from: https://office.example.com
    to: http://127.0.0.1:9006
    policy: [{allow: {and: [{source_ip: 10.0.0.0/8}]}}]
  - name: bare
    from: https://bare.example.com
    to: http://127.0.0.1:9007
    client_certificate: fact
    policy: [{allow: {or: [{invalid_client_certificate: true}]}}]
"""
GATEWAYS = """\
gateways:
  - {name: edge, routes: [app, office, public]}
  - {name: mesh, routes: [admin, office, machine, bare], trust_client_address: true, trust_client_certificate: true, may_explain: true}
  - {name: lan, routes: [machine, bare]}
"""


class Asked(Certified):
    """A world that two gateways ask."""

    def config(self, *, lists: str = "") -> str:
        return super().config(lists=lists) + ROUTES + GATEWAYS

    async def of(self, gateway: str, data: bytes) -> CheckResponse:
        answer = self.checker.check(data, Gateway(gateway))
        return CheckResponse.FromString(answer if isinstance(answer, bytes) else await answer)

    def refusals(self, reason: str) -> float | None:
        return self.registry.get_sample_value("doorward_gateway_refusals_total", {"reason": reason})

    async def last_record(self) -> dict[str, object]:
        await self.log.flush()
        line = (self.folder / "decisions.jsonl").read_text().splitlines()[-1]
        found: dict[str, object] = json.loads(line)
        return found


@pytest.fixture
def world(tmp_path: Path) -> Asked:
    return Asked(tmp_path)


async def test_each_gateway_may_ask_about_its_own_routes(world: Asked):
    app, admin = world.sign_in(), world.sign_in(host="admin.example.com")
    assert passed(await world.of("edge", world.request("app", cookie=app)))
    assert passed(await world.of("mesh", world.request("admin", cookie=admin)))
    assert status(await world.of("edge", world.request("admin", cookie=admin))) == 503
    assert status(await world.of("mesh", world.request("app", cookie=app))) == 503
    assert world.refusals("gateway-route-not-listed") == 2
    record = await world.last_record()
    assert (record["gateway"], record["route"], record["outcome"]) == ("mesh", "app", "unavailable")
    assert record["reasons"] == ["gateway-route-not-listed"]


@pytest.mark.parametrize("route", ["@pages", "@sign-in", "@unmatched", "@broken", "nothing", ""])
async def test_s17_what_is_not_an_operators_route_is_no_way_round(world: Asked, route: str):
    """Our own Envoy answers these itself or has a page of ours behind them; another one may have anything there."""
    assert status(await world.of("edge", world.request(route, digest="internal"))) == 503


async def test_a_gateway_gets_an_answer_also_where_our_own_envoy_would_ask_another_authorizer(world: Asked):
    """It may not know to ask again, and what it makes of an error is not ours to say."""
    world.records.age = 6.0
    world.checker._others_may_know = lambda: True
    response = await world.of("edge", world.request("public"))
    assert status(response) == 503
    assert (await world.last_record())["reasons"] == ["data-stale"]


async def test_s90_a_gateway_cannot_open_a_session_of_another_host_by_naming_that(world: Asked):
    message = CheckRequest.FromString(world.request("app", cookie=world.sign_in(host="admin.example.com")))
    assert status(await world.of("edge", message.SerializeToString())) == 401
    message.attributes.context_extensions["host"] = "admin.example.com"
    assert status(await world.of("edge", message.SerializeToString())) == 503
    assert world.refusals("gateway-host") == 1


async def test_a_gateway_that_is_not_configured_any_more_is_refused_at_its_next_question(world: Asked):
    request = world.request("public")
    assert passed(await world.of("edge", request))
    world.reload(world.config().replace("name: edge", "name: other"))
    assert status(await world.of("edge", request)) == 503
    assert world.refusals("gateway-unknown") == 1
    assert passed(await world.of("other", request))
    world.reload(world.config().replace("[app, office, public]", "[app]"))
    assert status(await world.of("edge", request)) == 503


async def test_an_address_counts_only_from_whoever_is_believed(world: Asked):
    for claimed in ("10.0.0.1", "192.0.2.1"):
        data = world.request("office", **{"x-doorward-client-address": claimed})
        assert status(await world.of("edge", data)) == 403
        assert (await world.last_record())["reasons"] == ["source-ip-unknown"]
    assert (await world.last_record())["client_address"] is None
    assert passed(await world.of("mesh", world.request("office")))
    record = await world.last_record()
    assert (record["client_address"], record["gateway"]) == ("10.0.0.1", "mesh")


async def test_a_certificate_counts_only_from_whoever_is_believed(world: Asked):
    shown = world.with_certificate(world.request("machine"), laptop(world), "machine.example.com")
    assert passed(await world.of("mesh", shown))
    assert status(await world.of("lan", shown)) == 403
    without = world.with_certificate(world.request("bare"), None, "bare.example.com")
    assert passed(await world.of("mesh", without))
    assert not passed(await world.of("lan", without)), "having none is a gateway's word too"
    assert not passed(await world.of("lan", world.request("bare"))), "and so is saying nothing"


async def test_an_explanation_does_not_repeat_what_was_not_believed(world: Asked):
    response = await world.of("edge", world.request("office"))
    (decision_id,) = [
        item.header.value for item in response.denied_response.headers if item.header.key == "x-doorward-decision-id"
    ]
    explained = await world.explanations.of(decision_id)
    assert "10.0.0.1" not in explained.text + explained.json
    assert "10.0.0.0/8" in explained.text


async def test_our_own_envoy_is_asked_nothing_of_that(world: Asked):
    assert passed(await world.check("office"))
    await world.check("public")
    assert "gateway" not in await world.last_record()
    assert encoded(laptop(world))


async def test_garbage_of_a_gateway_lets_nobody_in(world: Asked):
    for data in (b"", b"\xff\xff\xff", CheckRequest().SerializeToString()):
        assert status(await world.of("edge", data)) == 503


def test_a_world_without_gateways_knows_none(tmp_path: Path):
    plain = World(tmp_path, CONFIG)
    assert plain.settings.gateways == ()
    assert plain.settings.gateway("edge") is None
