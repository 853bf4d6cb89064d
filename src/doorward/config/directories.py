"""Directories in the file: what each kind needs, and how they become settings."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from doorward.config.directory_settings import (
    Connection,
    DirectorySettings,
    EntraConnection,
    GithubConnection,
    GoogleConnection,
    KeycloakConnection,
    LdapConnection,
    OktaConnection,
    ScimConnection,
)
from doorward.config.document import Duration, IdentityProviderDocument, StrictDocument
from doorward.config.references import Reference, check_reference
from doorward.config.validation import position_of, validate
from doorward.config.words import NAME
from doorward.identity.directory import VERIFIED_EMAIL
from doorward.source import Mapping, Node, Position, Problems, Scalar, Sequence, suggestion

_URL = re.compile(r"(https|http)://(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?(/[!-~]*)?\Z", re.ASCII)
_LDAP_URL = re.compile(r"(ldaps|ldap)://(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?/?\Z", re.ASCII)
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
_CLAIM = re.compile(r"[A-Za-z0-9_:/.-]{1,128}(?:\+[A-Za-z0-9_:/.-]{1,128}){0,2}\Z", re.ASCII)
_CHANGEABLE = frozenset(
    {"email", "preferred_username", "upn", "unique_name", "name", "nickname", "username", "userName"}
)


class DirectoryDocument(StrictDocument):
    """What every directory has."""

    id: str = Field(pattern=NAME, description="Stable short name; part of record ids.")
    identity_provider: str = Field(description="Id of the identity provider whose users it describes.")
    join: str | None = Field(
        default=None,
        description="Claim that names an entry and never changes; several are joined by `+`. `verified_email` is possible"
        " and warned about.",
    )
    group_names: bool = Field(
        default=True, description="Whether policy may name groups by name; `false` where people may make groups."
    )
    removal_limit: float = Field(
        default=0.2, ge=0, le=1, description="Part of all people or groups that may vanish at once (ten always may)."
    )


class PulledDocument(DirectoryDocument):
    """A directory that is read."""

    every: Duration = Field(default=300.0, ge=5, le=86400, description="How often it is read.")
    stale_after: Duration = Field(
        default=86400.0, ge=60, le=30 * 86400, description="When it was last read longer ago, groups are not known."
    )


class ScimDocument(DirectoryDocument):
    """SCIM 2.0: a directory that pushes to `scim.listen`, below `/<id>/v2`."""

    type: Literal["scim"] = Field(description="`scim`.")
    tokens: list[str] = Field(min_length=1, max_length=8, description="`env:NAME` or `file:PATH` of bearer tokens.")
    join_attribute: Literal["externalId", "id"] = Field(
        default="externalId", description="SCIM attribute that equals the join claim."
    )


class LdapDocument(PulledDocument):
    """LDAP."""

    type: Literal["ldap"] = Field(description="`ldap`.")
    url: str = Field(description="`ldaps://host[:port]`; `ldap://` on this machine only.")
    ca_file: str | None = Field(default=None, description="PEM file with the authorities of its certificate.")
    bind_dn: str = Field(description="Who reads.")
    password: str = Field(description="`env:NAME` or `file:PATH` of the password.")
    users_base: str = Field(description="Where people are.")
    users_filter: str = Field(default="(objectClass=inetOrgPerson)", description="Which entries are people.")
    disabled_filter: str | None = Field(default=None, description="Which of them are disabled.")
    groups_base: str = Field(description="Where groups are.")
    groups_filter: str = Field(default="(objectClass=groupOfNames)", description="Which entries are groups.")
    entry_id: str = Field(default="entryUUID", description="Attribute that identifies entries; `objectGUID` at AD.")
    user_name: str = Field(default="cn", description="Attribute with a person's name.")
    user_email: str = Field(default="mail", description="Attribute with a person's address.")
    group_name: str = Field(default="cn", description="Attribute with a group's name.")
    group_email: str = Field(default="mail", description="Attribute with a group's address.")
    membership: Literal["member", "memberof"] = Field(
        default="member", description="Whether groups list members (nesting is followed), or people their groups."
    )
    member_attribute: str | None = Field(default=None, description="Its name, if neither `member` nor `memberOf`.")
    page_size: int = Field(default=500, ge=10, le=10_000, description="Entries a page.")


class KeycloakDocument(PulledDocument):
    """Keycloak."""

    type: Literal["keycloak"] = Field(description="`keycloak`.")
    url: str = Field(description="Address of the server.")
    realm: str = Field(pattern=r"^[A-Za-z0-9._-]+$", description="Realm.")
    client_id: str = Field(description="Client with the roles `view-users` and `query-groups`.")
    client_secret: str = Field(description="`env:NAME` or `file:PATH` of its secret.")


class GithubDocument(PulledDocument):
    """GitHub."""

    type: Literal["github"] = Field(description="`github`.")
    url: str = Field(default="https://api.github.com", description="Address of the REST API.")
    organisation: str = Field(pattern=r"^[A-Za-z0-9-]+$", description="Organisation; its teams are the groups.")
    token: str = Field(description="`env:NAME` or `file:PATH` of a token with `read:org`.")


class OktaDocument(PulledDocument):
    """Okta."""

    type: Literal["okta"] = Field(description="`okta`.")
    url: str = Field(description="Address of the organisation.")
    token: str = Field(description="`env:NAME` or `file:PATH` of an API token.")


class EntraDocument(PulledDocument):
    """Microsoft Entra."""

    type: Literal["entra"] = Field(description="`entra`.")
    tenant: str = Field(pattern=r"^[A-Za-z0-9.-]+$", description="Tenant id.")
    client_id: str = Field(description="Application with `User.Read.All` and `GroupMember.Read.All`.")
    client_secret: str = Field(description="`env:NAME` or `file:PATH` of its secret.")
    login_url: str = Field(default="https://login.microsoftonline.com", description="Address of the token service.")
    graph_url: str = Field(default="https://graph.microsoft.com", description="Address of Microsoft Graph.")


class GoogleDocument(PulledDocument):
    """Google Workspace."""

    type: Literal["google"] = Field(description="`google`.")
    customer: str = Field(default="my_customer", pattern=r"^[A-Za-z0-9_]+$", description="Customer id.")
    administrator: str = Field(description="Administrator that the service account acts for.")
    service_account: str = Field(description="`file:PATH` (or `env:NAME`) of the service account's key, as JSON.")
    api_url: str = Field(default="https://admin.googleapis.com", description="Address of the Admin SDK.")
    token_url: str = Field(default="https://oauth2.googleapis.com/token", description="Address of the token service.")


DOCUMENTS: dict[str, type[DirectoryDocument]] = {
    "scim": ScimDocument,
    "ldap": LdapDocument,
    "keycloak": KeycloakDocument,
    "github": GithubDocument,
    "okta": OktaDocument,
    "entra": EntraDocument,
    "google": GoogleDocument,
}
_USUAL_JOIN = {"keycloak": "sub", "okta": "sub", "google": "sub", "entra": "tid+oid"}


class DirectoriesReader:
    """Reads the list of directories; what is wrong with one keeps the file from being used."""

    def __init__(self, folder: Path, problems: Problems, warnings: Problems) -> None:
        self._folder = folder
        self._problems = problems
        self._warnings = warnings

    def read(self, node: Node, providers: list[IdentityProviderDocument]) -> tuple[DirectorySettings, ...]:
        """The directories below ``node``."""
        if not isinstance(node, Sequence):
            self._problems.error(node.position, "expected a list of directories")
            return ()
        found: list[DirectorySettings] = []
        for item in node.items:
            settings = self._directory(item, {provider.id for provider in providers})
            if settings is None:
                continue
            for other in found:
                if other.id == settings.id:
                    self._problems.error(item.position, f"two directories have the id `{settings.id}`")
                if other.identity_provider_id == settings.identity_provider_id:
                    self._problems.error(
                        item.position,
                        f"`{other.id}` describes the users of `{settings.identity_provider_id}` already",
                        "one identity provider has one directory",
                    )
            found.append(settings)
        return tuple(found)

    def _directory(self, item: Node, providers: set[str]) -> DirectorySettings | None:
        if not isinstance(item, Mapping):
            self._problems.error(item.position, "expected a mapping with `id`, `type` and `identity_provider`")
            return None
        kind = item.get("type")
        name = str(kind.value) if isinstance(kind, Scalar) else ""
        model = DOCUMENTS.get(name)
        if model is None:
            position = kind.position if kind is not None else item.position
            expected = suggestion(name, DOCUMENTS) or f"one of {', '.join(DOCUMENTS)}"
            self._problems.error(position, f"`type` is `{name[:64]}`", expected)
            return None
        document = validate(model, item, self._problems, opaque=frozenset())
        if document is None:
            return None
        if document.identity_provider not in providers:
            self._problems.error(
                position_of(item, ("identity_provider",)),
                f"no identity provider has the id `{document.identity_provider[:64]}`",
                suggestion(document.identity_provider, providers),
            )
        join = self._join(document, name, item)
        before = len(self._problems.all)
        connection = _CONNECTIONS[name](_Reading(self._folder, item, self._problems), document)
        if join is None or len(self._problems.all) > before:
            return None
        pulled = document if isinstance(document, PulledDocument) else None
        return DirectorySettings(
            id=document.id,
            kind=name,
            identity_provider_id=document.identity_provider,
            join=join,
            group_names=document.group_names,
            every_seconds=pulled.every if pulled else 0.0,
            stale_seconds=pulled.stale_after if pulled else None,
            removal_limit=document.removal_limit,
            connection=connection,
        )

    def _join(self, document: DirectoryDocument, kind: str, item: Node) -> str | None:
        join = document.join or _USUAL_JOIN.get(kind)
        position = position_of(item, ("join",))
        if join is None:
            self._problems.error(
                item.position, f"`{document.id}` needs `join`", "the claim that equals the entry's id, such as `sub`"
            )
            return None
        if join == VERIFIED_EMAIL:
            self._warnings.warning(
                position,
                "`verified_email` joins people by an address, which can change hands",
                "an immutable claim, as soon as the identity provider sends one",
            )
            return join
        if not _CLAIM.match(join):
            self._problems.error(position, f"`join` is `{join[:64]}`", "the name of a claim, or names joined by `+`")
            return None
        if changeable := _CHANGEABLE & set(join.split("+")):
            self._problems.error(
                position,
                f"`{min(changeable)}` can change hands and joins nobody",
                "an immutable claim such as `sub` (or `verified_email`, knowing its risk)",
            )
            return None
        return join


class _Reading:
    """One directory being read."""

    def __init__(self, folder: Path, node: Mapping, problems: Problems) -> None:
        self.folder = folder
        self._node = node
        self._problems = problems

    def at(self, *location: str | int) -> Position:
        return position_of(self._node, location)

    def secret(self, text: str, *location: str | int) -> Reference:
        found = check_reference(self.folder, text, self.at(*location), self._problems)
        return found if found is not None else Reference(self.folder, text)

    def url(self, text: str, *location: str | int) -> str:
        match = _URL.match(text)
        if match is None or "?" in text or "#" in text:
            self._problems.error(self.at(*location), f"`{text[:128]}` is no address", "expected `https://host[/path]`")
        elif match[1] == "http" and match[2] not in _LOOPBACK:
            self._problems.error(self.at(*location), f"`{text}` is not encrypted", "`http` is for this machine only")
        return text.rstrip("/")

    def ldap_url(self, text: str) -> str:
        match = _LDAP_URL.match(text)
        if match is None:
            self._problems.error(self.at("url"), f"`{text[:128]}` is no address", "expected `ldaps://host[:port]`")
        elif match[1] == "ldap" and match[2] not in _LOOPBACK:
            self._problems.error(self.at("url"), f"`{text}` is not encrypted", "`ldap` is for this machine only")
        return text.rstrip("/")

    def filter(self, text: str, key: str) -> str:
        if not (text.startswith("(") and text.endswith(")") and text.count("(") == text.count(")")):
            self._problems.error(self.at(key), f"`{text[:128]}` is no filter", "such as `(objectClass=person)`")
        return text


def _scim(reading: _Reading, document: ScimDocument) -> Connection:
    tokens = tuple(reading.secret(text, "tokens", index) for index, text in enumerate(document.tokens))
    return ScimConnection(tokens=tokens, join_attribute=document.join_attribute)


def _ldap(reading: _Reading, document: LdapDocument) -> Connection:
    usual = "member" if document.membership == "member" else "memberOf"
    return LdapConnection(
        url=reading.ldap_url(document.url),
        bind_dn=document.bind_dn,
        password=reading.secret(document.password, "password"),
        ca_file=reading.folder / document.ca_file if document.ca_file else None,
        users_base=document.users_base,
        users_filter=reading.filter(document.users_filter, "users_filter"),
        disabled_filter=reading.filter(document.disabled_filter, "disabled_filter")
        if document.disabled_filter
        else None,
        groups_base=document.groups_base,
        groups_filter=reading.filter(document.groups_filter, "groups_filter"),
        entry_id=document.entry_id,
        user_name=document.user_name,
        user_email=document.user_email,
        group_name=document.group_name,
        group_email=document.group_email,
        membership=document.membership,
        member_attribute=document.member_attribute or usual,
        page_size=document.page_size,
    )


def _keycloak(reading: _Reading, document: KeycloakDocument) -> Connection:
    return KeycloakConnection(
        url=reading.url(document.url, "url"),
        realm=document.realm,
        client_id=document.client_id,
        client_secret=reading.secret(document.client_secret, "client_secret"),
    )


def _github(reading: _Reading, document: GithubDocument) -> Connection:
    return GithubConnection(
        url=reading.url(document.url, "url"),
        organisation=document.organisation,
        token=reading.secret(document.token, "token"),
    )


def _okta(reading: _Reading, document: OktaDocument) -> Connection:
    return OktaConnection(url=reading.url(document.url, "url"), token=reading.secret(document.token, "token"))


def _entra(reading: _Reading, document: EntraDocument) -> Connection:
    return EntraConnection(
        tenant=document.tenant,
        client_id=document.client_id,
        client_secret=reading.secret(document.client_secret, "client_secret"),
        login_url=reading.url(document.login_url, "login_url"),
        graph_url=reading.url(document.graph_url, "graph_url"),
    )


def _google(reading: _Reading, document: GoogleDocument) -> Connection:
    return GoogleConnection(
        customer=document.customer,
        administrator=document.administrator,
        service_account=reading.secret(document.service_account, "service_account"),
        api_url=reading.url(document.api_url, "api_url"),
        token_url=reading.url(document.token_url, "token_url"),
    )


_CONNECTIONS: dict[str, Callable[[_Reading, Any], Connection]] = {
    "scim": _scim,
    "ldap": _ldap,
    "keycloak": _keycloak,
    "github": _github,
    "okta": _okta,
    "entra": _entra,
    "google": _google,
}
