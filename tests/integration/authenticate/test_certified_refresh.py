"""A session's life at the certified provider, which rotates refresh tokens and ends all when one is used twice."""

import asyncio
import re
import secrets
import urllib.parse
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest
from tests.support.certified_provider import certified_provider
from tests.support.deployment import free_port, short_folder
from tests.support.jumping_clock import JumpingClock
from tests.support.key_material import keyring
from tests.support.records import StoreRecords
from tests.support.redis_server import Topology, topology

from doorward.clock import SystemClock
from doorward.config.settings import IdentityProviderSettings
from doorward.errors import NotFoundError
from doorward.identity.session import Session
from doorward.identity.user import User
from doorward.keys.sealed import Sealer
from doorward.keys.secret import Secret
from doorward.keys.store import Purpose
from doorward_authenticate.errors import ProviderRefusedError
from doorward_authenticate.identity_providers.relying_party import OidcRelyingParty
from doorward_authenticate.session_life.refresher import Attended, Refresher
from doorward_authenticate.session_life.schedule import Rhythm
from doorward_authenticate.session_life.tokens import KeptTokens
from doorward_authenticate.sessions import SessionLimits, SessionWriter
from doorward_databroker.store.codec import SealedCodec
from doorward_databroker.store.redis import RedisStore

pytestmark = pytest.mark.timeout(60)

REDIRECT = "https://authenticate.example.com/.doorward/callback/corp"
LIFE = 600.0
"""Of an access token there."""


@dataclass
class Place:
    issuer: str
    process: psutil.Process
    servers: Topology


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    port = free_port()
    with (
        topology("valkey") as servers,
        short_folder() as folder,
        certified_provider(port, "site", "secret", REDIRECT, Path(folder) / "log") as issuer,
    ):
        (node,) = [child for child in psutil.Process().children(recursive=True) if str(port) in child.cmdline()[2:4]]
        yield Place(issuer, node, servers)


@dataclass
class Line:
    """To the provider: what went over it, and whether it is up."""

    asked: list[str] = field(default_factory=list)
    is_down: bool = False

    async def pass_on(self, request: httpx.Request) -> None:
        if self.is_down:
            raise httpx.ConnectError("no route to the provider")
        self.asked.append(request.url.path)


@dataclass
class World:
    place: Place
    clock: JumpingClock
    client: httpx.AsyncClient
    party: OidcRelyingParty
    sides: list[StoreRecords]
    refreshers: list[Refresher]
    writer: SessionWriter
    sealer: Sealer
    line: "Line"

    async def sign_in(self, person: str = "alice") -> str:
        nonce, verifier = secrets.token_hex(16), secrets.token_hex(32)
        url = await self.party.authorization_url(state="s", nonce=nonce, code_verifier=verifier)
        code, issuer = await _through_the_pages(url, person)
        since = await self.writer.moment()
        signed_in = await self.party.finish(code=code, response_issuer=issuer, nonce=nonce, code_verifier=verifier)
        assert signed_in.refresh_token is not None
        return (await self.writer.begin(self.party, signed_in, set(), since)).session.id

    async def is_live(self, session_id: str) -> bool:
        try:
            await self.sides[0].get("Session", session_id)
        except NotFoundError:
            return False
        return True

    async def kept(self, session_id: str) -> KeptTokens:
        return KeptTokens.from_record(await self.sides[0].get("SessionTokens", session_id), self.sealer)


@pytest.fixture
async def world(place: Place) -> AsyncIterator[World]:
    clock = JumpingClock()
    place.servers.forget_everything()
    line = Line()
    settings = IdentityProviderSettings(
        id="corp", name="Corp", issuer=place.issuer, client_id="site", client_secret=Secret("secret"),
        scopes=("openid", "email", "groups", "profile"), signing_algorithms=("RS256",), email_domains=None,
        groups_claim="groups",
    )  # fmt: skip
    sealer = Sealer(keyring(Purpose.PROVIDER_TOKENS))
    rhythm = Rhythm(ask_every_seconds=LIFE, idle_seconds=None)
    stores = [RedisStore(place.servers.link(), SealedCodec(keyring(Purpose.RECORDS)), clock) for _ in range(2)]
    async with httpx.AsyncClient(trust_env=False, timeout=1.0, event_hooks={"request": [line.pass_on]}) as client:
        party = OidcRelyingParty(settings, REDIRECT, client, SystemClock())
        sides = [StoreRecords(clock, store) for store in stores]
        refreshers = [
            Refresher(side, sealer, lambda: {"corp": party}, lambda: rhythm, clock, lambda: 0.0) for side in sides
        ]
        limits = SessionLimits(lifetime_seconds=36_000, most_sessions=None, rhythm=rhythm)
        writer = SessionWriter(sides[0], sealer, limits, clock, jitter=lambda: 0.0)
        try:
            yield World(place, clock, client, party, sides, refreshers, writer, sealer, line)
        finally:
            for store in stores:
                await store.close()


async def _through_the_pages(url: str, person: str) -> tuple[str, str | None]:
    """What a browser does there: login, then consent; the code, and the issuer that came with it."""
    form = {"login": person, "password": "any"}
    async with httpx.AsyncClient(trust_env=False) as browser:
        while True:
            answer = await browser.get(url)
            if answer.is_redirect:
                url = urllib.parse.urljoin(url, answer.headers["location"])
                if url.startswith(REDIRECT):
                    query = urllib.parse.parse_qs(urllib.parse.urlsplit(url).query)
                    return query["code"][0], query.get("iss", [None])[0]
                continue
            action = re.search(r'action="([^"]+)"', answer.text)
            prompt = re.search(r'name="prompt" value="([^"]+)"', answer.text)
            assert action is not None, answer.text
            assert prompt is not None, answer.text
            posted = await browser.post(
                urllib.parse.urljoin(url, action[1]),
                data={"prompt": prompt[1], **(form if prompt[1] == "login" else {})},
            )
            url = urllib.parse.urljoin(url, posted.headers["location"])


async def test_s48_two_hundred_uses_at_expiry_refresh_once_and_the_rotated_token_serves_again(world: World):
    session_id = await world.sign_in()
    for _ in range(2):
        before = await world.kept(session_id)
        world.clock.offset += LIFE
        world.line.asked.clear()
        outcomes = await asyncio.gather(*(world.refreshers[n % 2].attend(session_id) for n in range(200)))
        assert world.line.asked.count("/token") == 1
        assert [outcome for outcome in outcomes if outcome is not Attended.BUSY] == [Attended.RENEWED]
        after = await world.kept(session_id)
        assert after.tokens.refresh_token not in {None, before.tokens.refresh_token}
        assert await world.is_live(session_id)
    session = Session.from_bytes((await world.sides[0].get("Session", session_id)).data)
    user = User.from_bytes((await world.sides[0].get("User", session.user_id)).data)
    assert user.groups == {"admins", "eng"}
    assert user.email == "alice@example.com"


async def test_a_provider_that_cannot_be_reached_ends_nobodys_session_and_is_asked_again(world: World):
    session_id = await world.sign_in()
    world.clock.offset += LIFE
    world.line.is_down = True
    assert await world.refreshers[0].attend(session_id) is Attended.POSTPONED
    assert await world.refreshers[1].attend(session_id) is Attended.BUSY
    assert await world.is_live(session_id)
    world.line.is_down = False
    world.clock.offset += 60
    assert await world.refreshers[1].attend(session_id) is Attended.RENEWED


async def test_an_answer_that_is_lost_after_the_provider_has_rotated_ends_the_session_at_its_refusal(world: World):
    """The only copy of the next refresh token is gone. The provider takes our second use for a thief's, and says no."""
    session_id = await world.sign_in()
    world.clock.offset += LIFE
    world.place.process.suspend()
    try:
        assert await world.refreshers[0].attend(session_id) is Attended.POSTPONED
    finally:
        world.place.process.resume()
    assert await world.is_live(session_id)
    world.clock.offset += 60
    assert await world.refreshers[1].attend(session_id) is Attended.ENDED
    assert not await world.is_live(session_id)


async def test_what_the_provider_has_revoked_ends_the_session_and_its_tokens(world: World):
    session_id = await world.sign_in("bob")
    tokens = (await world.kept(session_id)).tokens
    answer = await world.client.post(
        f"{world.place.issuer}/token/revocation", data={"token": tokens.refresh_token}, auth=("site", "secret")
    )
    assert answer.status_code == 200, answer.text
    world.clock.offset += LIFE
    assert await world.refreshers[0].attend(session_id) is Attended.ENDED
    assert not await world.is_live(session_id)
    with pytest.raises(NotFoundError):
        await world.kept(session_id)


async def test_a_refresh_token_that_somebody_else_has_used_ends_the_session(world: World):
    """The provider sees a second use and withdraws everything; whoever stole it gains nothing that lasts, and neither do we."""
    session_id = await world.sign_in()
    stolen = (await world.kept(session_id)).tokens.refresh_token
    assert stolen is not None
    await world.party.renew(stolen, "alice")
    world.clock.offset += LIFE
    assert await world.refreshers[0].attend(session_id) is Attended.ENDED
    assert not await world.is_live(session_id)
    with pytest.raises(ProviderRefusedError):
        await world.party.renew(stolen, "alice")


async def test_userinfo_follows_the_person_before_the_tokens_end(world: World):
    session_id = await world.sign_in()
    world.clock.offset += LIFE / 3
    kept = await world.kept(session_id)
    assert kept.due_at > world.clock.now()
    assert await world.refreshers[0].attend(session_id) is Attended.BUSY
    assert (await world.party.userinfo(kept.tokens.access_token, "alice"))["groups"] == ["admins", "eng"]
