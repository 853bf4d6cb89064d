"""Okta. Pages are linked; groups are flat."""

from collections.abc import Mapping

import httpx

from doorward.clock import Clock
from doorward.config.directory_settings import DirectorySettings, OktaConnection
from doorward_databroker.directory.port import DirectoryUnavailableError, Phase, Progress
from doorward_databroker.directory.roster import Roster
from doorward_databroker.directory.sources.crowd import for_each
from doorward_databroker.directory.sources.joining import join_of
from doorward_databroker.directory.sources.rest import Rest, optional_text, text

_PAGE = 200
_ACTIVE = frozenset({"ACTIVE", "PROVISIONED", "RECOVERY", "PASSWORD_EXPIRED", "LOCKED_OUT"})
"""Locked out is a person who may come back by waiting, and whom strangers can lock out; any status that is not known is inactive."""


class OktaSource:
    """One organisation."""

    def __init__(
        self, settings: DirectorySettings, connection: OktaConnection, client: httpx.AsyncClient, clock: Clock
    ) -> None:
        async def headers() -> Mapping[str, str]:
            return {"authorization": f"SSWS {connection.token.read().reveal()}"}

        self.rest = Rest(client, connection.url, headers, clock)
        self._settings = settings

    async def read(self, roster: Roster, progress: Progress) -> None:
        """See ``Source.read``."""
        join = join_of(self._settings)
        progress.enter(Phase.READING_USERS)
        async for page in self.rest.linked_pages("/api/v1/users", limit=_PAGE):
            for user in page:
                profile = user.get("profile")
                if not isinstance(profile, dict):
                    raise DirectoryUnavailableError("a person has no `profile`")
                entry_id, email = text(user, "id"), optional_text(profile, "email")
                name = f"{optional_text(profile, 'firstName')} {optional_text(profile, 'lastName')}".strip()
                roster.person(
                    entry_id,
                    join_value=join(entry_id, email),
                    active=text(user, "status") in _ACTIVE,
                    display_name=optional_text(profile, "displayName") or name,
                    email=email,
                )
            progress.done = len(roster.people)
        progress.enter(Phase.READING_GROUPS)
        group_ids: list[str] = []
        async for page in self.rest.linked_pages("/api/v1/groups", limit=_PAGE):
            for group in page:
                profile = group.get("profile")
                if not isinstance(profile, dict):
                    raise DirectoryUnavailableError("a group has no `profile`")
                group_id = text(group, "id")
                roster.group(group_id, name=text(profile, "name"))
                group_ids.append(group_id)
        progress.total = len(group_ids)

        async def members(group_id: str) -> None:
            async for page in self.rest.linked_pages(f"/api/v1/groups/{group_id}/users", limit=_PAGE):
                for member in page:
                    roster.member(group_id, text(member, "id"))
            progress.done += 1

        await for_each(group_ids, members)
