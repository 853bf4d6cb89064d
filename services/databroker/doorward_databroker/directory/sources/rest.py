"""JSON over HTTP, as directories speak it: paged, limited in rate, sometimes away.

A request is repeated when the answer says that repeating helps (429, 5xx, no answer), as long as the directory wishes and no
longer than we can bear; anything else ends the reading. Links to further pages are followed only to where the first page came
from: they go out with credentials.
"""

import asyncio
import json
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import httpx

from doorward.clock import Clock
from doorward_databroker.directory.port import DirectoryRefusedError, DirectoryUnavailableError

LIMIT_BYTES = 64 * 1024 * 1024
PAGES_LIMIT = 100_000
TRIES = 6
LONGEST_WAIT_SECONDS = 120.0
_TIMEOUT_SECONDS = 30.0
_FIRST_WAIT_SECONDS = 0.5

Headers = Callable[[], Awaitable[Mapping[str, str]]]
"""The credentials of a request, as they are now."""


def http_client() -> httpx.AsyncClient:
    """The worker's one HTTP client. Proxies from the environment are not used, redirects not followed."""
    return httpx.AsyncClient(
        trust_env=False,
        follow_redirects=False,
        timeout=_TIMEOUT_SECONDS,
        limits=httpx.Limits(max_connections=20, max_keepalive_connections=10),
        headers={"accept": "application/json", "user-agent": "doorward"},
    )


class Rest:
    """Asks one directory. ``sleep`` is a parameter, so that tests need not wait."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        base_url: str,
        headers: Headers,
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._base_url = base_url
        self._headers = headers
        self._clock = clock
        self._sleep = sleep

    async def get(self, path: str, **query: str | int) -> Any:
        """The JSON at ``path``.

        Raises:
            DirectoryUnavailableError: no usable answer, however often it was asked for.
            DirectoryRefusedError: our credentials or rights are not enough.
        """
        return (await self.page(self._url(path, query)))[0]

    def first(self, path: str, **query: str | int) -> str:
        """The address of a first page."""
        return self._url(path, query)

    async def page(self, url: str) -> tuple[Any, httpx.Response]:
        """The JSON at an address, with its response. Raises as ``get``."""
        self._check_origin(url)
        problem = ""
        for attempt in range(TRIES):
            wait = _FIRST_WAIT_SECONDS * 2**attempt
            try:
                response, body = await self._ask(url)
            except httpx.HTTPError as error:
                problem = f"no answer: {type(error).__name__}"
            else:
                if response.status_code == 200:
                    return _parsed(body), response
                problem = f"it answered {response.status_code}"
                if response.status_code in {401, 403} and not _is_rate_limit(response):
                    raise DirectoryRefusedError(f"{problem}: credentials or rights are not enough")
                if response.status_code < 500 and not _is_rate_limit(response):
                    raise UnexpectedAnswerError(response.status_code)
                asked_for = _wished_wait(response, self._clock.now())
                wait = wait if asked_for is None else asked_for
            if attempt < TRIES - 1:
                if wait > LONGEST_WAIT_SECONDS:
                    raise DirectoryUnavailableError(f"{problem} and wants to be left alone for {wait:.0f} seconds")
                await self._sleep(wait)
        raise DirectoryUnavailableError(problem)

    async def linked_pages(self, path: str, **query: str | int) -> AsyncIterator[list[Any]]:
        """Pages that name the next one in a ``Link`` header (RFC 8288)."""
        url: str | None = self._url(path, query)
        for _ in range(PAGES_LIMIT):
            if url is None:
                return
            value, response = await self.page(url)
            yield rows(value)
            links = response.links
            url = str(links["next"]["url"]) if "next" in links and "url" in links["next"] else None
        raise DirectoryUnavailableError(f"more than {PAGES_LIMIT} pages")

    async def numbered_pages(self, path: str, size: int, **query: str | int) -> AsyncIterator[list[Any]]:
        """Pages by ``first`` and ``max``; one that is short is the last.

        A server that gives less than is asked for would be misread so: whoever uses this compares some total.
        """
        first = 0
        for _ in range(PAGES_LIMIT):
            found = rows(await self.get(path, first=first, max=size, **query))
            yield found
            if len(found) < size:
                return
            first += len(found)
        raise DirectoryUnavailableError(f"more than {PAGES_LIMIT} pages")

    async def _ask(self, url: str) -> tuple[httpx.Response, bytes]:
        headers = dict(await self._headers())
        async with self._client.stream("GET", url, headers=headers) as response:
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > LIMIT_BYTES:
                    raise DirectoryUnavailableError(f"an answer is longer than {LIMIT_BYTES} bytes")
        return response, bytes(body)

    def _url(self, path: str, query: Mapping[str, str | int]) -> str:
        text = urllib.parse.urlencode(query, safe="$,")
        return f"{self._base_url}{path}" + (f"?{text}" if text else "")

    def _check_origin(self, url: str) -> None:
        try:
            here, there = httpx.URL(self._base_url), httpx.URL(url)
        except httpx.InvalidURL:
            raise DirectoryUnavailableError("a link to the next page is no address") from None
        if (here.scheme, here.host, here.port) != (there.scheme, there.host, there.port):
            raise DirectoryUnavailableError("a link to the next page leads to another server")


class UnexpectedAnswerError(DirectoryUnavailableError):
    """A status that repeating does not change; a source may know what it means."""

    def __init__(self, status: int) -> None:
        super().__init__(f"it answered {status}")
        self.status = status


def rows(value: Any) -> list[Any]:
    """A list of objects.

    Raises:
        DirectoryUnavailableError: it is none.
    """
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise DirectoryUnavailableError("a page is no list of objects")
    return value


def listed(value: Any, name: str, *, optional: bool = False) -> list[Any]:
    """The list of objects called ``name`` in a page.

    Raises:
        DirectoryUnavailableError: it is missing or no list: a broken page must not be taken for an empty one.
    """
    if not isinstance(value, dict):
        raise DirectoryUnavailableError("a page is no object")
    if optional and name not in value:
        return []
    return rows(value.get(name))


def text(item: Mapping[str, Any], name: str) -> str:
    """A string that must be there.

    Raises:
        DirectoryUnavailableError: it is missing, empty or no string.
    """
    value = item.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        raise DirectoryUnavailableError(f"an entry has no `{name}`")
    return value


def optional_text(item: Mapping[str, Any], name: str) -> str:
    """A string that may be missing."""
    value = item.get(name)
    return value if isinstance(value, str) else ""


def truth(item: Mapping[str, Any], name: str) -> bool:
    """A boolean that must be there: whether somebody counts is not guessed.

    Raises:
        DirectoryUnavailableError: it is missing or no boolean.
    """
    value = item.get(name)
    if not isinstance(value, bool):
        raise DirectoryUnavailableError(f"an entry does not say whether `{name}`")
    return value


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise DirectoryUnavailableError("an answer is no JSON") from None


def _is_rate_limit(response: httpx.Response) -> bool:
    """429, or GitHub's 403 with an exhausted budget or a wish to wait."""
    if response.status_code == 429:
        return True
    return response.status_code == 403 and (
        response.headers.get("x-ratelimit-remaining") == "0" or "retry-after" in response.headers
    )


def _wished_wait(response: httpx.Response, now: float) -> float | None:
    """How long the directory wants us to wait, in seconds."""
    after = response.headers.get("retry-after", "")
    if after.isascii() and after.isdigit():
        return float(after[:9])
    for name in ("x-ratelimit-reset", "x-rate-limit-reset"):
        at = response.headers.get(name, "")
        if at.isascii() and at.isdigit():
            return max(1.0, float(at[:12]) - now)
    return None
