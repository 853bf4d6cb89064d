"""LDAP: paged searches over a verified connection, in a thread, because the client library waits.

    people  (and which of them match `disabled_filter`) ─► by distinguished name ─► groups' members, or people's groups

Members are distinguished names, compared as LDAP compares them; a member that is a group nests. Active Directory hands out
long member lists in ranges, which are read to their end.
"""

import asyncio
import contextlib
import ssl
import uuid
import warnings
from collections.abc import Iterator
from typing import Any

import ldap3
from ldap3.core.exceptions import (
    LDAPBindError,
    LDAPException,
    LDAPInsufficientAccessRightsResult,
    LDAPInvalidCredentialsResult,
    LDAPInvalidDnError,
)
from ldap3.utils.dn import parse_dn

from doorward.config.directory_settings import DirectorySettings, LdapConnection
from doorward_databroker.directory.port import (
    DirectoryRefusedError,
    DirectoryUnavailableError,
    Phase,
    Progress,
)
from doorward_databroker.directory.roster import Roster
from doorward_databroker.directory.sources.joining import join_of

_CONNECT_SECONDS = 10
_ANSWER_SECONDS = 60
_BINARY_IDS = frozenset({"objectguid"})
_RANGES_LIMIT = 10_000


class LdapSource:
    """One server."""

    def __init__(self, settings: DirectorySettings, connection: LdapConnection) -> None:
        self._settings = settings
        self._connection = connection

    async def read(self, roster: Roster, progress: Progress) -> None:
        """See ``Source.read``."""
        await asyncio.to_thread(self._read, roster, progress)

    def _read(self, roster: Roster, progress: Progress) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # the library's own, about its parser
                ldap = self._connection_object()
                try:
                    ldap.bind()
                    _Reading(self._settings, self._connection, ldap, roster, progress).run()
                finally:
                    _close(ldap)
        except (LDAPBindError, LDAPInvalidCredentialsResult, LDAPInsufficientAccessRightsResult) as error:
            raise DirectoryRefusedError(f"the server does not let us read ({type(error).__name__})") from None
        except (LDAPException, OSError) as error:
            raise DirectoryUnavailableError(f"the server was not read ({type(error).__name__})") from error

    def _connection_object(self) -> Any:
        connection = self._connection
        tls = None
        if connection.url.startswith("ldaps:"):
            tls = ldap3.Tls(
                validate=ssl.CERT_REQUIRED,
                version=ssl.PROTOCOL_TLS_CLIENT,
                ca_certs_file=str(connection.ca_file) if connection.ca_file else None,
            )
        server = ldap3.Server(connection.url, tls=tls, get_info=ldap3.NONE, connect_timeout=_CONNECT_SECONDS)
        return ldap3.Connection(
            server,
            user=connection.bind_dn,
            password=connection.password.read().reveal(),
            auto_referrals=False,
            read_only=True,
            raise_exceptions=True,
            receive_timeout=_ANSWER_SECONDS,
            check_names=False,
        )


class _Reading:
    """One reading, over one connection."""

    def __init__(
        self, settings: DirectorySettings, connection: LdapConnection, ldap: Any, roster: Roster, progress: Progress
    ) -> None:
        self._connection = connection
        self._ldap = ldap
        self._roster = roster
        self._progress = progress
        self._join = join_of(settings)
        self._people: dict[str, str] = {}
        self._groups: dict[str, str] = {}
        self._waiting: list[tuple[str, list[str]]] = []
        """Groups with the names of their members, or entries with the names of their groups."""

    def run(self) -> None:
        connection = self._connection
        self._progress.enter(Phase.READING_USERS)
        disabled = self._disabled()
        by_people = connection.membership == "memberof"
        wanted = [connection.entry_id, connection.user_name, connection.user_email]
        if by_people:
            wanted.append(connection.member_attribute)
        people_groups: list[tuple[str, list[str]]] = []
        for entry in self._search(connection.users_base, connection.users_filter, wanted):
            entry_id, name = self._entry_id(entry), _name_key(entry["dn"])
            email = _first(entry, connection.user_email)
            self._people[name] = entry_id
            self._roster.person(
                entry_id,
                join_value=self._join(entry_id, email),
                active=name not in disabled,
                display_name=_first(entry, connection.user_name),
                email=email,
            )
            if by_people:
                people_groups.append((entry_id, self._values(entry, connection.member_attribute)))
            self._progress.done += 1
        self._progress.enter(Phase.READING_GROUPS)
        group_names: list[tuple[str, list[str]]] = []
        wanted = [connection.entry_id, connection.group_name, connection.group_email, connection.member_attribute]
        for entry in self._search(connection.groups_base, connection.groups_filter, wanted):
            group_id = self._entry_id(entry)
            self._groups[_name_key(entry["dn"])] = group_id
            self._roster.group(
                group_id, name=_first(entry, connection.group_name), email=_first(entry, connection.group_email)
            )
            group_names.append((group_id, self._values(entry, connection.member_attribute)))
            self._progress.done += 1
        if by_people:
            self._memberships_of_people(people_groups, group_names)
        else:
            self._members_of_groups(group_names)

    def _members_of_groups(self, groups: list[tuple[str, list[str]]]) -> None:
        for group_id, members in groups:
            for member in members:
                name = _name_key(member)
                if name in self._people:
                    self._roster.member(group_id, self._people[name])
                elif name in self._groups:
                    self._roster.nested(group_id, self._groups[name])

    def _memberships_of_people(self, people: list[tuple[str, list[str]]], groups: list[tuple[str, list[str]]]) -> None:
        for entry_id, names in people:
            for name in names:
                group_id = self._groups.get(_name_key(name))
                if group_id is not None:
                    self._roster.member(group_id, entry_id)
        for child_id, names in groups:
            for name in names:
                group_id = self._groups.get(_name_key(name))
                if group_id is not None:
                    self._roster.nested(group_id, child_id)

    def _disabled(self) -> set[str]:
        connection = self._connection
        if connection.disabled_filter is None:
            return set()
        both = f"(&{connection.users_filter}{connection.disabled_filter})"
        return {_name_key(entry["dn"]) for entry in self._search(connection.users_base, both, [])}

    def _search(self, base: str, query: str, attributes: list[str]) -> Iterator[dict[str, Any]]:
        found = self._ldap.extend.standard.paged_search(
            search_base=base,
            search_filter=query,
            search_scope=ldap3.SUBTREE,
            attributes=attributes or [ldap3.NO_ATTRIBUTES],
            paged_size=self._connection.page_size,
            generator=True,
        )
        for entry in found:
            if entry.get("type") == "searchResEntry":  # referrals lead to other servers, with our credentials
                yield entry

    def _entry_id(self, entry: dict[str, Any]) -> str:
        values = _raw(entry, self._connection.entry_id)
        if len(values) != 1:
            raise DirectoryUnavailableError(f"`{entry['dn'][:128]}` has no single `{self._connection.entry_id}`")
        if self._connection.entry_id.lower() in _BINARY_IDS:
            try:
                return str(uuid.UUID(bytes_le=values[0]))
            except ValueError:
                raise DirectoryUnavailableError(f"an `{self._connection.entry_id}` is no UUID") from None
        return _decoded(values[0])

    def _values(self, entry: dict[str, Any], attribute: str) -> list[str]:
        """All values, those that come in ranges included (MS-ADTS, section 3.1.1.3.1.3.3)."""
        values = [_decoded(value) for value in _raw(entry, attribute)]
        ranged = _range_of(entry, attribute)
        for _ in range(_RANGES_LIMIT):
            if ranged is None:
                return values
            key, end = ranged
            values += [_decoded(value) for value in entry["raw_attributes"][key]]
            if end == "*":
                return values
            self._ldap.search(
                entry["dn"], "(objectClass=*)", ldap3.BASE, attributes=[f"{attribute};range={int(end) + 1}-*"]
            )
            answers = [found for found in self._ldap.response if found.get("type") == "searchResEntry"]
            if len(answers) != 1:
                raise DirectoryUnavailableError("a range of members does not come")
            entry = answers[0]
            ranged = _range_of(entry, attribute)
            if ranged is None:
                raise DirectoryUnavailableError("a range of members does not come")
        raise DirectoryUnavailableError("a list of members does not end")


def _close(ldap: Any) -> None:
    """Close for certain: a connection whose binding failed would otherwise keep its socket."""
    open_socket = ldap.socket
    with contextlib.suppress(LDAPException, OSError):
        ldap.unbind()
    if open_socket is not None:
        with contextlib.suppress(OSError):
            open_socket.close()


def _range_of(entry: dict[str, Any], attribute: str) -> tuple[str, str] | None:
    """The attribute's name with its range, and where the range ends."""
    prefix = f"{attribute.lower()};range="
    for key in entry["raw_attributes"]:
        if key.lower().startswith(prefix):
            end = key.rpartition("-")[2]
            if end != "*" and not end.isdigit():
                raise DirectoryUnavailableError("a range of members has no end")
            return key, end
    return None


def _raw(entry: dict[str, Any], attribute: str) -> list[bytes]:
    for key, values in entry["raw_attributes"].items():
        if key.lower() == attribute.lower():
            return list(values)
    return []


def _first(entry: dict[str, Any], attribute: str) -> str:
    values = _raw(entry, attribute)
    return _decoded(values[0]) if values else ""


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise DirectoryUnavailableError("a value is not UTF-8") from None


def _name_key(name: str) -> str:
    """A distinguished name as it is compared: without regard to case, blanks round its parts, or how it is escaped."""
    try:
        parts = parse_dn(name, escape=True, strip=True)
    except LDAPInvalidDnError:
        raise DirectoryUnavailableError("a member is no distinguished name") from None
    return "\0".join(f"{kind.lower()}={value.lower()}" for kind, value, _ in parts)
