"""Access tokens for directories' interfaces, fetched when needed and kept until shortly before they end."""

import json
from collections.abc import Awaitable, Callable, Mapping

import httpx

from doorward.clock import Clock
from doorward_databroker.directory.port import DirectoryRefusedError, DirectoryUnavailableError

_LIMIT_BYTES = 512 * 1024
_MARGIN_SECONDS = 60.0
_SHORTEST_SECONDS = 30.0

Form = Callable[[], Awaitable[Mapping[str, str]]]
"""What is sent to the token endpoint."""


class TokenSource:
    """One token endpoint and what is asked of it (RFC 6749, section 4.4, and RFC 7523)."""

    def __init__(self, client: httpx.AsyncClient, url: str, form: Form, clock: Clock) -> None:
        self._client = client
        self._url = url
        self._form = form
        self._clock = clock
        self._token = ""
        self._good_until = 0.0

    async def headers(self) -> Mapping[str, str]:
        """The header that carries the token.

        Raises:
            DirectoryRefusedError: the endpoint does not take our credentials.
            DirectoryUnavailableError: no usable answer.
        """
        if self._clock.monotonic() >= self._good_until:
            await self._fetch()
        return {"authorization": f"Bearer {self._token}"}

    async def _fetch(self) -> None:
        form = dict(await self._form())
        try:
            response = await self._client.post(self._url, data=form)
        except httpx.HTTPError as error:
            raise DirectoryUnavailableError(f"no token: {type(error).__name__}") from error
        if 400 <= response.status_code < 500 and response.status_code != 429:
            raise DirectoryRefusedError(f"the token endpoint answered {response.status_code}")
        try:
            answer = json.loads(response.content[:_LIMIT_BYTES])
            token, seconds = answer["access_token"], float(answer.get("expires_in", 300))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DirectoryUnavailableError(f"the token endpoint answered {response.status_code}, no token") from None
        if response.status_code != 200 or not isinstance(token, str) or not token:
            raise DirectoryUnavailableError(f"the token endpoint answered {response.status_code}")
        self._token = token
        self._good_until = self._clock.monotonic() + max(_SHORTEST_SECONDS, seconds - _MARGIN_SECONDS)
