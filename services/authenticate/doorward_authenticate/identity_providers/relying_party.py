"""The authorization code flow with one identity provider (OpenID Connect Core 1.0, section 3.1; PKCE, RFC 7636)."""

import urllib.parse
from dataclasses import dataclass
from typing import Protocol

import httpx
from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from doorward.clock import Clock
from doorward.config.settings import IdentityProviderSettings
from doorward_authenticate.errors import ProviderRefusedError, ProviderUnavailableError, TokenRejectedError
from doorward_authenticate.identity_providers.fetch import fetch_json
from doorward_authenticate.identity_providers.id_token import (
    Expectation,
    VerifiedClaims,
    key_id_of,
    verify_id_token,
)
from doorward_authenticate.identity_providers.key_sets import KeySource
from doorward_authenticate.identity_providers.metadata import Metadata, MetadataSource


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedInAt:
    """What an identity provider has vouched for."""

    claims: VerifiedClaims
    userinfo: dict[str, object]
    """Counts only because its `sub` is the token's; empty when there is none."""
    access_token: str
    refresh_token: str | None
    id_token: str


class RelyingParty(Protocol):
    """One identity provider, as the sign-in flow sees it."""

    settings: IdentityProviderSettings

    async def authorization_url(self, *, state: str, nonce: str, code_verifier: str) -> str:
        """Where to send the browser.

        Raises:
            ProviderUnavailableError: the identity provider cannot be used now.
        """
        ...

    async def finish(self, *, code: str, response_issuer: str | None, nonce: str, code_verifier: str) -> SignedInAt:
        """Exchange a code for verified claims.

        Raises:
            SignInError: unavailable, refused, or what it sent does not verify.
        """
        ...


class OidcRelyingParty:
    """The flow over HTTP."""

    def __init__(
        self, settings: IdentityProviderSettings, redirect_uri: str, client: httpx.AsyncClient, clock: Clock
    ) -> None:
        self.settings = settings
        self._redirect_uri = redirect_uri
        self._client = client
        self._clock = clock
        self._metadata = MetadataSource(client, settings.issuer, clock)
        self._keys = KeySource(client, clock)

    async def authorization_url(self, *, state: str, nonce: str, code_verifier: str) -> str:
        """See ``RelyingParty.authorization_url``."""
        metadata = await self._metadata.get()
        query = urllib.parse.urlencode(
            {
                "response_type": "code",
                "client_id": self.settings.client_id,
                "redirect_uri": self._redirect_uri,
                "scope": " ".join(self.settings.scopes),
                "state": state,
                "nonce": nonce,
                "code_challenge": create_s256_code_challenge(code_verifier),
                "code_challenge_method": "S256",
            }
        )
        separator = "&" if "?" in metadata.authorization_endpoint else "?"
        return f"{metadata.authorization_endpoint}{separator}{query}"

    async def finish(self, *, code: str, response_issuer: str | None, nonce: str, code_verifier: str) -> SignedInAt:
        """See ``RelyingParty.finish``."""
        metadata = await self._metadata.get()
        # RFC 9207, section 2.4: a response that names another issuer, or none where one is announced, is a mix-up.
        if response_issuer is None and metadata.sends_issuer:
            raise TokenRejectedError("the answer names no issuer")
        if response_issuer is not None and response_issuer != self.settings.issuer:
            raise TokenRejectedError("the answer names another issuer")
        tokens = await self._exchange(metadata, code, code_verifier)
        id_token, access_token = _required(tokens, "id_token"), _required(tokens, "access_token")
        keys = await self._keys.get(metadata.jwks_uri, key_id_of(id_token))
        expected = Expectation(
            issuer=self.settings.issuer,
            client_id=self.settings.client_id,
            nonce=nonce,
            algorithms=frozenset(self.settings.signing_algorithms) & metadata.signing_algorithms,
            access_token=access_token,
            now=self._clock.now(),
        )
        claims = verify_id_token(id_token, keys, expected)
        refresh = tokens.get("refresh_token")
        return SignedInAt(
            claims=claims,
            userinfo=await self._userinfo(metadata, access_token, claims),
            access_token=access_token,
            refresh_token=refresh if isinstance(refresh, str) else None,
            id_token=id_token,
        )

    async def _exchange(self, metadata: Metadata, code: str, code_verifier: str) -> dict[str, object]:
        method = "client_secret_post" if metadata.posts_client_secret else "client_secret_basic"
        authentication = ClientAuth(self.settings.client_id, self.settings.client_secret.reveal(), method)
        form = urllib.parse.urlencode(
            {
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": self._redirect_uri,
                "code_verifier": code_verifier,
            }
        )
        headers = {"content-type": "application/x-www-form-urlencoded"}
        uri, headers, body = authentication.prepare("POST", metadata.token_endpoint, headers, form)
        status, answer = await fetch_json(self._client, "POST", uri, headers=headers, content=body)
        if status >= 500:
            raise ProviderUnavailableError(f"the token endpoint answered {status}")
        if status != 200:
            raise ProviderRefusedError(f"the token endpoint answered {status} `{str(answer.get('error'))[:64]}`")
        if str(answer.get("token_type", "")).lower() != "bearer":
            raise TokenRejectedError("the token endpoint gave no bearer token")
        return answer

    async def _userinfo(self, metadata: Metadata, access_token: str, claims: VerifiedClaims) -> dict[str, object]:
        """Section 5.3: it counts only with the `sub` of the ID token."""
        if metadata.userinfo_endpoint is None:
            return {}
        headers = {"authorization": f"Bearer {access_token}"}
        status, answer = await fetch_json(self._client, "GET", metadata.userinfo_endpoint, headers=headers)
        if status != 200:
            raise ProviderUnavailableError(f"userinfo answered {status}")
        if answer.get("sub") != claims["sub"]:
            raise TokenRejectedError("userinfo speaks of somebody else")
        return answer


def _required(tokens: dict[str, object], name: str) -> str:
    value = tokens.get(name)
    if not isinstance(value, str) or not value:
        raise TokenRejectedError(f"the token endpoint gave no `{name}`")
    return value
