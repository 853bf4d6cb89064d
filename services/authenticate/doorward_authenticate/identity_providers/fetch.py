"""Small JSON documents from an identity provider: bounded in size and time, no redirects."""

import asyncio
import json
from collections.abc import Mapping

import httpx

from doorward_authenticate.errors import ProviderUnavailableError

LIMIT_BYTES = 512 * 1024
TIMEOUT_SECONDS = 5.0
"""For each step: to connect, and from one piece of the answer to the next."""
DEADLINE_SECONDS = 8.0
"""For all of it. A refresh makes at most six of these calls, waiting for another's included, and another holder takes over after a minute."""


def http_client() -> httpx.AsyncClient:
    """The plane's one HTTP client. Proxies from the environment are not used, redirects not followed."""
    return httpx.AsyncClient(
        trust_env=False,
        follow_redirects=False,
        timeout=TIMEOUT_SECONDS,
        limits=httpx.Limits(max_connections=50, max_keepalive_connections=10),
        headers={"accept": "application/json", "user-agent": "doorward"},
    )


async def fetch_json(
    client: httpx.AsyncClient,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    content: str | None = None,
) -> tuple[int, dict[str, object]]:
    """Status and JSON object at ``url``.

    Raises:
        ProviderUnavailableError: no answer, too long an answer, or one that is no JSON object.
    """
    try:
        async with (
            asyncio.timeout(DEADLINE_SECONDS),
            client.stream(method, url, headers=headers, content=content) as response,
        ):
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > LIMIT_BYTES:
                    raise ProviderUnavailableError(f"the answer is longer than {LIMIT_BYTES} bytes")
            value = json.loads(bytes(body))
    except TimeoutError as error:
        raise ProviderUnavailableError(f"no whole answer in {DEADLINE_SECONDS:.0f} seconds") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ProviderUnavailableError(f"no answer: {type(error).__name__}") from error
    except (ValueError, RecursionError) as error:
        raise ProviderUnavailableError("the answer is no JSON") from error
    if not isinstance(value, dict):
        raise ProviderUnavailableError("the answer is no JSON object")
    return response.status_code, value
