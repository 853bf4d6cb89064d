"""Tokens of other issuers: only on routes that list them, only with known keys, and never beyond their end."""

import base64
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc.jwk import ECKey, RSAKey
from tests.support.token_issuer import CI, TokenIssuer, symmetric_with_the_public_key
from tests.unit.authorize.builders import CONFIG, World, passed, set_headers, status
from tests.unit.authorize.test_directories import DIRECTORY
from tests.unit.authorize.test_guard_changes import as_of_an_older_version
from tests.unit.authorize.test_guard_watcher import Streams, description
from tests.unit.authorize.test_refusals import body

from doorward.envoy_api.envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from doorward.identity.directory import DirectoryUser, directory_user_id
from doorward.identity.issuer_keys import KEEP_SECONDS
from doorward.identity.user import User, user_id

ISSUERS = f"""\
token_issuers:
  - {{id: ci, issuer: "{CI}", audiences: [doorward, other], claims: {{groups: teams}}}}
  - {{id: unlisted, issuer: "https://unlisted.example.net", audiences: [doorward]}}
"""
ROUTES = """\
  - name: builds
    from: https://builds.example.com
    to: http://127.0.0.1:9003
    token_issuers: [ci]
    continuous: true
    claim_headers: {x-groups: groups}
    policy: [{allow: {or: [{claim/repository: org/app}, {groups: {has: admins}}]}}]
  - name: passing
    from: https://passing.example.com
    to: http://127.0.0.1:9004
    token_issuers: [ci]
    pass_bearer: true
    policy: [{allow: {and: [{authenticated_user: true}]}}]
  - name: open
    from: https://open.example.com
    to: http://127.0.0.1:9005
    token_issuers: [ci]
    policy: [{allow: {or: [{accept: true}]}}]
"""


class Issued(World):
    """A world that trusts an issuer."""

    def __init__(self, folder: Path) -> None:
        self.ci = TokenIssuer()
        super().__init__(folder, CONFIG.replace("routes:\n", ISSUERS + "routes:\n") + ROUTES)
        self.learn(self.ci)

    def learn(self, issuer: TokenIssuer) -> None:
        key, data = issuer.record(self.clock.now())
        self.records.data[key] = data

    def token(self, **options: object) -> str:
        return self.ci.token(self.clock.now(), **{"repository": "org/app", **options})  # type: ignore[arg-type]

    async def ask(self, route: str, token: str, **options: str) -> CheckResponse:
        return await self.check(route, authorization=f"Bearer {token}", **options)


@pytest.fixture
def world(tmp_path: Path) -> Issued:
    return Issued(tmp_path)


async def test_a_token_counts_where_its_issuer_is_listed_and_stays_here(world: Issued):
    response = await world.ask("builds", world.token(teams=["b", "a"]))
    assert passed(response)
    assert "authorization" in response.ok_response.headers_to_remove
    assert set_headers(response)["x-groups"] == "a,b"
    assertion = set_headers(response)["x-doorward-jwt-assertion"].split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(assertion + "=" * (-len(assertion) % 4)))
    assert claims["sub"] == user_id(CI, "build-7")
    assert claims["groups"] == ["a", "b"]


async def test_a_route_may_pass_it_on(world: Issued):
    response = await world.ask("passing", world.token())
    assert passed(response)
    assert "authorization" not in response.ok_response.headers_to_remove
    assert "authorization" not in set_headers(response)


async def test_a_program_may_change_things_without_an_origin(world: Issued):
    """No browser sends such a token by itself."""
    foreign = {"method": "POST", "origin": "https://evil.example", "sec_fetch_site": "cross-site"}
    assert passed(await world.ask("passing", world.token(), **foreign))


async def test_elsewhere_it_is_the_applications_and_nobody_looks(world: Issued):
    assert status(await world.ask("app", world.token())) == 401
    response = await world.ask("public", world.token())
    assert passed(response)
    assert "authorization" not in response.ok_response.headers_to_remove
    unlisted = TokenIssuer("https://unlisted.example.net")
    world.learn(unlisted)
    response = await world.ask(
        "passing", unlisted.token(world.clock.now()), cookie=world.sign_in(host="passing.example.com")
    )
    assert passed(response), "a token of somebody that the route does not list is none of ours"
    assert "authorization" not in response.ok_response.headers_to_remove


BAD = {
    "expired": {"exp": 1.0},
    "without an end": {"exp": None},
    "an end that is no time": {"exp": "soon"},
    "an end that is true": {"exp": True},
    "not valid yet": {"nbf": 4e9},
    "from the future": {"iat": 4e9},
    "for somebody else": {"aud": "elsewhere"},
    "for a longer name": {"aud": "doorward.evil"},
    "for nobody": {"aud": None},
    "for an empty list": {"aud": []},
    "for a number": {"aud": [1, None]},
    "about nobody": {"sub": None},
    "about an empty name": {"sub": ""},
    "about a list": {"sub": ["build-7"]},
    "of a type of its own": {"header": {"typ": "dpop+jwt"}},
    "with what must be understood": {"header": {"crit": ["x"], "x": 1}},
    "with an unknown key": {"header": {"kid": "two"}},
}


@pytest.mark.parametrize("bad", BAD)
async def test_what_is_not_as_it_must_be_is_refused_even_beside_a_cookie(world: Issued, bad: str):
    token = world.token(**BAD[bad])
    for sent in ({}, {"cookie": world.sign_in(host="builds.example.com")}):
        response = await world.ask("builds", token, **sent)
        assert status(response) == 401
        assert '"credential-not-accepted"' in body(response)
        assert token[:40] not in str(response)
    response = await world.ask("open", token)
    assert passed(response), "where everybody may, a bad credential counts as none"
    assert "authorization" in response.ok_response.headers_to_remove, "and goes to nobody"


async def test_s51_the_token_chooses_neither_its_algorithm_nor_its_key(world: Issued):
    now = world.clock.now()
    foreign = ECKey.generate_key("P-256", {"kid": "one"})
    rsa = RSAKey.generate_key(2048, {"kid": "one"})
    embedded = {
        "jwk": foreign.as_dict(private=False),
        "jku": "https://evil.example/keys",
        "x5u": "https://evil.example",
    }
    plain = base64.urlsafe_b64encode(b'{"alg":"none","kid":"one"}').rstrip(b"=").decode()
    tokens = {
        "another key": world.ci.token(now, key=foreign),
        "a key inside": world.ci.token(now, key=foreign, header=embedded),
        "another algorithm": world.ci.token(now, key=rsa, header={"alg": "RS256"}),
        "one that is not accepted": world.ci.token(now, key=rsa, header={"alg": "PS512"}),
        "none": f"{plain}.{world.token().split('.')[1]}.",
        "the public key as a secret": symmetric_with_the_public_key(world.ci, now),
        "no signature": world.token().rpartition(".")[0] + ".",
    }
    for label, token in tokens.items():
        assert status(await world.ask("passing", token)) == 401, label


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 400), character=st.sampled_from("AbZ09-_.%"))
async def test_no_changed_character_lets_anybody_in(world: Issued, position: int, character: str):
    token = world.token()
    position %= len(token)
    changed = token[:position] + character + token[position + 1 :]
    response = await world.ask("passing", changed)
    # The last characters of a part hold bits that count for nothing; then it is the same token.
    if passed(response):
        assert [_decoded(part) for part in changed.split(".")] == [_decoded(part) for part in token.split(".")]


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


async def test_a_key_that_was_rotated_away_or_never_confirmed_counts_no_more(world: Issued):
    old = world.token()
    assert passed(await world.ask("passing", old))
    world.ci = TokenIssuer(key=ECKey.generate_key("P-256", {"kid": "two"}))
    world.learn(world.ci)
    assert status(await world.ask("passing", old)) == 401, "not even one that was looked at before"
    new = world.token(header={"kid": "two"}, exp=world.clock.now() + 2 * KEEP_SECONDS)
    assert passed(await world.ask("passing", new))
    world.clock.advance(KEEP_SECONDS)
    assert status(await world.ask("passing", new)) == 401
    world.learn(world.ci)
    assert passed(await world.ask("passing", new))
    for key in [key for key in world.records.data if key[0] == "IssuerKeys"]:
        world.records.data[key] = b"\xff\xff"
        assert status(await world.ask("passing", new)) == 401
        del world.records.data[key]
        assert status(await world.ask("passing", new)) == 401


async def test_keys_of_another_issuer_under_this_ones_name_are_none(world: Issued):
    stranger = TokenIssuer("https://stranger.example")
    (kind, _), data = stranger.record(world.clock.now())
    (_, number), _ = world.ci.record(world.clock.now())
    world.records.data[kind, number] = data
    token = stranger.token(world.clock.now(), iss=CI)
    assert status(await world.ask("passing", token)) == 401


async def test_s66_its_end_is_judged_by_the_clock_of_the_decision(world: Issued):
    token = world.token()
    assert passed(await world.ask("passing", token))
    world.clock.advance(329)
    assert passed(await world.ask("passing", token)), "clocks may differ by half a minute"
    world.clock.advance(1)
    assert status(await world.ask("passing", token)) == 401


async def test_s66_somebody_who_is_inactive_does_not_come_back_with_a_token(world: Issued):
    number = user_id(CI, "build-7")
    token = world.token()
    assert passed(await world.ask("passing", token))
    user = User(id=number, issuer=CI, subject="build-7", name="", groups=None, active=False)
    world.records.data["User", number] = user.to_bytes()
    assert status(await world.ask("passing", token)) == 401


@pytest.mark.parametrize("signed_in", [False, True])
async def test_s66_the_directory_decides_about_tokens_of_its_people_too(world: Issued, signed_in: bool):
    """Whoever never signed in here is nobody's exception: their entry is found by what the token says."""
    config = (world.folder / "doorward.yaml").read_text().replace("issuer: https://idp.example.com", f"issuer: {CI}")
    (world.folder / "directory-secret").write_text("s")
    world.reload(config + DIRECTORY)
    entry = directory_user_id("people", "sub", "build-7")
    token = world.token(teams=["admins"], repository="other/app")
    if signed_in:
        user = User(
            id=user_id(CI, "build-7"), issuer=CI, subject="build-7", name="", groups=None, directory_user_id=entry
        )
        world.records.data["User", user.id] = user.to_bytes()
    assert not passed(await world.ask("builds", token)), "the token's groups are not the directory's"
    assert passed(await world.ask("passing", token))
    gone = DirectoryUser(directory_id="people", entry_id="b", join_value="build-7", group_numbers=(), active=False)
    world.records.data["DirectoryUser", entry] = gone.to_bytes()
    assert status(await world.ask("passing", token)) == 401


async def test_an_address_in_a_token_is_not_believed_and_groups_only_if_they_are_whole(world: Issued):
    config = (
        (world.folder / "doorward.yaml").read_text().replace("{claim/repository: org/app}", "{email: a@example.com}")
    )
    world.reload(config)
    assert status(await world.ask("builds", world.token(email="a@example.com", email_verified=True))) == 403
    for teams in (None, "admins", ["admins", 1], ["admins", ""]):
        assert not passed(await world.ask("builds", world.token(teams=teams))), teams
    assert not passed(await world.ask("builds", world.token(teams=["admins"], hasgroups=True)))
    assert passed(await world.ask("builds", world.token(teams=["admins"])))


async def test_what_is_remembered_of_tokens_is_bounded(world: Issued, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("doorward_authorize.external_tokens.CACHE_LIMIT", 5)
    for number in range(20):
        assert passed(await world.ask("passing", world.token(sub=f"build-{number}")))
    known = world.principals._external_tokens
    assert known is not None
    assert len(known._verified) <= 5
    assert len(known._principals) <= 5


ENDS = ["expired", "key gone", "keys too old", "no longer listed", "inactive", "unreadable", "audience", "algorithm"]


@pytest.mark.parametrize("end", ENDS)
async def test_s86_an_open_stream_ends_with_its_token(tmp_path: Path, end: str):
    world = Issued(tmp_path)
    streams = Streams(tmp_path, world=world)
    life = 2 * KEEP_SECONDS if end == "keys too old" else 300
    response = await world.ask("builds", world.token(exp=world.clock.now() + life))
    number = streams.open(description(response))
    assert streams.link.taken() == [(number, True, "")]
    before = world.evaluator.snapshot
    (kind, record_id), _ = world.ci.record(0)
    match end:
        case "expired":
            world.clock.advance(331)
        case "keys too old":
            world.clock.advance(KEEP_SECONDS)
        case "key gone":
            world.learn(TokenIssuer())
            streams.watcher.on_record(kind, record_id)
        case "unreadable":
            world.records.data[kind, record_id] = b"\xff"
            streams.watcher.on_record(kind, record_id)
        case "inactive":
            who = user_id(CI, "build-7")
            user = User(id=who, issuer=CI, subject="build-7", name="", groups=None, active=False)
            world.records.data["User", who] = user.to_bytes()
            streams.watcher.on_record("User", who)
        case "audience":
            world.reload((tmp_path / "doorward.yaml").read_text().replace("[doorward, other]", "[other]"))
        case "algorithm":
            text = (tmp_path / "doorward.yaml").read_text()
            world.reload(
                text.replace("audiences: [doorward, other]", "audiences: [doorward], signing_algorithms: [RS256]")
            )
        case _:
            text = (tmp_path / "doorward.yaml").read_text()
            world.reload(text.replace("token_issuers: [ci]\n    continuous", "continuous"))
    streams.watcher.on_snapshot(before, world.evaluator.snapshot)
    streams.watcher.on_time()
    assert [(found, allowed) for found, allowed, _ in await streams.settle()] == [(number, False)]


async def test_a_stream_that_an_older_version_described_goes_on(tmp_path: Path):
    """It did not say whom the token was for: an update must not end every such stream."""
    world = Issued(tmp_path)
    streams = Streams(tmp_path, world=world)
    described = description(await world.ask("builds", world.token()))
    number = streams.open(as_of_an_older_version(described))
    assert streams.link.taken() == [(number, True, "")]


async def test_s86_a_stream_lives_no_longer_than_keys_that_have_gone_back(tmp_path: Path):
    """After a restore, say: who was looked at by newer ones is not good for as long as those were."""
    world = Issued(tmp_path)
    streams = Streams(tmp_path, world=world)
    response = await world.ask("builds", world.token(exp=world.clock.now() + 2 * KEEP_SECONDS))
    number = streams.open(description(response))
    assert streams.link.taken() == [(number, True, "")]
    (kind, record_id), data = world.ci.record(world.clock.now() - KEEP_SECONDS + 30)
    world.records.data[kind, record_id] = data
    streams.watcher.on_record(kind, record_id)
    assert await streams.settle() == []
    world.clock.advance(30.1)
    streams.watcher.on_time()
    assert [(found, allowed) for found, allowed, _ in await streams.settle()] == [(number, False)]


async def test_a_stream_is_described_without_the_token(world: Issued):
    token = world.token()
    described = description(await world.ask("builds", token))
    assert token.rpartition(".")[2].encode() not in described
    assert token.split(".")[1].encode() not in described
