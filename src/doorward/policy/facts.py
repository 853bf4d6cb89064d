"""All that a policy may look at, as one typed value."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class PrincipalFacts:
    """Who asks. ``None`` means unknown, which never lets anyone in."""

    user_id: str
    subject: str = ""
    email: str | None = None
    """Canonical, verified, and vouched for by an authority for its domain; anything less is ``None``."""
    groups: frozenset[str] | None = None
    claims: Mapping[str, object] = field(default_factory=dict)
    session_id: str | None = None
    identity_provider_id: str | None = None
    authenticated_at: float | None = None
    """Seconds since the Unix epoch."""
    methods: tuple[str, ...] = ()
    """Authentication methods (`amr`, RFC 8176)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFacts:
    """What is asked for. The caller has refused paths that two servers could read differently."""

    method: str
    host: str
    """Lower case, without port."""
    path: str
    """Without query, percent-decoded once."""
    raw_path: str = ""
    query: str = ""
    headers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Lower-case names, each value by itself."""
    client_address: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One request as a policy sees it."""

    principal: PrincipalFacts | None
    """``None``: nobody is signed in."""
    request: RequestFacts
    now: float
    """Seconds since the Unix epoch."""
