"""An identity provider's signing keys (RFC 7517): kept for an hour, refetched for an unknown key at most once a minute."""

import asyncio

import httpx
from joserfc.jwk import Key

from doorward.clock import Clock
from doorward.identity.issuer_keys import usable_keys
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

    async def get(self, uri: str, key_id: str | None) -> tuple[Key, ...]:
        """The keys, fetched anew when they are old, or when none has ``key_id`` and the last fetch is a minute ago.

        Raises:
            ProviderUnavailableError: there are none to be had.
        """
        async with self._lock:
            now = self._clock.monotonic()
            age = None if self._fetched_at is None or uri != self._uri else now - self._fetched_at
            known = any(key.kid == key_id for key in self._keys) if key_id is not None else True
            if age is not None and (age < REFETCH_SECONDS or (known and age < FRESH_SECONDS)):
                return self._keys
            try:
                status, document = await fetch_json(self._client, "GET", uri)
                if status != 200:
                    raise ProviderUnavailableError(f"the key set answered {status}")
                keys = parse_keys(document)
            except ProviderUnavailableError:
                if age is None:
                    raise
                self._fetched_at = now  # not again before a minute has passed
                return self._keys
            self._uri, self._keys, self._fetched_at = uri, keys, now
            return keys
