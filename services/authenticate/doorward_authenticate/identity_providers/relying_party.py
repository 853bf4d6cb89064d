"""The authorization code flow with one identity provider (OpenID Connect Core 1.0, section 3.1; PKCE, RFC 7636)."""

import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
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

PERSON_REFUSED = frozenset(
    {"invalid_grant", "interaction_required", "login_required", "consent_required", "access_denied"}
)
"""Errors of a refresh that are about the person or their grant. Any other (`invalid_client`, `unauthorized_client`) is about
this client's registration, and a mistake there must not sign everybody out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedInAt:
    """What an identity provider has vouched for."""

    claims: VerifiedClaims
    userinfo: dict[str, object]
    """Counts only because its `sub` is the token's; empty when there is none."""
    access_token: str
    refresh_token: str | None
    id_token: str
    access_seconds: float | None = None
    """How long the access token lasts, when the identity provider says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed:
    """What a refresh brought."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    """A new one, or ``None`` when the old one stays good."""
    id_token: str | None = field(repr=False)
    access_seconds: float | None
    claims: VerifiedClaims | None
    """Those of the new ID token, when there is one; its `sub` is the session's."""


class RelyingParty(Protocol):
    """One identity provider, as the sign-in flow sees it."""

    settings: IdentityProviderSettings

    async def authorization_url(
        self, *, state: str, nonce: str, code_verifier: str, more: Mapping[str, str] = MappingProxyType({})
    ) -> str:
        """Where to send the browser; ``more`` are further parameters, such as `max_age`.

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

    async def renew(self, refresh_token: str, subject: str) -> Renewed:
        """Trade a refresh token for new tokens of ``subject``.

        Raises:
            ProviderRefusedError: it does not let this person go on.
            ProviderUnavailableError: nothing can be said about the person now.
            TokenRejectedError: what it sent does not verify, or is about somebody else.
        """
        ...

    async def userinfo(self, access_token: str, subject: str) -> dict[str, object]:
        """What it says of ``subject`` now; empty when it has no such endpoint. Raises as ``renew``."""
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

    async def authorization_url(
        self, *, state: str, nonce: str, code_verifier: str, more: Mapping[str, str] = MappingProxyType({})
    ) -> str:
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
                **more,
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
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect_uri,
            "code_verifier": code_verifier,
        }
        status, tokens = await self._ask_token_endpoint(metadata, form)
        _check_token_answer(status, tokens, refused=True)
        id_token, access_token = _required(tokens, "id_token"), _required(tokens, "access_token")
        claims = await self._verified(metadata, id_token, access_token, nonce)
        refresh = tokens.get("refresh_token")
        status, userinfo = await self._ask_userinfo(metadata, access_token)
        return SignedInAt(
            claims=claims,
            userinfo=_userinfo_of(status, userinfo, str(claims["sub"])),
            access_token=access_token,
            refresh_token=refresh if isinstance(refresh, str) else None,
            id_token=id_token,
            access_seconds=_seconds(tokens.get("expires_in")),
        )

    async def renew(self, refresh_token: str, subject: str) -> Renewed:
        """See ``RelyingParty.renew``."""
        metadata = await self._metadata.get()
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        status, tokens = await self._ask_token_endpoint(metadata, form)
        _check_token_answer(status, tokens, refused=tokens.get("error") in PERSON_REFUSED)
        access_token, id_token = _required(tokens, "access_token"), tokens.get("id_token")
        claims = None
        if isinstance(id_token, str):
            claims = await self._verified(metadata, id_token, access_token, None)
            if claims["sub"] != subject:
                raise TokenRejectedError("the new ID token speaks of somebody else")
        rotated = tokens.get("refresh_token")
        return Renewed(
            access_token=access_token,
            refresh_token=rotated if isinstance(rotated, str) and rotated else None,
            id_token=id_token if isinstance(id_token, str) else None,
            access_seconds=_seconds(tokens.get("expires_in")),
            claims=claims,
        )

    async def userinfo(self, access_token: str, subject: str) -> dict[str, object]:
        """See ``RelyingParty.userinfo``."""
        status, answer = await self._ask_userinfo(await self._metadata.get(), access_token)
        if status == 401:
            # Our clock says that the token is good; the identity provider has withdrawn it.
            raise ProviderRefusedError("userinfo does not take the access token any more")
        return _userinfo_of(status, answer, subject)

    async def _verified(
        self, metadata: Metadata, id_token: str, access_token: str, nonce: str | None
    ) -> VerifiedClaims:
        keys = await self._keys.get(metadata.jwks_uri, key_id_of(id_token))
        expected = Expectation(
            issuer=self.settings.issuer,
            client_id=self.settings.client_id,
            nonce=nonce,
            algorithms=frozenset(self.settings.signing_algorithms) & metadata.signing_algorithms,
            access_token=access_token,
            now=self._clock.now(),
        )
        return verify_id_token(id_token, keys, expected)

    async def _ask_token_endpoint(self, metadata: Metadata, form: dict[str, str]) -> tuple[int, dict[str, object]]:
        method = "client_secret_post" if metadata.posts_client_secret else "client_secret_basic"
        authentication = ClientAuth(self.settings.client_id, self.settings.client_secret.reveal(), method)
        headers = {"content-type": "application/x-www-form-urlencoded"}
        body = urllib.parse.urlencode(form)
        uri, headers, body = authentication.prepare("POST", metadata.token_endpoint, headers, body)
        return await fetch_json(self._client, "POST", uri, headers=headers, content=body)

    async def _ask_userinfo(self, metadata: Metadata, access_token: str) -> tuple[int, dict[str, object] | None]:
        if metadata.userinfo_endpoint is None:
            return 200, None
        headers = {"authorization": f"Bearer {access_token}"}
        return await fetch_json(self._client, "GET", metadata.userinfo_endpoint, headers=headers)


def _check_token_answer(status: int, answer: dict[str, object], *, refused: bool) -> None:
    """Raise unless the token endpoint gave a bearer token; ``refused``: an error of its is about the person."""
    if status != 200:
        text = f"the token endpoint answered {status} `{str(answer.get('error'))[:64]}`"
        if refused and 400 <= status < 500 and status != 429:
            raise ProviderRefusedError(text)
        raise ProviderUnavailableError(text)
    if str(answer.get("token_type", "")).lower() != "bearer":
        raise TokenRejectedError("the token endpoint gave no bearer token")


def _userinfo_of(status: int, answer: dict[str, object] | None, subject: str) -> dict[str, object]:
    """Section 5.3: it counts only with the `sub` of the ID token."""
    if answer is None:
        return {}
    if status != 200:
        raise ProviderUnavailableError(f"userinfo answered {status}")
    if answer.get("sub") != subject:
        raise TokenRejectedError("userinfo speaks of somebody else")
    return answer


def _seconds(value: object) -> float | None:
    """`expires_in`; some send it as text."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 12:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        return None
    return float(value)


def _required(tokens: dict[str, object], name: str) -> str:
    value = tokens.get(name)
    if not isinstance(value, str) or not value:
        raise TokenRejectedError(f"the token endpoint gave no `{name}`")
    return value
