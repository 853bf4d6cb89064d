"""Discovery (OpenID Connect Discovery 1.0): what an identity provider says of itself, compared with the configuration."""

import asyncio
import re
from dataclasses import dataclass

import httpx

from doorward.clock import Clock
from doorward_authenticate.errors import ProviderUnavailableError
from doorward_authenticate.identity_providers.fetch import fetch_json

FRESH_SECONDS = 3600.0
KEEP_SECONDS = 24 * 3600.0
"""How long known metadata serve while the identity provider does not answer."""
RETRY_SECONDS = 60.0
"""And how often it is asked meanwhile."""
_URL = re.compile(r"https?://[!-~]+\Z", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """The part of the discovery document that is used."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None
    end_session_endpoint: str | None
    signing_algorithms: frozenset[str]
    sends_issuer: bool
    """Whether authorization responses carry `iss` (RFC 9207)."""
    posts_client_secret: bool
    """Whether the secret goes into the body, because the header is not offered."""


def parse_metadata(document: dict[str, object], issuer: str) -> Metadata:
    """The metadata in a discovery document of ``issuer``.

    Raises:
        ProviderUnavailableError: another issuer's, or unusable.
    """
    if document.get("issuer") != issuer:
        raise ProviderUnavailableError("the discovery document names another issuer")
    algorithms = _strings(document, "id_token_signing_alg_values_supported")
    methods = _strings(document, "token_endpoint_auth_methods_supported") or ["client_secret_basic"]
    challenges = document.get("code_challenge_methods_supported")
    if isinstance(challenges, list) and "S256" not in challenges:
        raise ProviderUnavailableError("the identity provider does not take PKCE with S256")
    return Metadata(
        issuer=issuer,
        authorization_endpoint=_url(document, "authorization_endpoint", issuer),
        token_endpoint=_url(document, "token_endpoint", issuer),
        jwks_uri=_url(document, "jwks_uri", issuer),
        userinfo_endpoint=_url(document, "userinfo_endpoint", issuer) if "userinfo_endpoint" in document else None,
        end_session_endpoint=(
            _url(document, "end_session_endpoint", issuer) if "end_session_endpoint" in document else None
        ),
        signing_algorithms=frozenset(algorithms),
        sends_issuer=document.get("authorization_response_iss_parameter_supported") is True,
        posts_client_secret="client_secret_basic" not in methods and "client_secret_post" in methods,
    )


def key_set_url(document: dict[str, object], issuer: str) -> str:
    """Where the keys of ``issuer`` are, by its metadata; all that is needed of somebody nobody signs in at.

    Raises:
        ProviderUnavailableError: another issuer's, or unusable.
    """
    if document.get("issuer") != issuer:
        raise ProviderUnavailableError("the discovery document names another issuer")
    return _url(document, "jwks_uri", issuer)


def _strings(document: dict[str, object], name: str) -> list[str]:
    value = document.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ProviderUnavailableError(f"`{name}` of the discovery document is no list of strings")
    return value


def _url(document: dict[str, object], name: str, issuer: str) -> str:
    """An endpoint; encrypted wherever the issuer itself is."""
    value = document.get(name)
    if not isinstance(value, str) or not _URL.match(value) or "@" in value.split("/")[2]:
        raise ProviderUnavailableError(f"`{name}` of the discovery document is no URL")
    if value.startswith("http:") and issuer.startswith("https:"):
        raise ProviderUnavailableError(f"`{name}` of the discovery document is not encrypted")
    return value


class MetadataSource:
    """The metadata of one issuer, fetched once an hour at the most. Concurrent callers share one fetch, also one that fails."""

    def __init__(self, client: httpx.AsyncClient, issuer: str, clock: Clock) -> None:
        self._client = client
        self._issuer = issuer
        self._clock = clock
        self._lock = asyncio.Lock()
        self._known: tuple[float, Metadata] | None = None
        self._failed: tuple[float, ProviderUnavailableError] | None = None

    async def get(self) -> Metadata:
        """Current metadata, or the last known ones while the identity provider does not answer.

        Raises:
            ProviderUnavailableError: there are none.
        """
        asked_at = self._clock.monotonic()
        async with self._lock:
            now = self._clock.monotonic()
            if self._known is not None and now - self._known[0] < FRESH_SECONDS:
                return self._known[1]
            if self._failed is None or not self._is_answered_by(self._failed[0], asked_at, now):
                try:
                    self._known, self._failed = (now, await self._fetched()), None
                    return self._known[1]
                except ProviderUnavailableError as error:
                    self._failed = (self._clock.monotonic(), error)
            if self._known is not None and now - self._known[0] < KEEP_SECONDS:
                return self._known[1]
            raise ProviderUnavailableError(str(self._failed[1]))

    def _is_answered_by(self, failed_at: float, asked_at: float, now: float) -> bool:
        """Whether a failure counts for this caller too: one that came while they waited, or, while known metadata serve, a recent one.

        Else a hundred callers would ask a hung identity provider one after the other, and the last would hear of it after minutes.
        """
        return failed_at > asked_at or (self._known is not None and now - failed_at < RETRY_SECONDS)

    async def _fetched(self) -> Metadata:
        url = f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"
        status, document = await fetch_json(self._client, "GET", url)
        if status != 200:
            raise ProviderUnavailableError(f"discovery answered {status}")
        return parse_metadata(document, self._issuer)
