"""A decision id is explained by whoever is asked, as long as it is known anywhere."""

import asyncio
import json
from typing import Any

import pytest
from tests.unit.authorize.builders import CONFIG, World, passed, status, world

from doorward.api.authorize.v1 import authorize_pb2 as pb
from doorward.envoy_api.envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from doorward.errors import NotFoundError, UnavailableError
from doorward_authorize import checker
from doorward_authorize.checker import SHED_RECORDS
from doorward_authorize.explanations import KEEP_SECONDS, PER_MINUTE, RECORD_TYPE, Explanations
from doorward_authorize.held_decisions import HeldDecisions

__all__ = ["world"]


async def refused(world: World, **headers: str) -> str:
    cookie = world.sign_in(groups=frozenset({"eng"}), host="admin.example.com")
    response = await world.check("admin", cookie=cookie, **headers)
    assert status(response) == 403
    named = {option.header.key: option.header.value for option in response.denied_response.headers}
    return named["x-doorward-decision-id"]


def another(world: World) -> Explanations:
    """Another authorizer over the same records."""
    return Explanations(HeldDecisions(), world.stored, world.clock, world.metrics)


async def test_a_refusal_with_a_page_is_explained_by_any_authorizer_for_a_day(world: World):
    decision_id = await refused(world, accept="text/html")
    await world.explanations.flush()
    here, there = await world.explanations.of(decision_id), await another(world).of(decision_id)
    assert here == there
    assert there.decision.id == decision_id
    assert there.decision.effect == pb.EFFECT_DENY
    assert there.route == "admin"
    assert "groups" in there.text
    world.clock.advance(KEEP_SECONDS)
    with pytest.raises(NotFoundError):
        await another(world).of(decision_id)


async def test_other_decisions_are_explained_only_where_they_were_made(world: World):
    decision_id = await refused(world)
    await world.explanations.flush()
    assert (await world.explanations.of(decision_id)).route == "admin"
    with pytest.raises(NotFoundError):
        await another(world).of(decision_id)


@pytest.mark.parametrize("decision_id", ["", "nonsense", "a b", "x" * 5_000, "Session/1"])
async def test_an_id_that_is_none_is_not_found(world: World, decision_id: str):
    with pytest.raises(NotFoundError):
        await world.explanations.of(decision_id)


async def test_one_person_cannot_fill_the_store(world: World):
    for _ in range(PER_MINUTE + 5):
        await refused(world, accept="text/html")
    await world.explanations.flush()
    assert sum(world.stored.puts) == PER_MINUTE
    assert world.registry.get_sample_value("doorward_refusals_unkept_total") == 5
    world.clock.advance(60)
    await refused(world, accept="text/html")
    await world.explanations.flush()
    assert sum(world.stored.puts) == PER_MINUTE + 1


async def test_a_store_that_is_away_costs_the_record_and_nothing_else(world: World, monkeypatch: pytest.MonkeyPatch):
    async def away(_: object) -> None:
        raise UnavailableError("away")

    monkeypatch.setattr(world.stored, "put", away)
    decision_id = await refused(world, accept="text/html")
    await world.explanations.flush()
    assert (await world.explanations.of(decision_id)).route == "admin"
    assert world.registry.get_sample_value("doorward_refusals_unkept_total") == 1


async def test_a_record_says_nothing_that_only_the_person_should_know(world: World):
    """The cookie above all: it is kept in memory with the request, and must not get out with the explanation."""
    cookie = world.sign_in(groups=frozenset(), host="admin.example.com")
    await world.check("admin", cookie=cookie, accept="text/html")
    await world.explanations.flush()
    names = [key[1] for key in world.stored.store._records if key[0] == RECORD_TYPE]  # type: ignore[attr-defined]
    record = await world.stored.get(RECORD_TYPE, names[0])
    assert cookie.split("=")[1].encode() not in record.data


def named_id(response: CheckResponse) -> str | None:
    headers = {option.header.key: option.header.value for option in response.denied_response.headers}
    return headers.get("x-doorward-decision-id")


async def lines(world: World) -> list[dict[str, Any]]:
    await world.log.flush()
    return [json.loads(line) for line in (world.folder / "decisions.jsonl").read_text().splitlines()]


async def test_what_was_another_route_s_is_said_in_words(world: World):
    public = CONFIG[CONFIG.index("  - name: public") :]
    part = public.replace("name: public", "name: part").replace("    to:", "    prefix: /@team\n    to:")
    world.reload(CONFIG.replace(public, part + public))
    await world.check("public", path="/%40team")
    await world.check("public", x_who="admin@example.com")
    path, header = [(await world.explanations.of(record["decision_id"])).text for record in await lines(world)]
    assert path.endswith("is for (path-of-another-route)")
    assert header.endswith("older than that route (header-not-deleted)")


async def test_whatever_a_check_comes_to_its_id_has_one_record_and_an_explanation(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    """Every verdict; what Envoy answers behind a yes is told no id, and still is found by the one in its record."""
    cookie, token = world.sign_in(), world.account()
    foreign = {"origin": "https://evil.example", "sec_fetch_site": "cross-site"}
    asked: dict[str, dict[str, Any]] = {
        "user-ok": {"cookie": cookie},
        "user-unauthenticated": {},
        "foreign-origin": {"method": "POST", "cookie": cookie, **foreign},
        "credentials-conflict": {"cookie": cookie, "authorization": f"Bearer {token}"},
        "credential-not-accepted": {"authorization": "Bearer " + token[:-4] + "AAAA"},
        "configuration-unknown": {"digest": "another"},
        "path-not-utf-8": {"path": "/%ff"},
        "preflight": {
            "method": "OPTIONS",
            "origin": "https://friend.example.com",
            "access_control_request_method": "POST",
        },
        "unmatched": {"route": "@unmatched", "digest": "internal"},
        "own-page": {"route": "@pages", "digest": "internal"},
    }
    responses = {reason: await world.check(**{"route": "app", **options}) for reason, options in asked.items()}
    world.records.age = 60
    responses["data-stale"] = await world.check("public")
    responses["check-failed"] = CheckResponse.FromString(await world.answer(b"\xff"))
    responses["overloaded"] = CheckResponse.FromString(world.checker.overloaded(b""))
    records = await lines(world)
    assert [record["reasons"] for record in records] == [[reason] for reason in responses]
    assert len({record["decision_id"] for record in records}) == len(records)
    for (reason, response), record in zip(responses.items(), records, strict=True):
        explained = await world.explanations.of(record["decision_id"])
        assert explained.decision.id == record["decision_id"]
        assert list(explained.decision.reasons) == [reason]
        assert (explained.decision.effect == pb.EFFECT_ALLOW) == (record["outcome"] == "allow")
        assert json.loads(explained.json)
        assert len(explained.text) > len(reason) + 10
        assert named_id(response) in {None, record["decision_id"]}
    failed = records[-2]
    assert (failed["route"], failed["status"], failed["outcome"]) == ("", 503, "unavailable")
    monkeypatch.setattr(world.evaluator, "decide", None)
    await world.check("public", path="/private")
    broken = (await lines(world))[-1]
    assert (broken["route"], broken["reasons"]) == ("public", ["check-failed"]), "what was read is recorded"


async def test_checks_that_are_shed_are_recorded_up_to_a_bound_and_beyond_it_have_no_id(world: World):
    answers = [CheckResponse.FromString(world.checker.overloaded(b"")) for _ in range(SHED_RECORDS + 7)]
    assert {status(answer) for answer in answers} == {503}
    ids = [found for answer in answers if (found := named_id(answer)) is not None]
    assert len(set(ids)) == len(ids) == SHED_RECORDS
    assert "decision_id" not in answers[-1].denied_response.body
    records = await lines(world)
    assert [record["decision_id"] for record in records] == ids
    assert world.registry.get_sample_value("doorward_checks_shed_total") == SHED_RECORDS + 7
    assert world.registry.get_sample_value("doorward_decision_log_drops_total") == 7
    world.clock.advance(1)
    assert named_id(CheckResponse.FromString(world.checker.overloaded(b""))) is not None


async def test_a_check_that_would_have_to_wait_behind_too_many_is_shed(world: World, monkeypatch: pytest.MonkeyPatch):
    """Whoever holds cookies of sign-ins that nobody has heard of must not make everybody wait."""
    monkeypatch.setattr(checker, "WAITING_LIMIT", 1)
    cookie = world.sign_in(number=500)
    del world.records.data[next(key for key in world.records.data if key[0] == "Session")]
    world.records.hangs = True
    data = world.request("app", cookie=cookie)
    first = world.checker.check(data)
    assert not isinstance(first, bytes)
    waiting = asyncio.ensure_future(first)
    await asyncio.sleep(0)
    second = world.checker.check(data)
    assert isinstance(second, bytes), "refused at once"
    assert status(CheckResponse.FromString(second)) == 503
    assert world.registry.get_sample_value("doorward_checks_shed_total") == 1
    assert passed(await world.check("public")), "what needs not wait is answered"
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert world.checker._waiting == 0


async def test_what_was_shed_drives_no_decision_of_a_policy_out(world: World):
    decision_id = await refused(world)
    world.held._unasked._limit = 100_000
    for _ in range(500):
        world.checker.overloaded(b"")
    assert (await world.explanations.of(decision_id)).route == "admin"
    assert 100 < len(world.held) < 200


async def test_audit_or_deny_has_a_failed_check_on_the_disk_before_its_answer(world: World):
    world.log.audit_or_deny = True
    running = asyncio.create_task(world.log.run())
    try:
        response = CheckResponse.FromString(await world.answer(b"\xff"))
        text = (world.folder / "decisions.jsonl").read_text()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert status(response) == 503
    assert json.loads(text)["decision_id"] == named_id(response)
