"""An identity provider's signing keys (RFC 7517): kept for an hour, refetched for an unknown key at most once a minute.

Old ones serve for a day while new ones cannot be had; after that nobody knows whether they still are the identity provider's.
"""

import asyncio

import httpx
from joserfc.jwk import Key

from doorward.clock import Clock
from doorward.identity.issuer_keys import KEEP_SECONDS, usable_keys
from doorward_authenticate.errors import ProviderUnavailableError
from doorward_authenticate.identity_providers.fetch import fetch_json

FRESH_SECONDS = 3600.0
REFETCH_SECONDS = 60.0


def parse_keys(document: dict[str, object]) -> tuple[Key, ...]:
    """The usable public signing keys in a JWK set; keys of other kinds and uses are passed over.

    Raises:
        ProviderUnavailableError: it is no JWK set.
    """
    try:
        return usable_keys(document)
    except ValueError as error:
        raise ProviderUnavailableError(str(error)) from error


class KeySource:
    """The keys behind one `jwks_uri`. Concurrent callers share one fetch."""

    def __init__(self, client: httpx.AsyncClient, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._lock = asyncio.Lock()
        self._uri: str | None = None
        self._keys: tuple[Key, ...] = ()
        self._fetched_at: float | None = None
        self._tried_at = float("-inf")
        self._failed: ProviderUnavailableError | None = None

    async def get(self, uri: str, key_id: str | None) -> tuple[Key, ...]:
        """The keys, fetched anew when they are old, or when none has ``key_id`` and the last fetch is a minute ago.

        Raises:
            ProviderUnavailableError: there are none to be had.
        """
        asked_at = self._clock.monotonic()
        async with self._lock:
            now = self._clock.monotonic()
            age = None if self._fetched_at is None or uri != self._uri else now - self._fetched_at
            known = any(key.kid == key_id for key in self._keys) if key_id is not None else True
            has_keys = age is not None and age < KEEP_SECONDS
            is_fresh = known and age is not None and age < FRESH_SECONDS
            if has_keys and (is_fresh or now - self._tried_at < REFETCH_SECONDS):
                return self._keys
            # Of those who wait together one asks; the others hear what it heard, also when that is nothing.
            if self._failed is None or self._tried_at <= asked_at:
                self._failed = None
                try:
                    self._keys = await self._fetched(uri)
                    self._uri, self._fetched_at = uri, now
                    return self._keys
                except ProviderUnavailableError as error:
                    self._failed = error
                finally:
                    self._tried_at = self._clock.monotonic()
            if has_keys:
                return self._keys
            raise ProviderUnavailableError(str(self._failed))

    async def _fetched(self, uri: str) -> tuple[Key, ...]:
        status, document = await fetch_json(self._client, "GET", uri)
        if status != 200:
            raise ProviderUnavailableError(f"the key set answered {status}")
        return parse_keys(document)
