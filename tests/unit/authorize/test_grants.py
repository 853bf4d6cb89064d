"""A grant opens what the configuration says, for as long as both say, and nothing else."""

from pathlib import Path

import pytest
from tests.unit.authorize.builders import CONFIG, ISSUER, World, passed, status
from tests.unit.authorize.test_guard_watcher import Link, description

from doorward.identity.grant import Grant, grant_id
from doorward.identity.user import user_id
from doorward_authorize.grants import Grants
from doorward_authorize.guard.watcher import Watcher

GRANTS = (
    CONFIG
    + """\
  - name: billing
    from: https://billing.example.com
    to: http://127.0.0.1:9003
    continuous: true
    policy: [{allow: {and: [{authenticated_user: true}, {grant: on-call}]}}]
  - name: payroll
    from: https://payroll.example.com
    to: http://127.0.0.1:9004
    policy: [{allow: {and: [{grant: on-call}]}}]
grants:
  - name: on-call
    routes: [billing]
    longest: 4h
"""
)
ALICE = user_id(ISSUER, "alice")
NUMBER = "0" * 32


class GrantWorld(World):
    def __init__(self, folder: Path, config: str = GRANTS) -> None:
        super().__init__(folder, config)
        self.cookies = {name: self.sign_in(host=f"{name}.example.com") for name in ("billing", "payroll")}

    def give(self, *, name: str = "on-call", starts_in: float = 0, life: float = 3600, holder: str = ALICE) -> str:
        now = self.clock.now()
        grant = Grant(
            user_id=holder, name=name, reason="r", given_by="o", created_at=now,
            starts_at=now + starts_in, ends_at=now + starts_in + life,
        )  # fmt: skip
        self.put(grant_id(ALICE, NUMBER), grant.to_bytes())
        return grant_id(ALICE, NUMBER)

    def put(self, record_id: str, data: bytes | None) -> None:
        if data is None:
            self.records.data.pop(("Grant", record_id), None)
        else:
            self.records.data["Grant", record_id] = data
        self.principals._grants.on_record("Grant", record_id)

    async def ask(self, name: str = "billing") -> int:
        return status(await self.check(name, cookie=self.cookies[name]))


@pytest.fixture
def world(tmp_path: Path) -> GrantWorld:
    return GrantWorld(tmp_path)


async def test_nobody_gets_in_without_a_grant_and_its_holder_does_with_one(world: GrantWorld):
    assert await world.ask() == 403
    world.give()
    assert await world.ask() == 0
    bob = world.sign_in("bob", host="billing.example.com")
    assert status(await world.check("billing", cookie=bob)) == 403


async def test_it_counts_only_on_the_routes_that_the_configuration_names(world: GrantWorld):
    world.give()
    assert await world.ask("payroll") == 403
    world.reload(GRANTS.replace("routes: [billing]", "routes: [billing, payroll]"))
    assert await world.ask("payroll") == 0
    world.reload(GRANTS.replace("routes: [billing]", "routes: [payroll]"))
    assert await world.ask("billing") == 403


async def test_s66_it_ends_by_the_clock_and_no_later_than_the_configuration_allows(world: GrantWorld):
    world.give(life=100 * 3600)
    world.clock.advance(3599)
    assert await world.ask() == 0
    world.reload(GRANTS.replace("longest: 4h", "longest: 1h"))
    assert await world.ask() == 0
    world.clock.advance(0.9)
    assert await world.ask() == 0
    world.cookies["billing"] = world.sign_in(host="billing.example.com")
    world.clock.advance(0.2)
    assert await world.ask() == 403


async def test_it_counts_from_its_beginning(world: GrantWorld):
    world.give(starts_in=60)
    assert await world.ask() == 403
    world.clock.advance(60)
    assert await world.ask() == 0


@pytest.mark.parametrize("fault", ["ended", "foreign kind", "foreign holder", "spoiled", "empty"])
async def test_what_is_no_grant_of_hers_opens_nothing(world: GrantWorld, fault: str):
    record_id = world.give()
    assert await world.ask() == 0
    match fault:
        case "ended":
            world.put(record_id, None)
        case "foreign kind":
            world.give(name="other")
        case "foreign holder":
            world.give(holder="f" * 32)
        case "spoiled":
            world.put(record_id, b"\xff\xff")
        case _:
            world.put(record_id, b"")
    assert await world.ask() == 403


async def test_s65_an_open_stream_ends_with_its_grant_and_with_its_time(world: GrantWorld):
    watcher, link = (
        Watcher(world.evaluator, world.principals, world.records.is_fresh, world.clock, world.metrics),
        Link(),
    )
    watcher.join(link)
    record_id = world.give()

    async def opened(number: int) -> None:
        response = await world.check("billing", cookie=world.cookies["billing"])
        assert passed(response)
        watcher.open(link, number, description(response))
        assert link.taken() == [(number, True, "")]

    async def settled() -> list[tuple[int, bool, str]]:
        await watcher.settle()
        return link.taken()

    await opened(1)
    world.put(record_id, None)
    watcher.on_record("Grant", record_id)
    assert await settled() == [(1, False, "grant-missing")]
    world.give(life=60)
    await opened(2)
    world.clock.advance(59)
    watcher.on_time()
    assert await settled() == []
    world.clock.advance(1.1)
    watcher.on_time()
    assert await settled() == [(2, False, "grant-missing")]


async def test_a_grant_that_cannot_be_read_is_unknown_and_not_none(world: GrantWorld):
    without = "policy: [{allow: {and: [{authenticated_user: true}, {grant: {exclude: on-call}}]}}]"
    world.reload(GRANTS.replace("policy: [{allow: {and: [{authenticated_user: true}, {grant: on-call}]}}]", without))
    assert await world.ask() == 0
    record_id = world.give()
    assert await world.ask() == 403
    world.put(record_id, b"\xff\xff")
    assert await world.ask() == 403
    world.put(record_id, None)
    assert await world.ask() == 0


def test_kinds_that_cannot_count_are_pointed_out(tmp_path: Path):
    (tmp_path / "secret").write_text("s")
    world = World(tmp_path, GRANTS.replace("routes: [billing]", "routes: [biling]"))
    said = [str(warning) for warning in world.settings.warnings]
    assert any("there is no route `biling`" in line for line in said)
    assert sum("asks for a grant, and none counts for this route" in line for line in said) == 2


def test_where_nobody_tells_of_grants_they_are_unknown_and_not_none(tmp_path: Path):
    """An older databroker serves none: `not: {grant: …}` must not let in because of it."""
    known = True
    world = GrantWorld(tmp_path)
    grants = Grants(world.records.get, lambda _: known)
    kinds = world.settings.grants
    assert grants.of(ALICE, kinds) == ()
    mark = grants.mark(ALICE)
    known = False
    assert grants.of(ALICE, kinds) is None
    assert grants.mark(ALICE) != mark, "what was remembered before does not count"
