"""The people that questions are asked about: those of a file, or those that a running deployment knows.

Of a running deployment these are everybody who has signed in, with the claims of their newest live session, and
everybody in its directories who has not yet.
"""

import json
import time
from dataclasses import dataclass, field

from doorward.cli.access import Access
from doorward.cli.operate import with_records
from doorward.config.directory_settings import DirectorySettings
from doorward.config.settings import Settings
from doorward.errors import DataCorruptedError
from doorward.identity import directory as directories
from doorward.identity import session as sessions
from doorward.identity import user as users
from doorward.identity.directory import DirectoryGroup, DirectoryState, DirectoryUser
from doorward.identity.session import Session
from doorward.identity.user import User
from doorward.policy import PrincipalFacts
from doorward.policy.access import PERSON
from doorward.policy.written_facts import NOBODY, read_people, read_principal
from doorward.records.client import RecordClient
from doorward.source import Node, Problems

_FACTS_BY_KEY = {
    "authenticated_at": "authentication",
    "methods": "authentication",
    "context_class": "authentication",
    "identity_provider_id": "authentication",
    "devices": "devices",
    "grants": "grants",
    "records": "record",
}
"""Keys of a person in a file, and the fact that is known once they are written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody to ask about."""

    name: str
    """How people call them: the name in a file, or the e-mail address."""
    user_id: str = ""
    facts: PrincipalFacts | None
    """``None``: nobody is signed in."""
    known: frozenset[str] = PERSON
    """Which of the facts count; the others are open."""
    standing: str = ""
    """Why policy is not even asked, when it is not: a disabled account, an identity provider that is gone."""
    note: str = ""


ANYBODY = Person(name=NOBODY, facts=None, note="not signed in")


def people_of_file(node: Node, problems: Problems, now: float) -> list[Person]:
    """The people in a file, in its order."""
    found = []
    for name, written in read_people(node, problems).items():
        facts = read_principal(written, now, Problems(), name=name)
        if facts is not None:
            known = {_FACTS_BY_KEY[str(key.value)] for key, _ in written.entries if str(key.value) in _FACTS_BY_KEY}
            found.append(Person(name=name, user_id=facts.user_id, facts=facts, known=PERSON | known))
    return found


def people_of_deployment(deployment: Access, settings: Settings) -> list[Person]:
    """Everybody that the databroker of a running deployment knows, by name.

    Raises:
        ConfigurationError: nothing runs there.
    """
    now = time.time()
    return _Reader(settings, now).people(with_records(deployment, _read))


@dataclass(slots=True)
class _Records:
    users: list[User] = field(default_factory=list)
    sessions: dict[str, Session] = field(default_factory=dict)
    """The newest session of each user."""
    entries: dict[str, DirectoryUser] = field(default_factory=dict)
    groups: dict[str, DirectoryGroup] = field(default_factory=dict)
    states: dict[str, DirectoryState] = field(default_factory=dict)


async def _read(client: RecordClient) -> _Records:
    found = _Records()
    found.users = [User.from_bytes(record.data) async for record in client.list(users.RECORD_TYPE)]
    async for record in client.list(sessions.RECORD_TYPE):
        session = Session.from_bytes(record.data)
        other = found.sessions.get(session.user_id)
        if other is None or other.issued_at < session.issued_at:
            found.sessions[session.user_id] = session
    async for record in client.list(directories.USER_TYPE):
        found.entries[record.id] = DirectoryUser.from_bytes(record.data)
    async for record in client.list(directories.GROUP_TYPE):
        found.groups[record.id] = DirectoryGroup.from_bytes(record.data)
    async for record in client.list(directories.STATE_TYPE):
        found.states[record.id] = DirectoryState.from_bytes(record.data)
    return found


class _Reader:
    def __init__(self, settings: Settings, now: float) -> None:
        self._settings = settings
        self._now = now

    def people(self, records: _Records) -> list[Person]:
        found = [self._of_user(user, records) for user in records.users]
        joined = {user.directory_user_id for user in records.users}
        found += [self._of_entry(key, entry, records) for key, entry in records.entries.items() if key not in joined]
        return sorted(found, key=lambda person: (person.name, person.user_id))

    def _of_user(self, user: User, records: _Records) -> Person:
        provider = next((item for item in self._settings.identity_providers if item.issuer == user.issuer), None)
        name = user.email or user.id
        if provider is None:
            return Person(name=name, user_id=user.id, facts=None, standing="identity provider no longer accepted")
        if not user.active:
            return Person(name=name, user_id=user.id, facts=None, standing="account inactive")
        groups, note = user.groups, ""
        directory = self._settings.directory_of(provider.id)
        if directory is not None:
            entry = records.entries.get(user.directory_user_id)
            if entry is None or not user.directory_user_id.startswith(f"{directory.id}/"):
                groups, note = None, "not in the directory"
            elif not entry.active:
                return Person(name=name, user_id=user.id, facts=None, standing="inactive in the directory")
            else:
                groups = self._groups(entry, directory, records)
        session = records.sessions.get(user.id)
        if session is not None and session.is_expired(self._now):
            session = None
        claims = None if session is None else _claims(session)
        facts = PrincipalFacts(
            user_id=user.id,
            subject=user.subject,
            email=user.trusted_email(provider.email_domains),
            groups=groups,
            claims=claims,
            identity_provider_id=provider.id,
        )
        # Claims live in sessions: of somebody without one they are not known, which is not the same as absent.
        known = PERSON if claims is not None else PERSON - {"claim"}
        return Person(name=name, user_id=user.id, facts=facts, known=known, note=note)

    def _of_entry(self, key: str, entry: DirectoryUser, records: _Records) -> Person:
        """Somebody who has not signed in: what the directory says, and the address that they would sign in with."""
        directory = next((item for item in self._settings.directories if item.id == entry.directory_id), None)
        name = entry.email or entry.display_name or key
        if directory is None:
            return Person(name=name, facts=None, standing="directory no longer configured")
        if not entry.active or entry.removed:
            return Person(name=name, facts=None, standing="inactive in the directory")
        provider = self._settings.identity_provider(directory.identity_provider_id)
        if provider is None:
            return Person(name=name, facts=None, standing="identity provider no longer accepted")
        signing_in = User(id="-", issuer=provider.issuer, subject="-", email=entry.email, email_verified=True)
        facts = PrincipalFacts(
            user_id="",
            email=signing_in.trusted_email(provider.email_domains),
            groups=self._groups(entry, directory, records),
            claims=None,
        )
        return Person(name=name, facts=facts, known=PERSON - {"claim"}, note="has not signed in yet")

    def _groups(self, entry: DirectoryUser, directory: DirectorySettings, records: _Records) -> frozenset[str] | None:
        """As the authorizer reads them: not known when the directory is silent for too long or a group is missing."""
        state = records.states.get(directory.id)
        if state is None or self._now >= state.good_until(directory.stale_seconds):
            return None
        groups = directories.groups_of(entry, records.groups.get)
        return None if groups is None else frozenset().union(*(group.callings for group in groups))


def _claims(session: Session) -> dict[str, object] | None:
    """``None`` where they are not known."""
    if not session.claims_json:
        return None
    try:
        value = json.loads(session.claims_json)
    except ValueError as error:
        raise DataCorruptedError("the claims of a session are no JSON") from error
    return value if isinstance(value, dict) else None
