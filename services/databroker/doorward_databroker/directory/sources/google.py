"""Google Workspace, over the Admin SDK. Groups hold people, groups, and now and then the whole customer.

An empty list is left out of a page altogether, so a page counts only when it says what it is (`kind`).
"""

import json
from typing import Any

import httpx
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey

from doorward.clock import Clock
from doorward.config.directory_settings import DirectorySettings, GoogleConnection
from doorward_databroker.directory.port import (
    DirectoryRefusedError,
    DirectoryUnavailableError,
    Phase,
    Progress,
)
from doorward_databroker.directory.roster import Roster
from doorward_databroker.directory.sources.crowd import for_each
from doorward_databroker.directory.sources.joining import join_of
from doorward_databroker.directory.sources.rest import PAGES_LIMIT, Rest, listed, optional_text, text
from doorward_databroker.directory.sources.tokens import TokenSource

_SCOPES = " ".join(
    f"https://www.googleapis.com/auth/admin.directory.{part}.readonly" for part in ("user", "group", "group.member")
)
_BASE = "/admin/directory/v1"
_LIFE_SECONDS = 3600
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class GoogleSource:
    """One customer."""

    def __init__(
        self, settings: DirectorySettings, connection: GoogleConnection, client: httpx.AsyncClient, clock: Clock
    ) -> None:
        async def form() -> dict[str, str]:
            return {"grant_type": _GRANT, "assertion": _assertion(connection, int(clock.now()))}

        tokens = TokenSource(client, connection.token_url, form, clock)
        self.rest = Rest(client, connection.api_url, tokens.headers, clock)
        self._settings = settings
        self._customer = connection.customer

    async def read(self, roster: Roster, progress: Progress) -> None:
        """See ``Source.read``."""
        join = join_of(self._settings)
        progress.enter(Phase.READING_USERS)

        def person(user: dict[str, Any]) -> None:
            entry_id, email = text(user, "id"), optional_text(user, "primaryEmail")
            name = user.get("name")
            roster.person(
                entry_id,
                join_value=join(entry_id, email),
                active=not (user.get("suspended", False) or user.get("archived", False)),
                display_name=optional_text(name, "fullName") if isinstance(name, dict) else "",
                email=email,
            )
            progress.done = len(roster.people)

        for user in await self._all("users", f"{_BASE}/users", customer=self._customer, maxResults=500):
            person(user)
        progress.enter(Phase.READING_GROUPS)
        group_ids: list[str] = []
        for group in await self._all("groups", f"{_BASE}/groups", customer=self._customer, maxResults=200):
            group_id = text(group, "id")
            roster.group(group_id, name=optional_text(group, "name"), email=optional_text(group, "email"))
            group_ids.append(group_id)
        progress.total = len(group_ids)

        async def members(group_id: str) -> None:
            for member in await self._all("members", f"{_BASE}/groups/{group_id}/members", maxResults=200):
                match member.get("type"):
                    case "USER":
                        roster.member(group_id, text(member, "id"))
                    case "GROUP":
                        roster.nested(group_id, text(member, "id"))
                    case "CUSTOMER":
                        for everyone in roster.people:
                            roster.member(group_id, everyone.entry_id)
                    case _:
                        pass  # external addresses are nobody here
            progress.done += 1

        await for_each(group_ids, members)

    async def _all(self, name: str, path: str, **query: str | int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        token = ""
        for _ in range(PAGES_LIMIT):
            page = await self.rest.get(path, **query, **({"pageToken": token} if token else {}))
            if not isinstance(page, dict) or page.get("kind") != f"admin#directory#{name}":
                raise DirectoryUnavailableError(f"a page does not say that it lists {name}")
            found += listed(page, name, optional=True)
            following = page.get("nextPageToken", "")
            if not isinstance(following, str):
                raise DirectoryUnavailableError("a page names its next one in no string")
            if not following:
                return found
            token = following
        raise DirectoryUnavailableError(f"more than {PAGES_LIMIT} pages")


def _assertion(connection: GoogleConnection, now: int) -> str:
    """What the service account says for the administrator (RFC 7523)."""
    try:
        account = json.loads(connection.service_account.read().reveal())
        key = RSAKey.import_key(account["private_key"])
        claims = {
            "iss": account["client_email"],
            "sub": connection.administrator,
            "scope": _SCOPES,
            "aud": connection.token_url,
            "iat": now,
            "exp": now + _LIFE_SECONDS,
        }
        return jwt.encode({"alg": "RS256", "typ": "JWT", "kid": str(account.get("private_key_id", ""))}, claims, key)
    except (ValueError, KeyError, TypeError, JoseError):
        raise DirectoryRefusedError("the service account's key file is not one") from None
