"""Session records, as the sign-in flow needs them."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from doorward.api.session.v1 import session_pb2
from doorward.clock import Clock
from doorward.errors import ConflictError, NotFoundError
from doorward.identity import session as session_records
from doorward.identity import user as user_records
from doorward.identity.session import Session
from doorward.keys.sealed import Sealer
from doorward.records.client import Revoked
from doorward.records.record import Record, RecordVersion, Write
from doorward_authenticate.identity_providers.claims import (
    authentication_from,
    personal_claims,
    user_from,
)
from doorward_authenticate.identity_providers.relying_party import RelyingParty, SignedInAt

TOKENS_TYPE = "SessionTokens"
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

    async def revoke(self, *, session_id: str) -> Revoked:
        """End a session, and say whether everybody knows."""
        ...


@dataclass(frozen=True, slots=True)
class LiveSession:
    """A session that is stored and has not ended."""

    session: Session
    version: RecordVersion


class SessionWriter:
    """Begins, finds and ends sessions."""

    def __init__(
        self,
        records: Records,
        tokens: Sealer,
        lifetime_seconds: float,
        clock: Clock,
        new_id: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self._records = records
        self._tokens = tokens
        self.lifetime_seconds = lifetime_seconds
        self._clock = clock
        self._new_id = new_id

    async def begin(self, party: RelyingParty, signed_in: SignedInAt, replaced_id: str | None) -> LiveSession:
        """Store a new session, under a new id, and end the browser's previous one in the same write.

        Raises:
            DoorwardError: not, or not certainly, stored; nobody is signed in.
        """
        now = self._clock.now()
        user = user_from(party.settings, signed_in.claims, signed_in.userinfo, now)
        how = authentication_from(signed_in.claims, now)
        session = Session(
            id=self._new_id(),
            user_id=user.id,
            identity_provider_id=party.settings.id,
            issued_at=now,
            expires_at=now + self.lifetime_seconds,
            authenticated_at=how.authenticated_at,
            methods=how.methods,
            context_class=how.context_class,
            provider_session_id=how.provider_session_id,
            claims_json=personal_claims(signed_in.claims, signed_in.userinfo),
        )
        writes = [
            Write(record=Record(type=user_records.RECORD_TYPE, id=user.id, data=user.to_bytes())),
            Write(record=self._tokens_record(session, signed_in)),
            Write(record=session_record(session), absent=True),
        ]
        if replaced_id is not None and replaced_id != session.id:
            writes.insert(0, Write(record=Record(type=session_records.RECORD_TYPE, id=replaced_id, deleted=True)))
            writes.insert(0, Write(record=Record(type=TOKENS_TYPE, id=replaced_id, deleted=True)))
        versions = await self._records.put(writes)
        return LiveSession(session, versions[-1])

    async def live(self, session_id: str) -> LiveSession | None:
        """The session while it lives; asked of the databroker, not of any copy.

        Raises:
            DoorwardError: it cannot be known now.
        """
        try:
            record = await self._records.get(session_records.RECORD_TYPE, session_id)
        except NotFoundError:
            return None
        session = Session.from_bytes(record.data)
        return None if session.is_expired(self._clock.now()) else LiveSession(session, record.version)

    async def end(self, session_id: str) -> None:
        """End a session; returns once its end is stored.

        Raises:
            DoorwardError: it is not, or not certainly, stored.
        """
        await self._records.revoke(session_id=session_id)

    async def spend(self, spent_id: str) -> bool:
        """Mark a code as spent; false when it was already.

        Raises:
            DoorwardError: it cannot be known; the code must count as spent.
        """
        record = Record(type=SPENT_TYPE, id=spent_id, expires_at=self._clock.now() + SPENT_SECONDS)
        try:
            await self._records.put([Write(record=record, absent=True)])
        except ConflictError:
            return False
        return True

    def _tokens_record(self, session: Session, signed_in: SignedInAt) -> Record:
        """The identity provider's tokens, sealed before they leave this plane."""
        kept = "\0".join((signed_in.refresh_token or "", signed_in.access_token, signed_in.id_token)).encode()
        message = session_pb2.SessionTokens(
            session_id=session.id, sealed=self._tokens.seal(kept, b"tokens\0" + session.id.encode())
        )
        return Record(type=TOKENS_TYPE, id=session.id, data=message.SerializeToString(), expires_at=session.expires_at)


def session_record(session: Session) -> Record:
    """The record of ``session``."""
    return Record(
        type=session_records.RECORD_TYPE,
        id=session.id,
        data=session.to_bytes(),
        expires_at=session.expires_at,
        indexes={"user_id": session.user_id},
    )
