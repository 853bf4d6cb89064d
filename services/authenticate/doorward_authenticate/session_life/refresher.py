"""One session looked after: by one process at a time, with one call to the identity provider's token endpoint."""

import asyncio
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

import structlog

from doorward.clock import Clock
from doorward.config.directory_settings import DirectorySettings
from doorward.errors import ConflictError, DoorwardError, NotFoundError, OutcomeUnknownError, UnavailableError
from doorward.identity import session as session_records
from doorward.identity import user as user_records
from doorward.identity.session import Session
from doorward.identity.user import User
from doorward.keys.sealed import Sealer
from doorward.records.client import Revoked
from doorward.records.record import Fence, Record, RecordVersion, Write
from doorward.route.header_template import Variable
from doorward_authenticate.errors import ProviderRefusedError, ProviderUnavailableError, TokenRejectedError
from doorward_authenticate.identity_providers.claims import merged_claims, personal_claims, user_from
from doorward_authenticate.identity_providers.id_token import VerifiedClaims
from doorward_authenticate.identity_providers.relying_party import RelyingParty
from doorward_authenticate.session_life.idleness import is_idle
from doorward_authenticate.session_life.schedule import (
    SHORTEST_SECONDS,
    Rhythm,
    access_ends_soon,
    next_due,
    next_retry,
)
from doorward_authenticate.session_life.tokens import RECORD_TYPE, KeptTokens
from doorward_authenticate.session_life.upstream import upstream_writes
from doorward_authenticate.sessions import session_record, user_record

ATTEMPT_SECONDS = 60.0
"""An attempt is left alone for this long: longer than all its calls may take. A crashed one is taken over after it."""
_STORE_TRIES = 30
_STORE_PAUSE_SECONDS = 1.0

_log = structlog.stdlib.get_logger(__name__)


class Attended(Enum):
    """What became of a session."""

    RENEWED = "renewed"
    ASKED = "asked"
    """Userinfo was asked; the tokens stay."""
    POSTPONED = "postponed"
    """The identity provider is away; the session goes on."""
    ENDED = "ended"
    IDLE = "idle"
    """Ended, because nobody used it."""
    BUSY = "busy"
    """Somebody else is at it, or was faster."""
    GONE = "gone"
    """There is no such session any more."""


class Records(Protocol):
    """The databroker, as far as a session's life needs it (``doorward.records.client.RecordClient``)."""

    async def get(self, record_type: str, record_id: str) -> Record:
        """The live record."""
        ...

    async def put(self, writes: list[Write], fence: Fence | None = None) -> tuple[RecordVersion, ...]:
        """Write all or nothing; with ``fence``, only while its lease was not taken again."""
        ...

    async def revoke(self, *, session_id: str) -> Revoked:
        """End a session."""
        ...


@dataclass(slots=True)
class _Found:
    """A session and its tokens, with the versions that were read."""

    kept: KeptTokens
    tokens_version: RecordVersion
    session: Session
    session_version: RecordVersion
    user: User
    user_version: RecordVersion
    is_of_lost_history: bool = False
    """Whether a new epoch has begun since its tokens were stored: somebody else's attempt may have been lost with the old one."""


class Refresher:
    """Looks after sessions. Concurrency: any number of tasks and processes; an attempt begins by compare-and-set."""

    def __init__(
        self,
        records: Records,
        sealer: Sealer,
        parties: Callable[[], Mapping[str, RelyingParty]],
        rhythm: Callable[[], Rhythm],
        clock: Clock,
        jitter: Callable[[], float] = random.random,
        directories: Callable[[], Mapping[str, DirectorySettings]] = dict,
        provider_tokens: Callable[[], frozenset[Variable]] = frozenset,
    ) -> None:
        """``provider_tokens`` are those that routes ask for."""
        self._provider_tokens = provider_tokens
        self._directories = directories
        self._records = records
        self._sealer = sealer
        self._parties = parties
        self._rhythm = rhythm
        self._clock = clock
        self._jitter = jitter

    async def attend(self, session_id: str, fence: Fence | None = None) -> Attended:
        """Do what is due for a session. With ``fence`` nothing is begun any more once somebody else has taken its lease.

        What has been begun is brought to its end either way: what the identity provider has handed out cannot be had again.

        Raises:
            DoorwardError: the databroker does not answer; nothing is lost, it stays due.
        """
        try:
            found = await self._find(session_id)
        except NotFoundError:
            return Attended.GONE
        now = self._clock.now()
        kept = found.kept
        if kept.due_at > now or (kept.attempt_until is not None and kept.attempt_until > now):
            return Attended.BUSY
        if await self._is_idle(found.session, now):
            await self._records.revoke(session_id=session_id)
            _log.info("a session has ended", session_id=session_id, why="idle")
            return Attended.IDLE
        begun = replace(kept, attempt=kept.attempt + 1, attempt_until=now + ATTEMPT_SECONDS)
        try:
            version = (await self._put_tokens(begun, found.tokens_version, fence=fence))[0]
        except ConflictError:
            return Attended.BUSY
        found.is_of_lost_history = version.epoch != found.tokens_version.epoch
        found.kept, found.tokens_version = begun, version
        party = self._parties().get(found.session.identity_provider_id)
        if party is None or party.settings.issuer != found.user.issuer:
            # Not configured any more, or another one by the same name, which must not be asked about somebody else's people: such
            # sessions are refused everywhere, and the provider may come back.
            return await self._postpone(found, "the identity provider is not configured")
        try:
            return await self._ask(found, party)
        except ProviderRefusedError as error:
            return await self._refused(found, error)
        except (ProviderUnavailableError, TokenRejectedError) as error:
            return await self._postpone(found, str(error))

    async def _ask(self, found: _Found, party: RelyingParty) -> Attended:
        """Renew what needs it, ask who the person is now, and store both.

        Raises:
            SignInError: as the identity provider's calls.
        """
        tokens, subject = found.kept.tokens, found.user.subject
        outcome, has_new_claims = Attended.ASKED, False
        userinfo: dict[str, object] | None = None
        if not access_ends_soon(tokens, self._clock.now()):
            try:
                userinfo = await party.userinfo(tokens.access_token, subject)
            except ProviderRefusedError:
                if tokens.refresh_token is None:
                    raise
            if not userinfo and tokens.refresh_token is not None:
                # There is no userinfo endpoint, so nobody was asked; the token endpoint can be, and knows who no longer counts.
                userinfo = None
        if userinfo is None and tokens.refresh_token is not None:
            renewed = await party.renew(tokens.refresh_token, subject)
            now = self._clock.now()
            tokens = replace(
                tokens,
                access_token=renewed.access_token,
                refresh_token=renewed.refresh_token or tokens.refresh_token,
                id_token=renewed.id_token or tokens.id_token,
                access_expires_at=None if renewed.access_seconds is None else now + renewed.access_seconds,
                claims=dict(renewed.claims) if renewed.claims is not None else tokens.claims,
                claims_at=now if renewed.claims is not None else tokens.claims_at,
            )
            # Stored before anything else is asked: a rotated token that is lost cannot be had again.
            found.kept = replace(found.kept, tokens=tokens)
            if not await self._store_tokens(found):
                return Attended.GONE
            outcome, has_new_claims = Attended.RENEWED, renewed.claims is not None
            userinfo = await party.userinfo(tokens.access_token, subject)
        if userinfo is None:
            # Neither a usable access token nor a refresh token: nothing can be asked until the session ends.
            return await self._settle(found, [], found.kept.session_ends_at, Attended.ASKED)
        claims = {**tokens.claims, "sub": subject}
        if not has_new_claims:
            # The kept ID token's claims are older than what userinfo says now.
            claims = merged_claims(userinfo, claims)
        # What a sign-in, or another session of the same person, has heard since the kept ID token counts more than that.
        known = found.user if round(tokens.claims_at, 3) < round(found.user.refreshed_at, 3) else None
        writes = self._changes(found, party, VerifiedClaims(claims), userinfo, known)
        due = next_due(tokens, self._rhythm(), self._clock.now(), self._jitter())
        return await self._settle(found, writes, due, outcome)

    def _changes(
        self,
        found: _Found,
        party: RelyingParty,
        claims: VerifiedClaims,
        userinfo: dict[str, object],
        known: User | None,
    ) -> list[Write]:
        """Writes for the user and the session, where they say something new."""
        writes: list[Write] = []
        directory = self._directories().get(party.settings.id)
        user = user_from(party.settings, claims, userinfo, self._clock.now(), directory, known)
        user = replace(user, unknown=found.user.unknown)
        if replace(user, refreshed_at=found.user.refreshed_at) != found.user:
            # Expected to be as it was read: whoever signs in meanwhile has heard more lately.
            writes.append(Write(record=user_record(user), expected=found.user_version))
        session = replace(found.session, claims_json=personal_claims(claims, userinfo))
        if _claims(session) != _claims(found.session):
            # Expected to be as it was read: a session that was ended meanwhile must not come back.
            writes.append(Write(record=session_record(session), expected=found.session_version))
        return writes

    async def _settle(self, found: _Found, writes: list[Write], due_at: float, outcome: Attended) -> Attended:
        """Close the attempt, and store what it found, in one write."""
        kept = replace(found.kept, due_at=due_at, attempt_until=None, failures=0)
        try:
            await self._put_tokens(kept, found.tokens_version, [*writes, *self._for_upstreams(kept)])
        except ConflictError:
            # Ended, taken over, or somebody has stored newer facts of the person: whoever did it has the last word.
            return await self._overtaken(found)
        return outcome

    async def _overtaken(self, found: _Found) -> Attended:
        """Nothing of what was found may be stored over what is newer. If the session is still ours, it is soon asked again."""
        kept = replace(found.kept, due_at=self._clock.now() + SHORTEST_SECONDS, attempt_until=None, failures=0)
        try:
            await self._put_tokens(kept, found.tokens_version)
        except ConflictError:
            return Attended.GONE
        return Attended.BUSY

    async def _postpone(self, found: _Found, reason: str) -> Attended:
        """An outage ends nobody's session."""
        failures = found.kept.failures + 1
        _log.warning("an identity provider could not be asked", session_id=found.session.id, reason=reason)
        due = next_retry(failures, self._clock.now(), self._jitter())
        kept = replace(found.kept, due_at=due, attempt_until=None, failures=failures)
        try:
            await self._put_tokens(kept, found.tokens_version)
        except ConflictError:
            return Attended.GONE
        return Attended.POSTPONED

    async def _refused(self, found: _Found, error: ProviderRefusedError) -> Attended:
        """A refusal ends the session, unless somebody has stored newer tokens than the refused ones."""
        session_id = found.session.id
        try:
            record = await self._records.get(RECORD_TYPE, session_id)
        except NotFoundError:
            return Attended.GONE
        stored = KeptTokens.from_record(record, self._sealer).tokens
        sent = found.kept.tokens
        if (stored.refresh_token, stored.access_token) != (sent.refresh_token, sent.access_token):
            return Attended.BUSY
        if found.is_of_lost_history:
            # A failover may have lost that somebody else was at it, who has newer tokens and cannot store them yet. The next
            # refusal counts.
            return await self._postpone(found, f"refused after a failover: {error}")
        await self._records.revoke(session_id=session_id)
        _log.info("a session has ended", session_id=session_id, why="refused", reason=str(error))
        return Attended.ENDED

    async def _store_tokens(self, found: _Found) -> bool:
        """Store rotated tokens, patiently; false when the session has ended meanwhile."""
        sent_attempt = found.kept.attempt
        for attempt in range(_STORE_TRIES):
            try:
                given = self._for_upstreams(found.kept)
                found.tokens_version = (await self._put_tokens(found.kept, found.tokens_version, given))[-1]
                return True
            except ConflictError:
                try:
                    record = await self._records.get(RECORD_TYPE, found.session.id)
                except NotFoundError:
                    return False
                # Another holder took over after our time: the tokens that it has are the ones we have spent.
                found.tokens_version = record.version
                taken = KeptTokens.from_record(record, self._sealer)
                found.kept = replace(found.kept, attempt=max(taken.attempt, sent_attempt))
            except (UnavailableError, OutcomeUnknownError):
                if attempt == _STORE_TRIES - 1:
                    raise
                await asyncio.sleep(_STORE_PAUSE_SECONDS)
        return False

    def _for_upstreams(self, kept: KeptTokens) -> list[Write]:
        return upstream_writes(kept, self._provider_tokens())

    async def _put_tokens(
        self, kept: KeptTokens, expected: RecordVersion, before: list[Write] | None = None, fence: Fence | None = None
    ) -> tuple[RecordVersion, ...]:
        """Store the tokens, after ``before`` and in one write with it; theirs is the last version."""
        write = Write(record=kept.to_record(self._sealer), expected=expected)
        return await self._records.put([*(before or []), write], fence)

    async def _find(self, session_id: str) -> _Found:
        tokens = await self._records.get(RECORD_TYPE, session_id)
        session = await self._records.get(session_records.RECORD_TYPE, session_id)
        value = Session.from_bytes(session.data)
        user = await self._records.get(user_records.RECORD_TYPE, value.user_id)
        return _Found(
            KeptTokens.from_record(tokens, self._sealer),
            tokens.version,
            value,
            session.version,
            User.from_bytes(user.data),
            user.version,
        )

    async def _is_idle(self, session: Session, now: float) -> bool:
        """Whether nobody has used the session for its idle time and the tenth that a report may take."""
        idle = self._rhythm().idle_seconds
        try:
            return await is_idle(self._records, session, None if idle is None else idle * 1.1, now)
        except DoorwardError:
            return False  # ending it waits for a clear answer; authorize judges by itself


def _claims(session: Session) -> object:
    """What is compared of two sessions, however it is written; ``None`` where claims are not known."""
    return json.loads(session.claims_json) if session.claims_json else None
