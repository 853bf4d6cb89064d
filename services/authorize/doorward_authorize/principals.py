"""Credential → principal. Everything about a session is judged now, against this machine's clock.

NOBODY       no cookie, or one that is malformed, expired, foreign, or present twice: not signed in
REJECTED     somebody whose account or identity provider no longer counts here: denied wherever policy is asked
KNOWN        somebody, with the facts that policy may see
UNACCEPTED   a token that is nobody's: refused even beside a valid cookie, overlooked where everybody may
CONFLICTING  valid credentials of two principals
UNKNOWN      a cookie whose session is newer than the replica, while nobody can say whether there is one: a sign-in would not help
"""

import asyncio
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from doorward.clock import Clock
from doorward.config.settings import Settings
from doorward.errors import DataCorruptedError, DoorwardError, InvalidTokenError, NotFoundError, UnavailableError
from doorward.identity import session as sessions
from doorward.identity import user as users
from doorward.identity.cookies import SESSION_COOKIE, SIGN_IN_COOKIE, single_cookie
from doorward.identity.directory import USER_TYPE
from doorward.identity.service_account import ID_PREFIX
from doorward.identity.session import CLAIMS_NOT_KNOWN, Session
from doorward.identity.user import User
from doorward.keys.handle import HandleSealer, SessionHandle
from doorward.keys.keyring import Key
from doorward.policy import PrincipalFacts
from doorward.records.record import RecordVersion
from doorward.route.internal import InternalRoute
from doorward.route.route import Route
from doorward_authorize.activity import ActivityTracker
from doorward_authorize.check_request import CheckedRequest
from doorward_authorize.directories import Directories, Standing
from doorward_authorize.external_records import ExternalMark, ExternalRecords
from doorward_authorize.external_tokens import ExternalTokens
from doorward_authorize.grants import Grants, GrantsMark
from doorward_authorize.parsed_later import ParsedLater
from doorward_authorize.principal import (
    Conflicting,
    Credential,
    ExternalToken,
    Found,
    Principal,
    Records,
    Rejected,
    Unaccepted,
    Unknown,
)
from doorward_authorize.service_accounts import ServiceAccounts, presented_tokens

CACHE_LIMIT = 20_000
"""Entries of each cache of decoded values; when it is full it is emptied."""
WAIT_SECONDS = 0.25
"""How long a request waits for a sign-in that this replica has not heard of yet."""
ASK_SECONDS = 0.2
"""And then for what the databroker itself says; both together end before Envoy stops waiting."""


_log = structlog.stdlib.get_logger(__name__)


class RecordSource(Protocol):
    """The databroker itself, asked once when the replica is behind."""

    async def session(self, session_id: str) -> bytes:
        """The payload of a live session record.

        Raises:
            NotFoundError: there is none.
            DoorwardError: it cannot be had.
        """
        ...


@dataclass(frozen=True, slots=True)
class Learned:
    """What was found out by waiting."""

    asked: bool = False
    """Whether the databroker was asked for a session that the replica has not heard of."""
    session: bytes | None = None
    """What it said."""
    unanswered: bool = False
    """Whether it said nothing: the session may exist or not."""
    idle: bool | None = None
    """Whether the session is idle; ``None`` while nobody has asked the others."""


NOTHING = Learned()


class PendingError(Exception):
    """The answer has to wait: for a sign-in newer than the replica, or for what others know of a session's use."""

    def __init__(self, handle: SessionHandle | None = None, session: Session | None = None) -> None:
        super().__init__("more has to be found out first")
        self.handle = handle
        self.session = session


class Principals:
    """Finds out who asks."""

    def __init__(
        self,
        handles: HandleSealer,
        records: Records,
        source: RecordSource,
        clock: Clock,
        activity: ActivityTracker | None = None,
        directories: Directories | None = None,
        service_accounts: ServiceAccounts | None = None,
        grants: Grants | None = None,
        external: ExternalRecords | None = None,
        external_tokens: ExternalTokens | None = None,
    ) -> None:
        self._grants = grants if grants is not None else Grants(records.get)
        self._external = external if external is not None else ExternalRecords(records.get, clock)
        self._service_accounts = service_accounts
        self._external_tokens = external_tokens
        self._directories = directories if directories is not None else Directories(records, clock)
        self._handles = handles
        self._records = records
        self._source = source
        self._clock = clock
        self._activity = activity
        self._opened: dict[tuple[str, str], SessionHandle] = {}
        self._opened_by = handles.keys
        self._judged: dict[bytes, tuple[bytes, Settings, Principal]] = {}
        self._owned: dict[str, tuple[Principal, Principal]] = {}
        """Programs by id, as they are and with what their owner stands on; the same object again, since answers are kept by it."""

    def of(
        self,
        request: CheckedRequest,
        settings: Settings,
        learned: Learned = NOTHING,
        others: tuple[Principal | None, ...] = (),
    ) -> Found:
        """Who sent ``request``; ``others`` are what it presents besides cookies and tokens of ours, ``None`` for what is nobody's.

        Raises:
            PendingError: ``find_out`` and ask again with what it says.
        """
        tokens = presented_tokens(request) if self._service_accounts is not None else ()
        if not tokens and not others:
            return self._of_cookie(request, settings, learned)
        found = [*others]
        if self._service_accounts is not None:
            found += [self._answered_for(self._service_accounts.of_token(token), settings) for token in tokens]
        first = found[0]
        if first is None or None in found:
            return Unaccepted()
        if any(other is not first for other in found) or self._of_cookie(request, settings, learned) is not None:
            return Conflicting()
        return first

    def of_external(self, request: CheckedRequest, route: Route, settings: Settings) -> tuple[Principal | None, ...]:
        """Whose tokens of other issuers ``request`` presents; ``None`` for one that does not count."""
        return () if self._external_tokens is None else self._external_tokens.of(request, route, settings)

    def of_external_token(self, token: ExternalToken, route: Route, settings: Settings) -> Principal | None:
        """Whose token it is, as things are now; for streams that are decided again."""
        return None if self._external_tokens is None else self._external_tokens.again(token, route, settings)

    def _of_cookie(
        self, request: CheckedRequest, settings: Settings, learned: Learned
    ) -> Principal | Rejected | Unknown | None:
        name = SIGN_IN_COOKIE if request.route_id == InternalRoute.SIGN_IN else SESSION_COOKIE
        text = single_cookie(request.cookies, name)
        if not text:
            return None
        handle = self._open(text, request.host)
        if handle is None:
            return None
        data = self._records.get(sessions.RECORD_TYPE, handle.session_id)
        if data is None and RecordVersion(handle.epoch, handle.number) > self._records.version:
            if not learned.asked:
                raise PendingError(handle=handle)
            if learned.unanswered:
                return Unknown()
            data = learned.session
        if data is None:
            # Ended, while we follow. Else it may also be of a history under the same numbers that we have not met: an older store that was
            # put back. Whoever signs in then must not be sent to sign in again and again.
            return None if self._records.is_following else Unknown()
        found = self.judge(data, settings)
        if isinstance(found, Principal) and self._activity is not None:
            if not self._activity.is_recent(found.session):
                if learned.idle is None:
                    raise PendingError(session=found.session)
                if learned.idle:
                    return None
            self._activity.touch(found.session.id)
        return found

    def _open(self, text: str, host: str) -> SessionHandle | None:
        """The handle in a cookie, opened once; whether it has expired is asked every time."""
        now = self._clock.now()
        if self._handles.keys is not self._opened_by:
            # A key may have been revoked: what it opened does not count any more.
            self._opened.clear()
            self._opened_by = self._handles.keys
        handle = self._opened.get((text, host))
        if handle is not None:
            return handle if now < handle.expires_at else None
        try:
            handle = self._handles.open(text, host, now)
        except InvalidTokenError:
            return None
        if len(self._opened) >= CACHE_LIMIT:
            self._opened.clear()
        self._opened[text, host] = handle
        return handle

    def of_session(self, session_id: str, settings: Settings) -> Principal | Rejected | None:
        """Whose session it is, from the replica alone; for streams that are decided again."""
        if session_id.startswith(ID_PREFIX):
            account = None if self._service_accounts is None else self._service_accounts.of_id(session_id)
            return self._answered_for(account, settings)
        data = self._records.get(sessions.RECORD_TYPE, session_id)
        return None if data is None else self.judge(data, settings)

    def _answered_for(self, account: Principal | None, settings: Settings) -> Principal | None:
        """A program, as long as whoever answers for it would be accepted themselves."""
        if account is None or not account.owner_id:
            return account
        owner = self.of_user(account.owner_id, settings)
        if not isinstance(owner, Principal):
            return None
        records = {(users.RECORD_TYPE, account.owner_id)}
        if owner.directory_mark is not None and owner.user.directory_user_id:
            records.add((USER_TYPE, owner.user.directory_user_id))
        stands_on = frozenset(records)
        known = self._owned.get(account.session.id)
        if known is not None and known[0] is account and known[1].stands_on == stands_on:
            return known[1]
        found = replace(account, stands_on=stands_on)
        if len(self._owned) >= CACHE_LIMIT:
            self._owned.clear()
        self._owned[account.session.id] = (account, found)
        return found

    @property
    def keys(self) -> tuple[tuple[Key, ...], ...]:
        """What opens cookies and compares tokens of ours; other objects once the keys have changed."""
        accounts = self._service_accounts
        return (self._handles.keys,) if accounts is None else (self._handles.keys, accounts.keys)

    def holds_key(self, session_id: str, key_id: bytes) -> bool:
        """Whether the key is still held that the cookie, or the token, of a session or an account was made with."""
        if session_id.startswith(ID_PREFIX):
            return self._service_accounts is not None and self._service_accounts.holds(key_id)
        return self._handles.holds(key_id)

    def idle_at(self, principal: Principal) -> float:
        """When the session behind ``principal`` will be idle, as far as is known here."""
        if self._activity is None or principal.credential is not Credential.COOKIE:
            return float("inf")
        return self._activity.idle_at(principal.session)

    async def is_idle(self, principal: Principal) -> bool:
        """Whether nobody has used the session behind ``principal`` for too long; the others are asked when it looks so here."""
        if self._clock.now() < self.idle_at(principal):
            return False
        return (await self.find_out(PendingError(session=principal.session), NOTHING)).idle is not False

    def has_directory_gone_back(self, directory_id: str) -> bool:
        """See ``Directories.has_gone_back``."""
        return self._directories.has_gone_back(directory_id)

    def of_user(self, user_id: str, settings: Settings) -> Principal | Rejected | None:
        """``user_id`` as if signed in this moment; for questions about what somebody could reach."""
        user_data = self._records.get(users.RECORD_TYPE, user_id)
        if user_data is None:
            return None
        user = User.from_bytes(user_data)
        provider = next((p for p in settings.identity_providers if p.issuer == user.issuer), None)
        now = self._clock.now()
        session = Session(
            id="",
            user_id=user_id,
            identity_provider_id=provider.id if provider else "",
            issued_at=now,
            expires_at=now + 1,
            authenticated_at=now,
            claims_json=CLAIMS_NOT_KNOWN,  # they are a session's
        )
        return self._principal(session, user, user_data, settings)

    async def find_out(self, pending: PendingError, learned: Learned) -> Learned:
        """``learned`` and what ``pending`` waits for."""
        if pending.session is not None:
            idle = self._activity is None or await self._activity.is_idle(pending.session)
            return replace(learned, idle=idle)
        try:
            session = None if pending.handle is None else await self._newer(pending.handle)
        except DoorwardError as error:
            _log.warning("whether there is a newer session cannot be known", reason=str(error))
            return replace(learned, asked=True, unanswered=True)
        return replace(learned, asked=True, session=session)

    async def _newer(self, handle: SessionHandle) -> bytes | None:
        """A session written after what the replica has seen: wait a moment, then ask once.

        Raises:
            DoorwardError: nobody can say whether there is one.
        """
        version = RecordVersion(handle.epoch, handle.number)
        if await self._records.wait_for_version(version, WAIT_SECONDS):
            return None  # it is in the replica now, or has ended already
        try:
            async with asyncio.timeout(ASK_SECONDS):
                return await self._source.session(handle.session_id)
        except NotFoundError:
            return None
        except TimeoutError:
            raise UnavailableError("the databroker does not answer in time") from None

    def judge(self, data: bytes, settings: Settings) -> Principal | Rejected | None:
        """The principal of a session record, as things are now.

        Decoding is remembered for exactly these bytes of session and user and these settings; expiry is judged anew.
        """
        known = self._judged.get(data)
        if known is not None:
            user_data, judged_by, principal = known
            if (
                judged_by is settings
                and self._records.get(users.RECORD_TYPE, principal.session.user_id) is user_data
                and not principal.session.is_expired(self._clock.now())
                and self._clock.now() < principal.good_until
                and self._is_directory_unchanged(principal, settings)
                and self._other_marks(principal.user, principal.facts.email) == principal.other_marks
            ):
                return principal
        found = self._decoded(data, settings)
        if isinstance(found, Principal):
            if len(self._judged) >= CACHE_LIMIT:
                self._judged.clear()
            self._judged[data] = (found.user_data, settings, found)
        return found

    def _is_directory_unchanged(self, principal: Principal, settings: Settings) -> bool:
        if principal.directory_mark is None:
            return True  # the settings are the same object, so there is still no directory
        directory = settings.directory_of(principal.session.identity_provider_id)
        return directory is not None and self._directories.mark(principal.user, directory) == principal.directory_mark

    def _decoded(self, data: bytes, settings: Settings) -> Principal | Rejected | None:
        try:
            session = Session.from_bytes(data)
            if session.is_expired(self._clock.now()):
                return None
            user_data = self._records.get(users.RECORD_TYPE, session.user_id)
            if user_data is None:
                return Rejected("user-unknown", session.id, session.user_id)
            user = User.from_bytes(user_data)
            return self._principal(session, user, user_data, settings)
        except DataCorruptedError:
            # What cannot be read cannot speak for anybody.
            return None

    def _principal(self, session: Session, user: User, user_data: bytes, settings: Settings) -> Principal | Rejected:
        provider = settings.identity_provider(session.identity_provider_id)
        if provider is None or provider.issuer != user.issuer:
            return Rejected("identity-provider-not-accepted", session.id, user.id)
        if not user.active:
            return Rejected("user-inactive", session.id, user.id)
        standing, mark = Standing(groups=user.groups), None
        directory = settings.directory_of(provider.id)
        if directory is not None:
            # The directory's word replaces the identity provider's, also when it has none.
            mark = self._directories.mark(user, directory)
            standing = self._directories.standing(user, directory)
            if not standing.is_active:
                return Rejected("directory-inactive", session.id, user.id)
        email = user.trusted_email(provider.email_domains)
        marks, word = self._other_marks(user, email), self._external.of(user, email)
        facts = PrincipalFacts(
            user_id=user.id,
            subject=user.subject,
            email=email,
            groups=standing.groups,
            group_ids=standing.group_ids,
            group_names=standing.group_names,
            group_emails=standing.group_emails,
            claims=ParsedLater(lambda: session.claims_json) if session.claims_json else None,
            session_id=session.id,
            identity_provider_id=provider.id,
            authenticated_at=session.authenticated_at,
            methods=session.methods,
            context_class=session.context_class or None,
            grants=self._grants.of(user.id, settings.grants),
            records=word.records,
        )
        good_until = min(standing.good_until, word.good_until)
        return Principal(session, user, facts, user_data, mark, good_until, other_marks=marks, external_ids=word.ids)

    def _other_marks(self, user: User, email: str | None) -> tuple[GrantsMark, ExternalMark]:
        return self._grants.mark(user.id), self._external.mark(user, email)
