"""Sessions that are looked after, at an identity provider as strict as the strictest."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.fake_clock import FakeClock
from tests.support.key_material import keyring
from tests.support.records import StoreRecords

from doorward.config.settings import IdentityProviderSettings
from doorward.errors import NotFoundError
from doorward.identity.session import Session
from doorward.identity.user import User
from doorward.keys.sealed import Sealer
from doorward.keys.secret import Secret
from doorward.keys.store import Purpose
from doorward.route.header_template import Variable
from doorward_authenticate.errors import ProviderRefusedError
from doorward_authenticate.identity_providers.id_token import VerifiedClaims
from doorward_authenticate.identity_providers.relying_party import Renewed, SignedInAt
from doorward_authenticate.session_life.refresher import Records, Refresher
from doorward_authenticate.session_life.schedule import Rhythm
from doorward_authenticate.session_life.tokens import KeptTokens
from doorward_authenticate.sessions import SessionLimits, SessionWriter

SETTINGS = IdentityProviderSettings(
    id="corp", name="Corp", issuer="https://idp.example.com", client_id="c", client_secret=Secret("s"),
    scopes=("openid",), signing_algorithms=("RS256",), email_domains=None, groups_claim="groups",
)  # fmt: skip
LIFE = 300.0


@dataclass
class FakeProvider:
    """Rotates refresh tokens, and refuses one that was used: as strict as the strictest."""

    settings: IdentityProviderSettings = SETTINGS
    refresh: str = "r0"
    person: dict[str, Any] = field(default_factory=lambda: {"sub": "alice", "groups": ["staff"], "name": "Alice"})
    id_token_claims: dict[str, Any] | None = None
    renewals: int = 0
    asked: int = 0
    fails: Exception | None = None
    userinfo_fails: Exception | None = None
    before_answer: Callable[[], Any] | None = None

    async def authorization_url(self, *, state: str, nonce: str, code_verifier: str) -> str:
        raise NotImplementedError

    async def finish(self, *, code: str, response_issuer: str | None, nonce: str, code_verifier: str) -> SignedInAt:
        raise NotImplementedError

    async def renew(self, refresh_token: str, subject: str) -> Renewed:
        self.renewals += 1
        await asyncio.sleep(0)
        if self.before_answer is not None:
            await self.before_answer()
        if self.fails is not None:
            raise self.fails
        if refresh_token != self.refresh:
            raise ProviderRefusedError("the token endpoint answered 400 `invalid_grant`")
        self.refresh = f"r{self.renewals}"
        claims = VerifiedClaims({"sub": subject, **self.id_token_claims}) if self.id_token_claims is not None else None
        return Renewed(
            access_token=f"a{self.renewals}", refresh_token=self.refresh, id_token=None, access_seconds=LIFE,
            claims=claims,
        )  # fmt: skip

    async def userinfo(self, access_token: str, subject: str) -> dict[str, object]:
        self.asked += 1
        if self.userinfo_fails is not None:
            raise self.userinfo_fails
        return dict(self.person)


def signed_in(refresh: str | None = "r0", subject: str = "alice", email: str = "", **more: object) -> SignedInAt:
    said = {"sub": subject, "groups": ["staff"], "department": "eng", "email": email, **more}
    claims = VerifiedClaims({name: value for name, value in said.items() if value is not None})
    return SignedInAt(
        claims=claims, userinfo={}, access_token="a0", refresh_token=refresh, id_token="i", access_seconds=LIFE
    )


class World:
    def __init__(
        self,
        *,
        idle: float | None = None,
        most: int | None = None,
        records: StoreRecords | None = None,
        provider_tokens: frozenset[Variable] = frozenset(),
    ) -> None:
        self.clock = records.clock if records is not None else FakeClock()
        self.records = records or StoreRecords(self.clock)
        self.sealer = Sealer(keyring(Purpose.PROVIDER_TOKENS))
        self.provider = FakeProvider()
        self.rhythm = Rhythm(ask_every_seconds=600, idle_seconds=idle)
        self.refresher = self.another_replica()
        limits = SessionLimits(
            lifetime_seconds=36_000, most_sessions=most, rhythm=self.rhythm, provider_tokens=provider_tokens
        )
        self.writer = SessionWriter(self.records, self.sealer, limits, self.clock, jitter=lambda: 0.0)

    def another_replica(self, records: Records | None = None) -> Refresher:
        return Refresher(
            records or self.records,
            self.sealer,
            lambda: {"corp": self.provider},
            lambda: self.rhythm,
            self.clock,
            lambda: 0.0,
            provider_tokens=lambda: self.writer.limits.provider_tokens,
        )

    async def sign_in(
        self,
        *,
        refresh: str | None = "r0",
        subject: str = "alice",
        email: str = "",
        between: Callable[[], Awaitable[object]] | None = None,
        **more: object,
    ) -> str:
        """The id of the new session; ``between`` happens while the identity provider is being asked, ``more`` are claims."""
        since = await self.writer.moment()
        if between is not None:
            await between()
        return (
            await self.writer.begin(self.provider, signed_in(refresh, subject, email, **more), set(), since)
        ).session.id

    async def user(self, session_id: str) -> User:
        session = Session.from_bytes((await self.records.get("Session", session_id)).data)
        return User.from_bytes((await self.records.get("User", session.user_id)).data)

    async def kept(self, session_id: str) -> KeptTokens:
        return KeptTokens.from_record(await self.records.get("SessionTokens", session_id), self.sealer)

    async def is_live(self, session_id: str) -> bool:
        try:
            await self.records.get("Session", session_id)
        except NotFoundError:
            return False
        return True
