"""Who asks, as far as it is known; found out by ``principals`` and ``service_accounts``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from doorward.identity.session import Session
from doorward.identity.user import User
from doorward.policy import PrincipalFacts
from doorward.records.record import RecordVersion
from doorward_authorize.directories import Mark
from doorward_authorize.external_records import ExternalMark
from doorward_authorize.grants import GrantsMark


class Credential(StrEnum):
    """What vouches for somebody."""

    COOKIE = "cookie"
    """Browsers send it without being asked, so what it vouches for must not be another site's idea."""
    CERTIFICATE = "certificate"
    """The same holds for it."""
    TOKEN = "token"  # noqa: S105  # a kind, not a token


class Records(Protocol):
    """What is known of sessions and users here: a replica."""

    @property
    def version(self) -> RecordVersion:
        """Everything up to here is applied."""
        ...

    @property
    def is_following(self) -> bool:
        """Whether a databroker is telling what changes."""
        ...

    def get(self, record_type: str, record_id: str) -> bytes | None:
        """The payload of a live record."""
        ...

    async def wait_for_version(self, version: RecordVersion, timeout_seconds: float) -> bool:
        """Whether everything up to ``version`` is applied in time."""
        ...


@dataclass(frozen=True, slots=True)
class ExternalToken:
    """A token that verified, with what is needed to look at it again."""

    issuer: str
    subject: str
    key: str
    """Thumbprint of the key that signed it (RFC 7638)."""
    expires_at: float
    claims: bytes
    """JSON of what is not protocol."""
    session_id: str
    audiences: frozenset[str]
    algorithm: str


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who is signed in."""

    session: Session
    user: User
    facts: PrincipalFacts
    user_data: bytes
    """The user record that the facts come from; part of what a cached assertion depends on."""
    directory_mark: Mark | None = None
    """What the directory's word was made from; ``None`` when no directory describes this person."""
    good_until: float = float("inf")
    """When the word of the directory, or of an external source, becomes too old."""
    other_marks: tuple[GrantsMark, ExternalMark] = ((), ())
    """What grants and external records were made from."""
    external_ids: Mapping[str, str] = field(default_factory=dict)
    """By kind, the id of the external record about this person."""
    credential: Credential = Credential.COOKIE
    external: ExternalToken | None = None
    """The token of another issuer that says so."""
    key: bytes = b""
    """Id of the key that the token of ours was hashed with. A cookie names its own: many of different keys are one principal's."""
    owner_id: str = ""
    """The user who answers for a program, or empty."""
    stands_on: frozenset[tuple[str, str]] = frozenset()
    """Type and id of records about somebody else by which it is accepted."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """Somebody who is signed in and no longer counts."""

    reason: str
    session_id: str
    user_id: str


@dataclass(frozen=True, slots=True)
class Unaccepted:
    """Somebody who presents a token that is nobody's: it is neither accepted nor overlooked."""


@dataclass(frozen=True, slots=True)
class Conflicting:
    """Credentials of different principals at once: whichever counted, somebody would act as somebody else."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Somebody with a session that nobody can look up at the moment."""


Found = Principal | Rejected | Unaccepted | Conflicting | Unknown | None
"""``None`` for nobody."""
