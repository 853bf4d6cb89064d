"""What programs ask: an operator everything, another gateway about its own routes, a plane nothing."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import grpc.aio
import pytest
from tests.unit.authorize.builders import CONFIG, World
from tests.unit.authorize.test_decision_log import Disk, encoder
from tests.unit.authorize.test_guard_watcher import Uses

from doorward.api.authorize.v1 import authorize_pb2 as pb
from doorward.errors import InvalidArgumentError, NotFoundError, PermissionDeniedError, UnavailableError
from doorward.records.record import Record
from doorward.rpc.plane_methods import caller, calling_gateway
from doorward.rpc.planes import Gateway, Plane
from doorward_authorize import decision_log
from doorward_authorize.activity import ActivityTracker
from doorward_authorize.decision_log import DecisionLog
from doorward_authorize.server import AuthorizeServicer

GATEWAYS = """\
  - name: office
    from: https://office.example.com
    to: http://127.0.0.1:9006
    policy: [{allow: {or: [{source_ip: 10.0.0.0/8}, {invalid_client_certificate: true}]}}]
gateways:
  - {name: edge, routes: [app, office]}
  - {name: mesh, routes: [admin, office], trust_client_address: true, may_explain: true}
"""
CONTEXT = cast("grpc.aio.ServicerContext[Any, Any]", None)


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path, CONFIG + GATEWAYS)
    made.sign_in()
    return made


@pytest.fixture
def servicer(world: World) -> AuthorizeServicer:
    return AuthorizeServicer(
        world.evaluator,
        world.principals,
        world.records,  # type: ignore[arg-type]  # a replica in all that is asked of it here
        world.explanations,
        world.gateways,
        world.asked,
    )


@contextmanager
def asking(who: Plane | Gateway) -> Iterator[None]:
    if isinstance(who, Gateway):
        token = calling_gateway.set(who)
        try:
            yield
        finally:
            calling_gateway.reset(token)
    else:
        plane = caller.set(who)
        try:
            yield
        finally:
            caller.reset(plane)


OPERATOR, EDGE, MESH = Plane.OPERATOR, Gateway("edge"), Gateway("mesh")
ALICE = pb.Subject(session_id=b"alice".hex().ljust(32, "0"))


def question(route: str, *, address: str = "", **fields: object) -> pb.DecideRequest:
    facts = pb.RequestFacts(route_id=route, method="GET", path="/", client_address=address, **fields)  # type: ignore[arg-type]
    return pb.DecideRequest(subject=ALICE, request=facts)


def newest(world: World) -> str:
    """The id of the last decision that a policy made."""
    return next(reversed(world.held._by_policy.held))


async def effect(servicer: AuthorizeServicer, who: Plane | Gateway, asked: pb.DecideRequest) -> int:
    with asking(who):
        return (await servicer.Decide(asked, CONTEXT)).decision.effect


async def test_a_gateway_decides_about_its_own_routes(servicer: AuthorizeServicer, world: World):
    assert await effect(servicer, EDGE, question("app")) == pb.EFFECT_ALLOW
    assert await effect(servicer, MESH, question("admin")) == pb.EFFECT_ALLOW
    assert await effect(servicer, OPERATOR, question("admin")) == pb.EFFECT_ALLOW
    for route in ("admin", "public", "@pages", "nothing", ""):
        with pytest.raises(PermissionDeniedError, match="may not ask about that route"):
            await effect(servicer, EDGE, question(route))
    assert (
        world.registry.get_sample_value("doorward_gateway_refusals_total", {"reason": "gateway-route-not-listed"}) == 5
    )


async def test_a_batch_denies_other_routes_in_their_place(servicer: AuthorizeServicer):
    batch = pb.BatchDecideRequest(requests=[question("app"), question("admin"), question("nothing")])
    with asking(EDGE):
        answers = [item.decision for item in (await servicer.BatchDecide(batch, CONTEXT)).responses]
    assert [item.effect for item in answers] == [pb.EFFECT_ALLOW, pb.EFFECT_DENY, pb.EFFECT_DENY]
    assert [list(item.reasons) for item in answers[1:]] == [["route-not-listed"]] * 2


async def test_an_address_counts_only_from_whoever_is_believed(servicer: AuthorizeServicer):
    asked = question("office", address="10.0.0.1")
    assert await effect(servicer, EDGE, asked) != pb.EFFECT_ALLOW
    assert await effect(servicer, MESH, asked) == pb.EFFECT_ALLOW
    assert await effect(servicer, OPERATOR, asked) == pb.EFFECT_ALLOW
    assert await effect(servicer, MESH, question("office", address="192.0.2.1")) != pb.EFFECT_ALLOW
    assert await effect(servicer, MESH, question("office")) != pb.EFFECT_ALLOW, (
        "nobody said that there is no certificate"
    )


async def test_only_its_own_routes_are_listed(servicer: AuthorizeServicer):
    found = {}
    for who in (OPERATOR, EDGE, MESH):
        with asking(who):
            answer = await servicer.ListAccessible(pb.ListAccessibleRequest(subject=ALICE), CONTEXT)
        found[str(who)] = set(answer.route_ids)
    assert found == {"operator": {"app", "admin", "public"}, "gateway/edge": {"app"}, "gateway/mesh": {"admin"}}


async def test_explanations_are_for_operators_and_for_gateways_that_may(servicer: AuthorizeServicer, world: World):
    ids = {}
    for route in ("app", "admin"):
        await world.check(route, cookie=world.sign_in(host=f"{route}.example.com"))
        ids[route] = newest(world)
    with asking(OPERATOR):
        for route, decision_id in ids.items():
            assert (await servicer.Explain(pb.ExplainRequest(decision_id=decision_id), CONTEXT)).route == route
    with asking(MESH):
        assert (await servicer.Explain(pb.ExplainRequest(decision_id=ids["admin"]), CONTEXT)).route == "admin"
        assert (await servicer.Explain(pb.ExplainRequest(request=question("admin")), CONTEXT)).route == "admin"
        with pytest.raises(NotFoundError):
            await servicer.Explain(pb.ExplainRequest(decision_id=ids["app"]), CONTEXT)
        with pytest.raises(PermissionDeniedError):
            await servicer.Explain(pb.ExplainRequest(request=question("app")), CONTEXT)
    with asking(EDGE):
        for request in (
            pb.ExplainRequest(decision_id=ids["app"]),
            pb.ExplainRequest(request=question("app")),
            pb.ExplainRequest(),
        ):
            with pytest.raises(PermissionDeniedError, match="may_explain"):
                await servicer.Explain(request, CONTEXT)


async def test_a_refusal_kept_for_all_is_explained_to_the_gateway_of_its_route_alone(
    servicer: AuthorizeServicer, world: World
):
    cookie = world.sign_in("bob", groups=frozenset(), host="admin.example.com")
    await world.check("admin", cookie=cookie, accept="text/html")
    decision_id = newest(world)
    await world.explanations.flush()
    world.held._by_policy.held.clear()
    with asking(MESH):
        assert (await servicer.Explain(pb.ExplainRequest(decision_id=decision_id), CONTEXT)).route == "admin"
    world.reload((CONFIG + GATEWAYS).replace("routes: [admin, office]", "routes: [office]"))
    with asking(MESH), pytest.raises(NotFoundError):
        await servicer.Explain(pb.ExplainRequest(decision_id=decision_id), CONTEXT)


@pytest.mark.parametrize("who", [*(plane for plane in Plane if plane is not OPERATOR), Gateway("gone")], ids=str)
async def test_s77_s90_planes_and_unknown_gateways_are_told_nothing(servicer: AuthorizeServicer, who: Plane | Gateway):
    calls = {
        "Decide": servicer.Decide(question("app"), CONTEXT),
        "BatchDecide": servicer.BatchDecide(pb.BatchDecideRequest(requests=[question("app")]), CONTEXT),
        "Explain": servicer.Explain(pb.ExplainRequest(request=question("app")), CONTEXT),
        "ListAccessible": servicer.ListAccessible(pb.ListAccessibleRequest(subject=ALICE), CONTEXT),
        "GetStatus": servicer.GetStatus(pb.GetStatusRequest(), CONTEXT),
    }
    methods = pb.DESCRIPTOR.services_by_name["AuthorizeService"].methods
    assert calls.keys() == {method.name for method in methods}, "a method without its row"
    with asking(who):
        for call in calls.values():
            with pytest.raises(PermissionDeniedError):
                await call


EVERY = (
    (question("app"), ["user-ok"]),
    (question("admin"), ["groups-ok"]),
    (pb.DecideRequest(request=pb.RequestFacts(route_id="app", method="GET", path="/")), None),
    (question("nothing"), ["not-found"]),
    (pb.DecideRequest(subject=pb.Subject(user_id="nobody"), request=question("app").request), ["not-found"]),
    (pb.DecideRequest(request=pb.RequestFacts(route_id="public", method="GET", path="/a;b")), ["path-refused"]),
)


async def written(world: World) -> dict[str, dict[str, Any]]:
    await world.log.flush()
    file = world.folder / "decisions.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    found = {line["decision_id"]: line for line in lines}
    assert len(found) == len(lines), "one record a decision"
    return found


def decided(world: World) -> float:
    """How many decisions were counted."""
    families = world.registry.collect()
    return sum(s.value for f in families if f.name == "doorward_decisions" for s in f.samples)


async def test_every_id_that_is_handed_out_has_a_record_and_an_explanation(servicer: AuthorizeServicer, world: World):
    batch = pb.BatchDecideRequest(requests=[asked for asked, _ in EVERY])
    with asking(OPERATOR):
        alone = (await servicer.Decide(question("admin"), CONTEXT)).decision
        would = (await servicer.Explain(pb.ExplainRequest(request=question("admin")), CONTEXT)).decision
        answers = [item.decision for item in (await servicer.BatchDecide(batch, CONTEXT)).responses]
        given = [alone, would, *answers]
        found = await written(world)
        assert set(found) == {item.id for item in given}
        assert decided(world) == len(given)
        for item in given:
            explained = await servicer.Explain(pb.ExplainRequest(decision_id=item.id), CONTEXT)
            assert explained.decision == item
            assert explained.text
            record = found[item.id]
            assert record["reasons"] == list(item.reasons)
            assert (record["outcome"] == "allow") == (item.effect == pb.EFFECT_ALLOW)
    for (_, reasons), item in zip(EVERY, answers, strict=True):
        assert reasons is None or list(item.reasons) == reasons
    assert found[alone.id]["inputs"].keys() == {"groups"}
    assert found[alone.id]["user_id"]
    with asking(EDGE):
        told = (await servicer.Decide(question("app"), CONTEXT)).decision
    assert (await written(world))[told.id]["gateway"] == "edge"


async def test_a_listing_decides_nothing_that_anybody_could_ask_about(servicer: AuthorizeServicer, world: World):
    with asking(OPERATOR):
        await servicer.ListAccessible(pb.ListAccessibleRequest(subject=ALICE), CONTEXT)
    assert await written(world) == {}
    assert decided(world) == 0


async def test_a_person_who_is_rejected_is_explained_as_decided(servicer: AuthorizeServicer, world: World):
    world.sign_in(active=False)
    with asking(OPERATOR):
        decision = (await servicer.Decide(question("app"), CONTEXT)).decision
        would = (await servicer.Explain(pb.ExplainRequest(request=question("app")), CONTEXT)).decision
    assert (decision.effect, list(decision.reasons)) == (pb.EFFECT_DENY, ["user-inactive"])
    assert (would.effect, list(would.reasons)) == (pb.EFFECT_DENY, ["user-inactive"])


async def test_audit_or_deny_gives_out_only_what_is_on_the_disk(
    servicer: AuthorizeServicer, world: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(decision_log, "DURABLE_SECONDS", 0.2)
    disk = Disk(world.folder / "decisions.jsonl")
    world.asked._decision_log = log = DecisionLog(disk, encoder(), world.metrics, audit_or_deny=True)
    running = asyncio.create_task(log.run())
    batch = pb.BatchDecideRequest(requests=[question("app")] * 50 + [question("nothing")])
    try:
        with asking(OPERATOR):
            answers = [item.decision for item in (await servicer.BatchDecide(batch, CONTEXT)).responses]
            assert [item.effect for item in answers] == [pb.EFFECT_ALLOW] * 50 + [pb.EFFECT_DENY]
            assert len((world.folder / "decisions.jsonl").read_text().splitlines()) == 51
            assert set(disk.durable) == {True}
            disk.fails = True
            with pytest.raises(UnavailableError, match="could not be recorded"):
                await servicer.Decide(question("app"), CONTEXT)
            with pytest.raises(UnavailableError, match="could not be recorded"):
                await servicer.Explain(pb.ExplainRequest(request=question("app")), CONTEXT)
            answers = [item.decision for item in (await servicer.BatchDecide(batch, CONTEXT)).responses]
            assert {(item.effect, tuple(item.reasons), item.id) for item in answers} == {
                (pb.EFFECT_DENY, ("not-recorded",), "")
            }
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert world.registry.get_sample_value("doorward_decisions_unrecorded_total") == 53


async def test_s66_a_session_that_nobody_uses_has_ended_for_programs_that_ask_too(
    servicer: AuthorizeServicer, world: World
):
    """They name it by its id, so it does not come by the way that looks at its use."""
    uses = Uses()
    idle_seconds = 60.0
    world.principals._activity = ActivityTracker(uses, lambda: idle_seconds, world.clock)
    world.reload(CONFIG.replace("routes:\n", "session: {idle_timeout: 1m}\nroutes:\n") + GATEWAYS)
    robot = pb.DecideRequest(request=question("app").request)
    world.account()
    robot.subject.session_id = "sa-" + b"robot".ljust(16, b"0").hex()

    async def answers() -> list[tuple[int, list[str]]]:
        batch = pb.BatchDecideRequest(requests=[question("app"), robot, question("app")])
        with asking(EDGE):
            found = (await servicer.BatchDecide(batch, CONTEXT)).responses
        return [(item.decision.effect, list(item.decision.reasons)) for item in found]

    world.clock.advance(59)
    assert await effect(servicer, EDGE, question("app")) == pb.EFFECT_ALLOW
    world.clock.advance(1)
    uses.seen_at = world.clock.now()
    assert await effect(servicer, EDGE, question("app")) == pb.EFFECT_ALLOW, "another authorizer has seen it in use"
    uses.seen_at = None
    world.clock.advance(59)
    assert [found for found, _ in await answers()] == [pb.EFFECT_ALLOW] * 3
    world.clock.advance(1)
    (first, reasons), (program, _), (last, _) = await answers()
    assert (first, reasons, program, last) == (pb.EFFECT_DENY, ["not-found"], pb.EFFECT_ALLOW, pb.EFFECT_DENY)
    with asking(OPERATOR):
        with pytest.raises(NotFoundError):
            await servicer.Decide(question("app"), CONTEXT)
        with pytest.raises(NotFoundError):
            await servicer.Explain(pb.ExplainRequest(request=question("app")), CONTEXT)
        with pytest.raises(NotFoundError):
            await servicer.ListAccessible(pb.ListAccessibleRequest(subject=ALICE), CONTEXT)


async def test_s66_whether_sessions_are_idle_is_asked_of_a_few_at_a_time(servicer: AuthorizeServicer, world: World):
    """Each answer has a quarter of a second; whoever asks about hundreds at once gets none in time, and all would count as idle."""

    class Busy(Uses):
        asking, most = 0, 0

        async def get(self, record_type: str, record_id: str) -> Record:
            self.asking += 1
            self.most = max(self.most, self.asking)
            await asyncio.sleep(0)
            self.asking -= 1
            return await super().get(record_type, record_id)

    uses = Busy()
    world.principals._activity = ActivityTracker(uses, lambda: 60.0, world.clock)
    world.reload(CONFIG.replace("routes:\n", "session: {idle_timeout: 1m}\nroutes:\n"))
    batch = pb.BatchDecideRequest()
    for number in range(200):
        world.sign_in(f"user{number}")
        asked = batch.requests.add(request=question("app").request)
        asked.subject.session_id = f"user{number}".encode().hex().ljust(32, "0")
    world.clock.advance(61)
    uses.seen_at = world.clock.now()
    with asking(OPERATOR):
        found = (await servicer.BatchDecide(batch, CONTEXT)).responses
    assert {item.decision.effect for item in found} == {pb.EFFECT_ALLOW}
    assert 1 < uses.most <= 50


RULED = CONFIG.replace(
    "policy: [{allow: {or: [{accept: true}]}}]",
    "policy: [{allow: {or: [{accept: true}]}}, {deny: {or: [{http_path: /admin}, {http_header/x-role: admin}]}}]",
)


@pytest.mark.parametrize("path", ["/admin?", "/admin?a=b", "/admin#", "/admin;a"])
async def test_s12_a_program_that_leaves_the_query_in_the_path_is_refused(
    servicer: AuthorizeServicer, world: World, path: str
):
    """A rule about the path would be asked about another one than is served."""
    world.reload(RULED)
    asked = pb.DecideRequest(request=pb.RequestFacts(route_id="public", method="GET", path=path))
    with asking(OPERATOR), pytest.raises(InvalidArgumentError, match="the path is refused"):
        await servicer.Decide(asked, CONTEXT)


@pytest.mark.parametrize("names", [("X-Role", "x-role"), ("x-role", "X-ROLE")])
async def test_s09_a_header_in_two_spellings_has_all_its_values(
    servicer: AuthorizeServicer, world: World, names: tuple[str, str]
):
    world.reload(RULED)
    for values in (("ok", "admin"), ("admin", "ok")):
        told = {name: pb.HeaderValues(values=[value]) for name, value in zip(names, values, strict=True)}
        asked = pb.DecideRequest(request=pb.RequestFacts(route_id="public", method="GET", path="/", headers=told))
        assert await effect(servicer, OPERATOR, asked) == pb.EFFECT_DENY


@pytest.mark.parametrize("end", ["removed", "broken"])
async def test_a_route_that_is_not_served_is_none_for_programs(servicer: AuthorizeServicer, world: World, end: str):
    """Envoy may still ask about a removed one by its digest; they would take an answer for one about what is configured."""
    config = (
        CONFIG.replace("    to: http://127.0.0.1:9002\n", "")
        if end == "broken"
        else CONFIG.partition("  - name: public")[0]
    )
    world.reload(config + GATEWAYS)
    assert "public" in world.evaluator.snapshot.routes
    asked = pb.DecideRequest(request=pb.RequestFacts(route_id="public", method="GET", path="/"))
    with asking(OPERATOR):
        with pytest.raises(NotFoundError):
            await servicer.Decide(asked, CONTEXT)
        assert "public" not in (await servicer.ListAccessible(pb.ListAccessibleRequest(), CONTEXT)).route_ids
