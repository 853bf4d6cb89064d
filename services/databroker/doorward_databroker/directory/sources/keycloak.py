"""Keycloak, over its admin interface. A member of a subgroup belongs to the groups above it; names are paths (`/staff/it`).

Pages go by offset, so somebody who is deleted meanwhile makes another one fall between two pages. The number of people is
asked before and after: only a listing that is complete counts. That also finds out a server which gives less than a page that is
asked for, before the shorter lists of groups' members could be misread.
"""

from typing import Any

import httpx

from doorward.clock import Clock
from doorward.config.directory_settings import DirectorySettings, KeycloakConnection
from doorward_databroker.directory.port import DirectoryUnavailableError, Phase, Progress
from doorward_databroker.directory.roster import Roster
from doorward_databroker.directory.sources.crowd import for_each
from doorward_databroker.directory.sources.joining import join_of
from doorward_databroker.directory.sources.rest import Rest, optional_text, text, truth
from doorward_databroker.directory.sources.tokens import TokenSource

_PAGE = 500
_LISTINGS = 3


class KeycloakSource:
    """One realm."""

    def __init__(
        self, settings: DirectorySettings, connection: KeycloakConnection, client: httpx.AsyncClient, clock: Clock
    ) -> None:
        async def form() -> dict[str, str]:
            return {
                "grant_type": "client_credentials",
                "client_id": connection.client_id,
                "client_secret": connection.client_secret.read().reveal(),
            }

        realm = connection.realm
        tokens = TokenSource(client, f"{connection.url}/realms/{realm}/protocol/openid-connect/token", form, clock)
        self.rest = Rest(client, f"{connection.url}/admin/realms/{realm}", tokens.headers, clock)
        self._settings = settings
        self.page = _PAGE

    async def read(self, roster: Roster, progress: Progress) -> None:
        """See ``Source.read``."""
        await self._people(roster, progress)
        progress.enter(Phase.READING_GROUPS)
        group_ids: list[str] = []
        async for page in self.rest.numbered_pages("/groups", self.page, briefRepresentation="true"):
            for group in page:
                await self._group(group, roster, group_ids)
        progress.total = len(group_ids)

        async def members(group_id: str) -> None:
            async for page in self.rest.numbered_pages(
                f"/groups/{group_id}/members", self.page, briefRepresentation="true"
            ):
                for member in page:
                    roster.member(group_id, text(member, "id"))
            progress.done += 1

        await for_each(group_ids, members)

    async def _people(self, roster: Roster, progress: Progress) -> None:
        join = join_of(self._settings)
        for _ in range(_LISTINGS):
            before = await self._count()
            progress.enter(Phase.READING_USERS, before)
            seen: set[str] = set()
            async for page in self.rest.numbered_pages("/users", self.page, briefRepresentation="true"):
                for user in page:
                    entry_id, email = text(user, "id"), optional_text(user, "email")
                    seen.add(entry_id)
                    roster.person(
                        entry_id,
                        join_value=join(entry_id, email),
                        active=truth(user, "enabled"),
                        display_name=f"{optional_text(user, 'firstName')} {optional_text(user, 'lastName')}".strip(),
                        email=email,
                    )
                progress.done = len(seen)
            if len(seen) == before == await self._count():
                return
            roster.forget_people()
        raise DirectoryUnavailableError("people came and went during every listing")

    async def _count(self) -> int:
        value = await self.rest.get("/users/count")
        if isinstance(value, bool) or not isinstance(value, int):
            raise DirectoryUnavailableError("the number of people is no number")
        return value

    async def _group(self, group: dict[str, Any], roster: Roster, group_ids: list[str]) -> None:
        """A group and everything below it."""
        waiting = [group]
        while waiting:
            group = waiting.pop()
            group_id = text(group, "id")
            roster.group(group_id, name=text(group, "path"))
            group_ids.append(group_id)
            children = group.get("subGroups") or []
            if not children and group.get("subGroupCount", 0):
                children = []
                async for page in self.rest.numbered_pages(
                    f"/groups/{group_id}/children", self.page, briefRepresentation="true"
                ):
                    children += page
            for child in children:
                roster.nested(group_id, text(child, "id"))
                waiting.append(child)
