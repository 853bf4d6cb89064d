"""Session records, as the sign-in flow needs them."""

import random
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Protocol

from doorward.clock import Clock
from doorward.config.directory_settings import DirectorySettings
from doorward.config.settings import Settings
from doorward.errors import ConflictError, DataCorruptedError, NotFoundError
from doorward.identity import session as session_records
from doorward.identity import sign_in_stop
from doorward.identity import user as user_records
from doorward.identity.address import canonical_email
from doorward.identity.session import Session
from doorward.identity.upstream_token import RECORD_TYPE as UPSTREAM_TYPE
from doorward.identity.user import User
from doorward.keys.sealed import Sealer
from doorward.records.client import Revoked, Status
from doorward.records.record import Record, RecordVersion, Write
from doorward.route.header_template import Variable
from doorward_authenticate.errors import RevokedMeanwhileError
from doorward_authenticate.identity_providers.claims import (
    authentication_from,
    personal_claims,
    user_from,
)
from doorward_authenticate.identity_providers.relying_party import RelyingParty, SignedInAt
from doorward_authenticate.session_life.idleness import is_idle
from doorward_authenticate.session_life.schedule import Rhythm, next_due
from doorward_authenticate.session_life.tokens import RECORD_TYPE as TOKENS_TYPE
from doorward_authenticate.session_life.tokens import KeptTokens, ProviderTokens
from doorward_authenticate.session_life.upstream import upstream_writes

SPENT_TYPE = "SpentCode"
SPENT_SECONDS = 120.0
"""Longer than any code lives."""


class Records(Protocol):
    """The databroker, as far as sign-ins need it (``doorward.records.client.RecordClient``)."""

    async def get(self, record_type: str, record_id: str) -> Record:
        """The live record."""
        ...

    async def put(self, writes: list[Write]) -> tuple[RecordVersion, ...]:
        """Write all or nothing."""
        ...

    def query(self, record_type: str, index: str, value: str) -> AsyncIterator[Record]:
        """Every live record whose index has this value."""
        ...

    async def revoke(self, *, session_id: str) -> Revoked:
        """End a session, and say whether everybody knows."""
        ...

    async def status(self) -> Status:
        """How the databroker is, and how far the records have come."""
        ...


@dataclass(frozen=True, slots=True)
class LiveSession:
    """A session that is stored and has not ended."""

    session: Session
    version: RecordVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLimits:
    """How long sessions live, and how many one person may have."""

    lifetime_seconds: float
    most_sessions: int | None
    rhythm: Rhythm
    directories: Mapping[str, DirectorySettings] = field(default_factory=dict)
    """By identity provider."""
    provider_tokens: frozenset[Variable] = frozenset()
    """What routes put into headers."""

    @classmethod
    def of(cls, settings: Settings) -> "SessionLimits":
        """As configured."""
        return cls(
            lifetime_seconds=settings.session_lifetime_seconds,
            most_sessions=settings.session_limit,
            directories={item.identity_provider_id: item for item in settings.directories},
            provider_tokens=settings.routes_in_brief.provider_tokens,
            rhythm=Rhythm(ask_every_seconds=settings.ask_provider_seconds, idle_seconds=settings.session_idle_seconds),
        )


class SessionWriter:
    """Begins, finds and ends sessions."""

    def __init__(
        self,
        records: Records,
        tokens: Sealer,
        limits: "SessionLimits",
        clock: Clock,
        new_id: Callable[[], str] = lambda: secrets.token_hex(16),
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._records = records
        self._tokens = tokens
        self.limits = limits
        self._clock = clock
        self._new_id = new_id
        self._jitter = jitter

    async def moment(self) -> RecordVersion:
        """Where the records are now; a sign-in remembers it from before the identity provider is asked.

        Raises:
            DoorwardError: it cannot be known.
        """
        return (await self._records.status()).version

    async def begin(
        self, party: RelyingParty, signed_in: SignedInAt, replaced_ids: AbstractSet[str], since: RecordVersion
    ) -> LiveSession:
        """Store a new session, under a new id, and end the browser's previous ones in the same write.

        ``since`` is the moment at which the sign-in began.

        Raises:
            RevokedMeanwhileError: the person's sessions have been ended since; the new one is too.
            DoorwardError: not, or not certainly, stored; nobody is signed in.
        """
        now = self._clock.now()
        directory = self.limits.directories.get(party.settings.id)
        user = user_from(party.settings, signed_in.claims, signed_in.userinfo, now, directory)
        user = replace(user, unknown=await self._unknown_of(user.id))
        how = authentication_from(signed_in.claims)
        session = Session(
            id=self._new_id(),
            user_id=user.id,
            identity_provider_id=party.settings.id,
            issued_at=now,
            expires_at=now + self.limits.lifetime_seconds,
            authenticated_at=how.authenticated_at,
            methods=how.methods,
            context_class=how.context_class,
            provider_session_id=how.provider_session_id,
            claims_json=personal_claims(signed_in.claims, signed_in.userinfo),
        )
        kept = self._kept(session, signed_in)
        writes = [
            Write(record=user_record(user)),
            Write(record=kept.to_record(self._tokens)),
            *upstream_writes(kept, self.limits.provider_tokens),
            Write(record=session_record(session), absent=True),
        ]
        for replaced_id in sorted(replaced_ids - {session.id}):
            writes.insert(0, Write(record=Record(type=session_records.RECORD_TYPE, id=replaced_id, deleted=True)))
            writes.insert(0, Write(record=Record(type=TOKENS_TYPE, id=replaced_id, deleted=True)))
            writes.insert(0, Write(record=Record(type=UPSTREAM_TYPE, id=replaced_id, deleted=True)))
        versions = await self._records.put(writes)
        await self._obey_stops(session, since)
        await self._end_surplus(session)
        return LiveSession(session, versions[-1])

    async def _unknown_of(self, user_id: str) -> bytes:
        """What a newer version has written about a person; nothing when their record is to be written for the first time, or does not open."""
        try:
            record = await self._records.get(user_records.RECORD_TYPE, user_id)
            return User.from_bytes(record.data).unknown
        except (NotFoundError, DataCorruptedError):
            return b""

    async def _obey_stops(self, session: Session, since: RecordVersion) -> None:
        """End the new session if a revoke that looked before it was stored would have ended it."""
        provider = sign_in_stop.of_provider(session.identity_provider_id)
        for mark in (sign_in_stop.of_user(session.user_id), provider, sign_in_stop.ALL):
            try:
                record = await self._records.get(sign_in_stop.RECORD_TYPE, mark)
            except NotFoundError:
                continue
            if record.version > since:
                await self._records.revoke(session_id=session.id)
                raise RevokedMeanwhileError(f"sessions were ended meanwhile (`{mark}`)")

    async def _end_surplus(self, newest: Session) -> None:
        """End the oldest sessions of a person beyond the cap; the new one is never among them.

        The new session is stored and indexed before, so of two sign-ins at once at least the later one sees both.
        """
        if self.limits.most_sessions is None:
            return
        others: list[Session] = []
        async for record in self._records.query(session_records.RECORD_TYPE, "user_id", newest.user_id):
            session = Session.from_bytes(record.data)
            if session.id != newest.id and not session.is_expired(self._clock.now()):
                others.append(session)
        others.sort(key=lambda session: (session.issued_at, session.id), reverse=True)
        for surplus in others[self.limits.most_sessions - 1 :]:
            await self._records.revoke(session_id=surplus.id)

    async def live(self, session_id: str) -> LiveSession | None:
        """The session while it lives and is used; asked of the databroker, not of any copy.

        One that is idle lets nobody in, so it must be worth no code either: host and sign-in host would send the browser round in circles.

        Raises:
            DoorwardError: it cannot be known now.
        """
        try:
            record = await self._records.get(session_records.RECORD_TYPE, session_id)
        except NotFoundError:
            return None
        session, now = Session.from_bytes(record.data), self._clock.now()
        if session.is_expired(now):
            return None
        try:
            if await is_idle(self._records, session, self.limits.rhythm.idle_seconds, now):
                return None
        except DataCorruptedError:
            return None  # authorize lets nobody in by it either; to end it is another matter
        return LiveSession(session, record.version)

    async def end(self, session_id: str) -> None:
        """End a session; returns once its end is stored.

        Raises:
            DoorwardError: it is not, or not certainly, stored.
        """
        await self._records.revoke(session_id=session_id)

    async def spend(self, spent_id: str) -> int | None:
        """Mark a code as spent; the epoch in which that was stored, or ``None`` when it was already.

        Raises:
            DoorwardError: it cannot be known; the code must count as spent.
        """
        record = Record(type=SPENT_TYPE, id=spent_id, expires_at=self._clock.now() + SPENT_SECONDS)
        try:
            (version,) = await self._records.put([Write(record=record, absent=True)])
        except ConflictError:
            return None
        return version.epoch

    def _kept(self, session: Session, signed_in: SignedInAt) -> KeptTokens:
        """The identity provider's tokens, and when they are to be looked after."""
        now = self._clock.now()
        tokens = ProviderTokens(
            access_token=signed_in.access_token,
            refresh_token=signed_in.refresh_token,
            id_token=signed_in.id_token,
            access_expires_at=None if signed_in.access_seconds is None else now + signed_in.access_seconds,
            claims=dict(signed_in.claims),
            claims_at=session.issued_at,
        )
        return KeptTokens(
            session_id=session.id,
            tokens=tokens,
            due_at=next_due(tokens, self.limits.rhythm, now, self._jitter()),
            session_ends_at=session.expires_at,
        )


def user_record(user: User) -> Record:
    """The record of ``user``."""
    # Any address, verified or not: it is how operators look people up, and nothing is decided by it.
    found_by = {"directory_user": user.directory_user_id, "email": canonical_email(user.email)}
    indexes = {index: (value,) for index, value in found_by.items() if value}
    return Record(type=user_records.RECORD_TYPE, id=user.id, data=user.to_bytes(), indexes=indexes)


def session_record(session: Session) -> Record:
    """The record of ``session``."""
    return Record(
        type=session_records.RECORD_TYPE,
        id=session.id,
        data=session.to_bytes(),
        expires_at=session.expires_at,
        indexes={"user_id": (session.user_id,), "identity_provider_id": (session.identity_provider_id,)},
    )
