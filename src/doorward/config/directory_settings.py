"""Directories as the planes get them: frozen, parsed values.

Credentials are references that the worker resolves when it needs them: no other plane has to hold them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from doorward.config.references import Reference
from doorward.identity.directory import VERIFIED_EMAIL


@dataclass(frozen=True, slots=True, kw_only=True)
class ScimConnection:
    """A directory that pushes to us."""

    tokens: tuple[Reference, ...]
    """Keyed hashes of the accepted bearer tokens are made from these."""
    join_attribute: str
    """`externalId` or `id`: what holds the value of the join claim."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LdapConnection:
    """An LDAP server."""

    url: str
    bind_dn: str
    password: Reference
    ca_file: Path | None
    users_base: str
    users_filter: str
    disabled_filter: str | None
    """Entries that also match it are inactive."""
    groups_base: str
    groups_filter: str
    entry_id: str
    """The attribute that identifies people and groups and never changes."""
    user_name: str
    user_email: str
    group_name: str
    group_email: str
    membership: str
    """`member` on groups, or `memberof` on people."""
    member_attribute: str
    page_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeycloakConnection:
    """A realm of a Keycloak."""

    url: str
    realm: str
    client_id: str
    client_secret: Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class GithubConnection:
    """An organisation on GitHub or a GitHub Enterprise Server."""

    url: str
    organisation: str
    token: Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class OktaConnection:
    """An Okta organisation."""

    url: str
    token: Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class EntraConnection:
    """A Microsoft Entra tenant."""

    tenant: str
    client_id: str
    client_secret: Reference
    login_url: str
    graph_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GoogleConnection:
    """A Google Workspace customer."""

    customer: str
    administrator: str
    """The administrator that the service account acts for."""
    service_account: Reference
    """Its key file, as JSON."""
    api_url: str
    token_url: str


Connection: TypeAlias = (
    ScimConnection
    | LdapConnection
    | KeycloakConnection
    | GithubConnection
    | OktaConnection
    | EntraConnection
    | GoogleConnection
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectorySettings:
    """One directory."""

    id: str
    kind: str
    identity_provider_id: str
    """The identity provider whose users it describes."""
    join: str
    """The claim, or claims joined by ``+``, whose value names an entry; or ``verified_email``."""
    group_names: bool
    """Whether policy may name groups by name."""
    every_seconds: float
    """How often it is read; does not apply to one that pushes."""
    stale_seconds: float | None
    """Older than this its groups are not known; ``None`` never."""
    removal_limit: float
    """Part of all entries that may vanish at once before that is taken for a mistake."""
    connection: Connection

    @property
    def joins_by_email(self) -> bool:
        """Whether the operator chose the join that an address can be claimed for."""
        return self.join == VERIFIED_EMAIL

    @property
    def pushes(self) -> bool:
        """Whether it comes to us."""
        return isinstance(self.connection, ScimConnection)
