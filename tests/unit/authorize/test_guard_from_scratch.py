"""Whatever has happened, a stream is open only if the request that began it would be let in now.

Each change reaches the watcher as in a deployment: by the records' listener, by the configuration, or by the clock. Then the very
bytes of each open stream's request are asked of an authorizer without a past. One that is not told of something it depends on is
found by this, whatever the criterion; what no list of dependences can name is not forgotten either.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.authorize.builders import ISSUER, passed
from tests.unit.authorize.remembering import EVERYTHING, HOSTS, PARTS, ROUTE, STAFF, Ask, Lived
from tests.unit.authorize.test_guard_watcher import Link, description
from tests.unit.authorize.test_remembered import HISTORY, answer_of

from doorward.envoy_api.envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from doorward.identity.session import CLAIMS_NOT_KNOWN
from doorward.identity.user import user_id
from doorward.policy.criteria import BY_NAME
from doorward.policy.nodes import terms
from doorward_authorize.guard.watcher import Watcher

HISTORIES, STEPS = 25, 12
POLICIES = {
    "claimed": "[{allow: {and: [{claim/department: eng}]}}]",
    "barred": "[{allow: {and: [{authenticated_user: true}]}}, {deny: {or: [{claim/department: {is: ops, optional: true}}, "
    "{record: {type: hr.example/employee, field: level, is: 4, optional: true}}, {grant: other}]}}]",
    "strong": "[{allow: {nor: [{authentication: {methods: [pwd]}}, {groups: {has: others}}, {device: {type: any}}]}}, "
    "{allow: {and: [{authentication: {provider: [corp, ci], context_class: mfa}}]}}]",
    "timed": "[{allow: {or: [{date: {before: 2027-01-15T09:30:00, timezone: UTC}}, "
    '{time_of_day: {after: "10:00", before: "23:00", timezone: Europe/Madrid}}, {day_of_week: {in: sat, timezone: UTC}}]}}]',
    "shaped": "[{allow: {and: [{http_method: GET}, {http_path: /}, {http_host: {ends_with: .example.com}}]}}, "
    "{deny: {or: [{cors_preflight: true}, {http_query/tenant: {is: red, optional: true}}]}}]",
    "named": "[{allow: {or: [{user: USER}, {domain: other.example}]}}]",
    "bare": "[{allow: {or: [{accept: true}]}}, {deny: {or: [{invalid_client_certificate: true}, {reject: true}]}}]",
    "migrated": "{dialect: ppl, rules: [{allow: {or: [{accept: true}]}}, "
    "{deny: {or: [{groups: others}, {claim/department: ops}, {http_path: /x}, {source_ip: 192.0.2.0/24}]}}]}",
}
"""What the routes there do not compare."""


def _policies() -> str:
    made = []
    for name, policy in POLICIES.items():
        certificate = "    client_certificate: fact\n" if name == "bare" else ""
        issuers = "    token_issuers: [ci]\n" if name in {"barred", "strong"} else ""
        made.append(ROUTE.format(name=name) + certificate + issuers + f"    policy: {policy}\n")
    return "".join(made).replace("USER", user_id(ISSUER, "alice"))


def guarded(config: str) -> str:
    """``config`` with further routes, all of them guarded."""
    plain = (config + _policies()).replace("    continuous: true\n", "")
    return plain.replace("    policy:", "    continuous: true\n    policy:")


class Guarded(Lived):
    """An authorizer with a past and a guard."""

    def __init__(self, folder: Path) -> None:
        self.watcher: Watcher | None = None
        super().__init__(folder)
        self.link = Link()
        self.requests: dict[int, bytes] = {}
        self.asks: dict[int, Ask] = {}
        self.watcher = Watcher(self.evaluator, self.principals, self.records.is_fresh, self.clock, self.metrics)
        self.watcher.join(self.link)

    def put(self, kind: str, record_id: str, data: bytes | None) -> None:
        super().put(kind, record_id, data)
        if self.watcher is not None:
            self.watcher.on_record(kind, record_id)

    def reload(self, config: str) -> None:
        before = self.evaluator.snapshot
        super().reload(guarded(config))
        if self.watcher is not None:
            self.watcher.on_snapshot(before, self.evaluator.snapshot)

    def account(self, *name: str, **options: Any) -> str:
        token = super().account(*name, **options)
        for kind, record_id in tuple(self.records.data):
            if kind == "ServiceAccount":
                self.put(kind, record_id, self.records.data[kind, record_id])
        return token

    async def open(self, ask: Ask) -> None:
        """Whoever is let in begins a stream."""
        data = self.written(ask)
        response = CheckResponse.FromString(await self.answer(data))
        if passed(response) and self.watcher is not None:
            number = len(self.requests)
            self.requests[number], self.asks[number] = data, ask
            self.watcher.open(self.link, number, description(response))
            compiled = self.evaluator.snapshot.routes[ask.route]
            # Envoy asks about these only until it has heard.
            is_leaving = compiled.removed_at is not None or compiled.route.broken is not None
            said = self.link.taken()
            assert said == [(number, not is_leaving, "route-changed" if is_leaving else "")], (ask, said)

    async def settled(self) -> list[int]:
        """The streams that are open after everything has been heard of."""
        assert self.watcher is not None
        self.clock.advance(0.1)
        self.watcher.on_time()
        await self.watcher.settle()
        self.link.taken()
        return sorted(self.watcher._links[self.link].streams)

    async def would_be_let_in(self, number: int) -> bool:
        return passed(CheckResponse.FromString(await answer_of(self.newborn().check(self.requests[number]))))


def changed(*replacements: tuple[str, str]) -> Callable[[Lived], object]:
    def change(world: Lived) -> None:
        config = EVERYTHING
        for old, new in replacements:
            assert old in config, old
            config = config.replace(old, new)
        world.reload(config)

    return change


CORP = EVERYTHING[EVERYTHING.index("  - id: corp") : EVERYTHING.index("  - id: staff")]
DIRECTORIES = EVERYTHING[EVERYTHING.index("directories:\n") : EVERYTHING.index("token_issuers:\n")]
MORE: dict[str, Callable[[Lived], object]] = {
    "claims-not-known": lambda world: world.session(claims_json=CLAIMS_NOT_KNOWN),
    "claims-elsewhere": lambda world: world.session(claims_json=b'{"_claim_names":{"department":"src1"}}'),
    "another-user": lambda world: world.session(user_id="f" * 32),
    "class-lost": lambda world: world.session(context_class="weak"),
    "directory-set-back": lambda world: world.synchronise(-1_800.0),
    "state-gone": lambda world: world.drop("DirectoryState"),
    "state-spoiled": lambda world: world.spoil("DirectoryState", "people"),
    "grant-spoiled": lambda world: world.spoil("Grant", f"{user_of('alice')}/{'0' * 32}"),
    "grant-to-come": lambda world: world.grant(life=90.0),
    "account-shortened": lambda world: world.account("robot", life=90),
    "provider-removed": changed((CORP, "")),
    "provider-replaced": changed((f"issuer: {ISSUER}", "issuer: https://new.example.com")),
    "provider-renamed": changed(("- id: corp", "- id: corp2")),
    "directory-removed": changed((DIRECTORIES, "")),
    "directory-renamed": changed(("- id: people", "- id: folk")),
    "directory-of-another": changed(("identity_provider: staff", "identity_provider: corp")),
    "directory-stale-sooner": changed(("stale_after: 1h", "stale_after: 5m")),
    "kind-removed": changed(("grants:\n  - {name: on-call, routes: [granted], longest: 4h}\n", "")),
    "audience-removed": changed(("audiences: [doorward]", "audiences: [elsewhere]")),
    "algorithm-removed": changed(("audiences: [doorward]", "audiences: [doorward], signing_algorithms: [RS256]")),
    "groups-claim-removed": changed((", claims: {groups: teams}", "")),
    "certificates-ignored": changed(("    client_certificate: fact\n", "")),
    "certificates-speak": changed(("    client_certificate: fact\n", "    client_certificate: principal\n")),
    "paths-with-parameters": changed(
        ("to: https://127.0.0.1:9003\n", "to: https://127.0.0.1:9003\n    path_parameters: allow\n")
    ),
    "moved": changed(("127.0.0.1:9003", "127.0.0.1:9993")),
    "routes-removed": changed(*((ROUTE.format(name=name) + PARTS[name], "") for name in ("told", "recent"))),
    "origins-removed": changed(('    allowed_origins: ["https://friend.example.com"]\n', "")),
    "sensitive": changed(("    to: https://127.0.0.1:9003\n", "    to: https://127.0.0.1:9003\n    sensitive: true\n")),
    "other-header-read": changed(("{http_header/x-team: blue}", "{http_header/x-tool: {exists: false}}")),
    "half-an-hour": lambda world: world.clock.advance(1_800),
    "a-day": lambda world: world.clock.advance(86_400),
}
STEPS_TAKEN = {**HISTORY, **MORE}
NOT_THE_WATCHERS = {
    # The guard itself cuts by the age of its proof.
    "stale", "fresh",
    # A session that only the databroker knows is asked for by checks alone.
    "databroker-knows", "databroker-fails",
    # What is missing hinders an answer, and decides nothing.
    "cluster-token-gone",
    # A token that was good is of the future then.
    "set-back",
}  # fmt: skip
STEP_NAMES = sorted(STEPS_TAKEN.keys() - NOT_THE_WATCHERS)


def user_of(name: str) -> str:
    return user_id(ISSUER if name == "alice" else STAFF, name)


ROUTES = (*HOSTS, *POLICIES)
ASKS = (
    *(Ask(route=route, cookie=name) for route in ROUTES for name in ("alice", "dora")),
    *(Ask(route=route, authorization=(name,)) for route in ROUTES for name in ("robot", "owned", "ci")),
    *(Ask(route=route, certificate="laptop") for route in ("machine", "told", "bare")),
    *(Ask(route=route, cookie="alice", certificate="phone") for route in ("told", "bare")),
    *(Ask(route=route) for route in ROUTES),
    *(Ask(route="asked", cookie="alice", headers={"x-team": name}) for name in ("blue", "red")),
    Ask(route="asked", path="/?tenant=blue", headers={"x-tool": "x"}),
    Ask(route="app", cookie="alice", method="POST", headers={"origin": "https://friend.example.com"}),
    Ask(route="shaped", method="OPTIONS", headers={"origin": "https://a.example"}),
)


async def live(world: Guarded, seed: int) -> tuple[int, int]:
    """Live through a history; how many streams there were, and how many were cut."""
    choices = random.Random(seed)
    done: list[str] = []
    for _ in range(STEPS):
        for ask in choices.sample(ASKS, 25):
            await world.open(ask)
        done.append(choices.choice(STEP_NAMES))
        STEPS_TAKEN[done[-1]](world)
        for number in await world.settled():
            assert await world.would_be_let_in(number), (seed, done, world.asks[number])
    return len(world.requests), len(world.requests) - len(await world.settled())


@pytest.mark.parametrize("seed", range(HISTORIES))
async def test_s86_whoever_would_not_be_let_in_now_has_no_open_stream(tmp_path: Path, seed: int):
    world = Guarded(tmp_path)
    opened, cut = await live(world, seed)
    assert opened > 20
    assert cut


@pytest.mark.parametrize("step", STEP_NAMES)
async def test_s86_each_change_ends_the_streams_that_it_concerns(tmp_path: Path, step: str):
    world = Guarded(tmp_path)
    for ask in ASKS:
        await world.open(ask)
    STEPS_TAKEN[step](world)
    for number in await world.settled():
        assert await world.would_be_let_in(number), world.asks[number]


def test_s86_every_criterion_is_read_by_some_route(tmp_path: Path):
    world = Guarded(tmp_path)
    written = {
        term.criterion
        for item in world.evaluator.snapshot.settings.routes
        for rule in item.policy.rules
        for term in terms(rule.group)
    }
    assert written == set(BY_NAME)
