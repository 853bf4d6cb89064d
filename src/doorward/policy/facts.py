"""All that a policy may look at, as one typed value.

``None`` means unknown, which never lets anyone in; an empty collection is known to be empty.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantFacts:
    """A just-in-time grant that was approved; whether it is live is asked at every decision."""

    name: str
    """The kind of grant, as the policy calls it."""
    routes: frozenset[str]
    """Ids of the routes that it counts for."""
    starts_at: float
    """Seconds since the Unix epoch, inclusive."""
    ends_at: float
    """Exclusive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """A device whose credential was proven in this session."""

    id: str
    type: str
    """``enclave_only`` for a platform authenticator, ``any`` for every other."""
    approved: bool = False
    """Whether an administrator has approved it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCertificateFacts:
    """A certificate that the client proved to hold and that the listener's authorities vouch for."""

    fingerprint: str
    """SHA-256 of the certificate, 64 lower-case hexadecimal digits."""
    spki_hash: str
    """SHA-256 of the public key info, in base64."""
    san_dns: tuple[str, ...] = ()
    san_email: tuple[str, ...] = ()
    san_uri: tuple[str, ...] = ()
    not_before_at: float
    """Seconds since the Unix epoch, inclusive."""
    not_after_at: float
    """Inclusive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrincipalFacts:
    """Who asks."""

    user_id: str
    subject: str = ""
    email: str | None = None
    """Canonical, verified, and vouched for by an authority for its domain; anything less is ``None``."""
    groups: frozenset[str] | None = None
    """Everything that their groups are called, or whatever the source names groups by."""
    group_ids: frozenset[str] | None = None
    """Where the source tells ids from names; else ``groups`` counts as ids."""
    group_names: frozenset[str] | None = None
    group_emails: frozenset[str] | None = None
    claims: Mapping[str, object] | None = field(default_factory=dict)
    """``None``: nobody has told them."""
    session_id: str | None = None
    identity_provider_id: str | None = None
    authenticated_at: float | None = None
    """Seconds since the Unix epoch; ``None`` when nobody says so."""
    methods: tuple[str, ...] = ()
    """Authentication methods (`amr`, RFC 8176); none: nobody says."""
    context_class: str | None = None
    """Authentication context class (`acr`); ``None`` when nobody says."""
    devices: tuple[DeviceFacts, ...] | None = None
    grants: tuple[GrantFacts, ...] | None = None
    records: Mapping[str, Mapping[str, object] | None] = field(default_factory=dict)
    """External records about this person by type; ``None`` is known not to exist, a missing type is unknown."""


@dataclass(slots=True, kw_only=True)
class RequestFacts:
    """What is asked for. The caller has refused paths that two servers could read differently.

    Not frozen, because one is made for each check and that would cost as much as deciding; never changed.
    """

    method: str
    host: str
    """Lower case, without port."""
    path: str
    """Without query, percent-decoded once."""
    raw_path: str = ""
    query: str = ""
    headers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Lower-case names, each value by itself."""
    known_headers: frozenset[str] | None = None
    """Names of the headers that were told, absent ones too: any other is unknown and not absent. ``None``: all were."""
    client_address: str | None = None
    client_certificate: ClientCertificateFacts | None = None
    """``None``: none that counts."""
    is_certificate_unknown: bool = False
    """Nobody who is believed has said whether there is one."""
    route: str = ""
    """Id of the route."""


@dataclass(slots=True, kw_only=True)
class Facts:
    """One request as a policy sees it. There is no body in it, and there will be none: it is never read. Not frozen, as above."""

    principal: PrincipalFacts | None
    """``None``: nobody is signed in."""
    request: RequestFacts
    now: float
    """Seconds since the Unix epoch."""
