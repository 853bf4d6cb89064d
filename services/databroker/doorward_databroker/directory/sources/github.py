"""GitHub: an organisation's members and teams. A team's members include those of the teams below it; names are slugs.

An organisation has no disabled members: who has left it is gone.
"""

from collections.abc import Mapping

import httpx

from doorward.clock import Clock
from doorward.config.directory_settings import DirectorySettings, GithubConnection
from doorward_databroker.directory.port import Phase, Progress
from doorward_databroker.directory.roster import Roster
from doorward_databroker.directory.sources.crowd import for_each
from doorward_databroker.directory.sources.joining import join_of
from doorward_databroker.directory.sources.rest import Rest, optional_text, text

_PAGE = 100


class GithubSource:
    """One organisation."""

    def __init__(
        self, settings: DirectorySettings, connection: GithubConnection, client: httpx.AsyncClient, clock: Clock
    ) -> None:
        async def headers() -> Mapping[str, str]:
            return {
                "authorization": f"Bearer {connection.token.read().reveal()}",
                "accept": "application/vnd.github+json",
                "x-github-api-version": "2022-11-28",
            }

        self.rest = Rest(client, connection.url, headers, clock)
        self._settings = settings
        self._organisation = connection.organisation

    async def read(self, roster: Roster, progress: Progress) -> None:
        """See ``Source.read``."""
        join = join_of(self._settings)
        progress.enter(Phase.READING_USERS)
        async for page in self.rest.linked_pages(f"/orgs/{self._organisation}/members", per_page=_PAGE):
            for user in page:
                entry_id, email = text(user, "id"), optional_text(user, "email")
                roster.person(
                    entry_id, join_value=join(entry_id, email), display_name=optional_text(user, "login"), email=email
                )
            progress.done = len(roster.people)
        progress.enter(Phase.READING_GROUPS)
        teams: list[tuple[str, str]] = []
        async for page in self.rest.linked_pages(f"/orgs/{self._organisation}/teams", per_page=_PAGE):
            for team in page:
                group_id, slug = text(team, "id"), text(team, "slug")
                roster.group(group_id, name=slug)
                teams.append((group_id, slug))
        progress.total = len(teams)

        async def members(team: tuple[str, str]) -> None:
            group_id, slug = team
            path = f"/orgs/{self._organisation}/teams/{slug}/members"
            async for page in self.rest.linked_pages(path, per_page=_PAGE):
                for member in page:
                    roster.member(group_id, text(member, "id"))
            progress.done += 1

        await for_each(teams, members)
