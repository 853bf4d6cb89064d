"""S70 and S71: every input that is declared counts at once, and nothing outlasts an error, a cancellation or a boundary in time.

The cases come from the registry of criteria: one without a case here fails, and so does one that reads a fact which nothing changes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from tests.unit.authorize.builders import ISSUER
from tests.unit.authorize.remembering import EVERYTHING, HOSTS, ROUTE, Ask, Lived
from tests.unit.authorize.test_remembered import HISTORY, arrives, compare, give_up

from doorward.errors import UnavailableError
from doorward.identity.user import user_id
from doorward.policy import PrincipalFacts
from doorward.policy.criteria import BY_NAME
from doorward.policy.criteria.port import Fact
from doorward_authorize.kubernetes import LOOK_AGAIN_SECONDS

HEAD = EVERYTHING.split("routes:\n")[0] + "routes:\n"
ALICE = Ask(route="case", cookie="alice", certificate="laptop")
NOBODY = Ask(route="case")


@dataclass(frozen=True)
class Case:
    """A term that holds for ``ask``."""

    term: str
    ask: Ask = NOBODY


CASES = {
    "accept": Case("accept: true"),
    "reject": Case("reject: true"),
    "authenticated_user": Case("authenticated_user: true", ALICE),
    "user": Case("user: {is: USER}", ALICE),
    "email": Case("email: alice@example.com", ALICE),
    "domain": Case("domain: example.com", ALICE),
    "groups": Case("groups: {has: admins}", ALICE),
    "claim": Case("claim/department: eng", ALICE),
    "authentication": Case("authentication: {max_age: 15m, methods: [otp]}", ALICE),
    "grant": Case("grant: on-call", ALICE),
    "device": Case("device: true", ALICE),
    "record": Case('record: {type: hr.example/employee, field: level, ">=": 5}', ALICE),
    "http_method": Case("http_method: GET"),
    "http_path": Case("http_path: /"),
    "http_host": Case("http_host: case.example.com"),
    "http_header": Case("http_header/x-team: blue", Ask(route="case", headers={"x-team": "blue"})),
    "http_query": Case("http_query/tenant: blue", Ask(route="case", path="/?tenant=blue")),
    "cors_preflight": Case(
        "cors_preflight: true",
        Ask(
            route="case",
            method="OPTIONS",
            headers={"origin": "https://o.example", "access-control-request-method": "GET"},
        ),
    ),
    "source_ip": Case("source_ip: 10.0.0.0/8"),
    "client_certificate": Case("client_certificate: {san_dns: laptop.example.com}", ALICE),
    "invalid_client_certificate": Case("invalid_client_certificate: true", Ask(route="case", certificate="later")),
    # The world's clock stands at 2027-01-15T08:00:00Z, a Friday.
    "date": Case("date: {before: 2027-01-16, timezone: UTC}"),
    "day_of_week": Case("day_of_week: {in: fri, timezone: UTC}"),
    "time_of_day": Case('time_of_day: {after: "07:00", before: "09:00", timezone: UTC}'),
}
Change = Callable[[Lived, Ask], Ask]
"""Changes the world or the request, and returns the request to send from then on."""


def world_changes(change: Callable[[Lived], object]) -> Change:
    def changed(world: Lived, ask: Ask) -> Ask:
        change(world)
        return ask

    return changed


def without(header: str) -> Change:
    return lambda _, ask: replace(ask, headers={name: value for name, value in ask.headers.items() if name != header})


CHANGES: dict[str, Change] = {
    Fact.PRINCIPAL: world_changes(lambda world: world.drop("Session")),
    Fact.EMAIL: world_changes(lambda world: world.user(email="alice@other.example")),
    Fact.GROUPS: world_changes(lambda world: world.user(groups=frozenset({"others"}))),
    Fact.CLAIM: world_changes(lambda world: world.session(claims_json=b'{"department":"ops"}')),
    Fact.AUTHENTICATION: world_changes(lambda world: world.session(methods=("pwd",))),
    Fact.GRANTS: world_changes(lambda world: world.drop("Grant")),
    Fact.RECORD: world_changes(lambda world: world.level(4)),
    Fact.METHOD: lambda _, ask: replace(ask, method="POST"),
    Fact.PATH: lambda _, ask: replace(ask, path="/other"),
    Fact.HOST: world_changes(lambda world: world.reload(written("http_host", host="moved"))),
    Fact.HEADER: lambda _, ask: replace(ask, headers={"x-team": "red"}),
    "http_header/origin": without("origin"),
    "http_header/access-control-request-method": without("access-control-request-method"),
    Fact.QUERY: lambda _, ask: replace(ask, path="/?tenant=red"),
    Fact.CLIENT_ADDRESS: lambda _, ask: replace(ask, address="192.0.2.1"),
    Fact.CLIENT_CERTIFICATE: lambda _, ask: replace(ask, certificate="phone"),
    Fact.ROUTE: world_changes(lambda world: world.reload(written("grant", granted="granted"))),
    # Beyond the hour of session and laptop, the half of the grant, the quarter of the authentication, and the day.
    Fact.TIME: world_changes(lambda world: world.clock.advance(3_601)),
}
"""By the fact that they change."""
OWN_CHANGES: dict[tuple[str, str], Change] = {
    (name, Fact.TIME): world_changes(lambda world: world.clock.advance(86_400)) for name in ("date", "day_of_week")
}
NEVER_HOLDS = {"reject", "device"}
"""One by its meaning; of devices nobody tells an authorizer, so that they are unknown."""


def written(name: str, *, host: str = "case", granted: str = "granted, case") -> str:
    """A configuration whose route ``case`` has the criterion's term for its policy."""
    term = CASES[name].term.replace("USER", user_of_alice())
    route = ROUTE.format(name="case").replace("case.example.com", f"{host}.example.com")
    return (
        HEAD.replace("routes: [granted]", f"routes: [{granted}]")
        + ROUTE.format(name="granted")
        + "    policy: [{allow: {or: [{reject: true}]}}]\n"
        + route
        + "    client_certificate: fact\n"
        + f"    policy: [{{allow: {{and: [{{{term}}}]}}}}]\n"
    )


def user_of_alice() -> str:
    return user_id(ISSUER, "alice")


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Lived:
    return Lived(tmp_path_factory.mktemp("lived"))


@pytest.fixture
def world(lived: Lived) -> Lived:
    """The same authorizer for every test: it remembers all of them."""
    lived.start()
    return lived


def test_s70_every_criterion_has_a_case():
    assert CASES.keys() == BY_NAME.keys()


INPUTS = [
    (name, fact)
    for name, criterion in BY_NAME.items()
    if name not in NEVER_HOLDS
    for fact in sorted(criterion.reads | criterion.also_reads)
]


@pytest.mark.parametrize(("name", "fact"), INPUTS)
async def test_s70_every_declared_input_counts_at_once(world: Lived, name: str, fact: str):
    world.reload(written(name))
    ask = CASES[name].ask
    for _ in range(2):
        assert "claims" in await compare(world, ask)
    change = OWN_CHANGES.get((name, fact)) or CHANGES[fact]
    assert "status" in await compare(world, change(world, ask))


async def test_s70_nothing_is_known_of_devices(world: Lived):
    """Once it is, their changes need a case above."""
    world.reload(written("device"))
    assert "status" in await compare(world, ALICE)
    principal = world.principals.of_user(user_of_alice(), world.evaluator.snapshot.settings)
    facts = getattr(principal, "facts", None)
    assert isinstance(facts, PrincipalFacts)
    assert facts.devices is None


USUAL = (
    *(Ask(route=route, cookie="alice") for route in HOSTS),
    *(Ask(route=route, cookie="dora") for route in ("app", "admin")),
    *(Ask(route="told", cookie="alice", certificate=name) for name in ("laptop", "later")),
    *(Ask(route="machine", certificate=name) for name in ("laptop", "later")),
    *(Ask(route=route, authorization=("ci",)) for route in ("builds", "passing")),
    *(Ask(route="admin", authorization=(name,)) for name in ("robot", "owned")),
    Ask(route="app", cookie="new"),
    Ask(route="app", headers={"accept": "text/html"}),
)
"""What people and programs usually ask."""
UNSEEN = {
    "a-minute", "dora-signed-in", "first-policy", "fresh", "granted", "group-back", "in-group", "level-high", "programs-again", "reactivated", "session-shortened",
    "shorter-grants", "signed-in", "synchronised", "synchronised-long-ago", "until-renewal",
}  # fmt: skip
"""Steps that change nothing from the beginning on, or nothing but when something ends."""


@pytest.mark.parametrize("step", sorted(HISTORY))
async def test_s70_every_change_shows_at_once(world: Lived, step: str):
    """And when something ends sooner by it, then too."""
    before = [await compare(world, ask) for ask in USUAL]
    HISTORY[step](world)
    after = [await compare(world, ask) for ask in USUAL]
    assert (before == after) is (step in UNSEEN)
    if step in UNSEEN:
        world.clock.advance(600)
        for ask in USUAL:
            await compare(world, ask)


TROUBLE: dict[str, tuple[Ask, Callable[[Lived], object], Callable[[Lived], object]]] = {
    "a token that cannot be read": (
        Ask(route="cluster", cookie="alice"),
        lambda world: world.cluster_token(None),
        lambda world: world.cluster_token("service-token-1"),
    ),
    "a user that cannot be read": (
        Ask(route="app", cookie="alice"),
        lambda world: world.spoil("User", user_of_alice()),
        lambda world: world.sign("alice"),
    ),
    "a databroker that does not answer": (
        Ask(route="app", cookie="new"),
        lambda world: setattr(world.records, "fails", UnavailableError("gone")),
        arrives,
    ),
    "old data": (
        Ask(route="app", cookie="alice"),
        lambda world: setattr(world.records, "age", 10.0),
        lambda world: setattr(world.records, "age", 0.0),
    ),
    "a directory that says nothing": (
        Ask(route="admin", cookie="dora"),
        lambda world: world.drop("DirectoryState"),
        lambda world: world.synchronise(),
    ),
}


@pytest.mark.parametrize("trouble", TROUBLE)
async def test_s71_an_error_is_over_when_its_cause_is(world: Lived, trouble: str):
    """In both directions: what was right before the error does not cover it, and it does not cover what is right after."""
    ask, begins, ends = TROUBLE[trouble]
    ends(world)
    assert "claims" in await compare(world, ask)
    for _ in range(2):
        begins(world)
        assert "status" in await compare(world, ask)
        ends(world)
        assert "claims" in await compare(world, ask)


@pytest.mark.parametrize("turns", range(5))
async def test_s71_a_check_that_is_given_up_leaves_nothing_behind(world: Lived, turns: int):
    ask = Ask(route="app", cookie="new")
    await give_up(world, ask, turns)
    assert "status" in await compare(world, ask)
    arrives(world)
    await give_up(world, ask, turns)
    assert "claims" in await compare(world, ask)
    world.records.arrives = None
    assert "status" in await compare(world, ask)


async def test_s71_a_boundary_in_time_is_not_overlooked(world: Lived):
    """To the second, for what was asked a moment before."""
    for route, ends_after in (("recent", 900.0), ("granted", 1_800.0), ("app", 3_600.0)):
        ask = Ask(route=route, cookie="alice")
        world.start()
        began = world.clock.now() - LOOK_AGAIN_SECONDS
        world.clock.jump(began + ends_after - 1)
        assert "claims" in await compare(world, ask)
        world.clock.jump(began + ends_after + 1)
        assert "status" in await compare(world, ask)
