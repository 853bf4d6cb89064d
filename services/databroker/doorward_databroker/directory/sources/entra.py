"""Microsoft Entra, over Microsoft Graph's delta queries.

    first time     everything, page by page ─► a mirror in memory, and a link for "what has changed since"
    afterwards     that link ─► changes ─► the mirror
    link refused   (410, or 400) everything again

The mirror is what a read tells, so a delta is as complete as a full reading. Changes say what is, so those of an attempt that
failed half way may be told again. This is also the answer to group overage: above 200 groups a token names none, the directory
all of them.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from doorward.clock import Clock
from doorward.config.directory_settings import DirectorySettings, EntraConnection
from doorward_databroker.directory.port import DirectoryUnavailableError, Phase, Progress
from doorward_databroker.directory.roster import Roster
from doorward_databroker.directory.sources.joining import join_of
from doorward_databroker.directory.sources.rest import (
    PAGES_LIMIT,
    Rest,
    UnexpectedAnswerError,
    listed,
    optional_text,
    text,
)
from doorward_databroker.directory.sources.tokens import TokenSource

_USER_FIELDS = "id,accountEnabled,displayName,mail,userPrincipalName"
_GROUP_FIELDS = "id,displayName,mail,members"
_LINK_REFUSED = frozenset({400, 410})


@dataclass(slots=True)
class _Mirror:
    users: dict[str, dict[str, Any]] = field(default_factory=dict)
    groups: dict[str, dict[str, str]] = field(default_factory=dict)
    members: dict[str, set[int]] = field(default_factory=dict)
    nested: dict[str, set[str]] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    """People by number: their ids are long, and each stands in many groups."""
    ids: list[str] = field(default_factory=list)
    users_link: str = ""
    groups_link: str = ""

    def number(self, user_id: str) -> int:
        known = self.numbers.get(user_id)
        if known is None:
            known = self.numbers[user_id] = len(self.ids)
            self.ids.append(user_id)
        return known


class EntraSource:
    """One tenant."""

    def __init__(
        self, settings: DirectorySettings, connection: EntraConnection, client: httpx.AsyncClient, clock: Clock
    ) -> None:
        async def form() -> dict[str, str]:
            return {
                "grant_type": "client_credentials",
                "client_id": connection.client_id,
                "client_secret": connection.client_secret.read().reveal(),
                "scope": f"{connection.graph_url}/.default",
            }

        tokens = TokenSource(client, f"{connection.login_url}/{connection.tenant}/oauth2/v2.0/token", form, clock)
        self.rest = Rest(client, connection.graph_url, tokens.headers, clock)
        self._settings = settings
        self._tenant = connection.tenant
        self._mirror: _Mirror | None = None

    async def read(self, roster: Roster, progress: Progress) -> None:
        """See ``Source.read``."""
        if self._mirror is not None:
            try:
                await self._follow(self._mirror, progress)
            except UnexpectedAnswerError as error:
                if error.status not in _LINK_REFUSED:
                    raise
                self._mirror = None  # the link has lost its validity
        if self._mirror is None:
            fresh = _Mirror()
            await self._follow(fresh, progress)
            self._mirror = fresh
        self._tell(self._mirror, roster)

    async def _follow(self, mirror: _Mirror, progress: Progress) -> None:
        progress.enter(Phase.READING_USERS)
        start = mirror.users_link or self.rest.first("/v1.0/users/delta", **{"$select": _USER_FIELDS})
        async for page, link in self._pages(start):
            for user in page:
                _change_user(mirror, user)
            progress.done += len(page)
            users_link = link
        progress.enter(Phase.READING_GROUPS)
        start = mirror.groups_link or self.rest.first("/v1.0/groups/delta", **{"$select": _GROUP_FIELDS})
        async for page, link in self._pages(start):
            for group in page:
                _change_group(mirror, group)
            progress.done += len(page)
            groups_link = link
        mirror.users_link, mirror.groups_link = users_link, groups_link

    async def _pages(self, url: str) -> AsyncIterator[tuple[list[Any], str]]:
        """Pages with the link for next time, which only the last one has."""
        for _ in range(PAGES_LIMIT):
            value, _response = await self.rest.page(url)
            page = listed(value, "value")
            following, final = value.get("@odata.nextLink"), value.get("@odata.deltaLink")
            if isinstance(following, str) and following:
                yield page, ""
                url = following
            elif isinstance(final, str) and final:
                yield page, final
                return
            else:
                raise DirectoryUnavailableError("a page names neither a next one nor itself the last")
        raise DirectoryUnavailableError(f"more than {PAGES_LIMIT} pages")

    def _tell(self, mirror: _Mirror, roster: Roster) -> None:
        join = join_of(self._settings, {"tid": self._tenant})
        for user_id, user in mirror.users.items():
            enabled = user.get("accountEnabled")
            if not isinstance(enabled, bool):
                raise DirectoryUnavailableError("a person does not say whether `accountEnabled`")
            email = optional_text(user, "mail")
            roster.person(
                user_id,
                join_value=join(user_id, email),
                active=enabled,
                display_name=optional_text(user, "displayName"),
                email=email,
            )
        for group_id, group in mirror.groups.items():
            roster.group(group_id, name=group["name"], email=group["mail"])
        for group_id, members in mirror.members.items():
            for number in members:
                roster.member(group_id, mirror.ids[number])
        for group_id, children in mirror.nested.items():
            for child in children:
                roster.nested(group_id, child)


def _change_user(mirror: _Mirror, user: dict[str, Any]) -> None:
    user_id = text(user, "id")
    if "@removed" in user:
        mirror.users.pop(user_id, None)
        return
    # A change names only what has changed.
    kept: dict[str, Any] = {name: user[name] for name in ("accountEnabled", "displayName", "mail") if name in user}
    mirror.users[user_id] = {**mirror.users.get(user_id, {}), **kept}


def _change_group(mirror: _Mirror, group: dict[str, Any]) -> None:
    group_id = text(group, "id")
    if "@removed" in group:
        mirror.groups.pop(group_id, None)
        mirror.members.pop(group_id, None)
        mirror.nested.pop(group_id, None)
        return
    before = mirror.groups.get(group_id, {"name": "", "mail": ""})
    mirror.groups[group_id] = {
        "name": optional_text(group, "displayName") if "displayName" in group else before["name"],
        "mail": optional_text(group, "mail") if "mail" in group else before["mail"],
    }
    members = mirror.members.setdefault(group_id, set())
    nested = mirror.nested.setdefault(group_id, set())
    for member in listed(group, "members@delta", optional=True):
        member_id, kind = text(member, "id"), optional_text(member, "@odata.type")
        gone = "@removed" in member
        if kind.endswith(".group"):
            nested.discard(member_id) if gone else nested.add(member_id)
        elif kind.endswith(".user"):
            number = mirror.number(member_id)
            members.discard(number) if gone else members.add(number)
