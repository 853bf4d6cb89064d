"""Refreshes over HTTP: which answers are about the person, and which are an outage or a mistake of ours."""

import json
import urllib.parse
from typing import Any

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey
from tests.support.fake_clock import FakeClock

from doorward.config.settings import IdentityProviderSettings
from doorward.keys.secret import Secret
from doorward_authenticate.errors import ProviderRefusedError, ProviderUnavailableError, TokenRejectedError
from doorward_authenticate.identity_providers.relying_party import OidcRelyingParty

ISSUER = "https://idp.example.com"
KEY = RSAKey.generate_key(2048, {"kid": "one"})
SETTINGS = IdentityProviderSettings(
    id="corp", name="Corp", issuer=ISSUER, client_id="c", client_secret=Secret("client-secret"), scopes=("openid",),
    signing_algorithms=("RS256",), email_domains=None, groups_claim=None,
)  # fmt: skip
METADATA = {
    "issuer": ISSUER, "authorization_endpoint": f"{ISSUER}/a", "token_endpoint": f"{ISSUER}/token",
    "jwks_uri": f"{ISSUER}/jwks", "userinfo_endpoint": f"{ISSUER}/userinfo",
    "id_token_signing_alg_values_supported": ["RS256"],
}  # fmt: skip


class Provider:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.token: tuple[int, Any] = (200, {"access_token": "a", "token_type": "Bearer", "expires_in": "300"})
        self.userinfo: tuple[int, Any] = (200, {"sub": "alice"})
        self.forms: list[dict[str, str]] = []
        client = httpx.AsyncClient(transport=httpx.MockTransport(self.answer))
        self.party = OidcRelyingParty(SETTINGS, "https://x/cb", client, self.clock)

    def answer(self, request: httpx.Request) -> httpx.Response:
        match request.url.path:
            case "/.well-known/openid-configuration":
                return httpx.Response(200, json=METADATA)
            case "/jwks":
                return httpx.Response(200, json={"keys": [KEY.as_dict(private=False)]})
            case "/token":
                self.forms.append(dict(urllib.parse.parse_qsl(request.content.decode())))
                return httpx.Response(self.token[0], content=json.dumps(self.token[1]))
            case _:
                return httpx.Response(self.userinfo[0], content=json.dumps(self.userinfo[1]))

    def id_token(self, **claims: Any) -> str:
        now = int(self.clock.now())
        full = {"iss": ISSUER, "sub": "alice", "aud": "c", "iat": now, "exp": now + 300, **claims}
        return jwt.encode({"alg": "RS256", "kid": "one"}, full, KEY)


async def test_a_refresh_brings_tokens_and_keeps_the_old_refresh_token_when_none_comes():
    provider = Provider()
    renewed = await provider.party.renew("r", "alice")
    assert provider.forms == [{"grant_type": "refresh_token", "refresh_token": "r"}]
    assert (renewed.access_token, renewed.refresh_token, renewed.access_seconds) == ("a", None, 300.0)
    assert "access_token='a'" not in repr(renewed)


@pytest.mark.parametrize(
    ("status", "answer", "expected"),
    [
        (400, {"error": "invalid_grant"}, ProviderRefusedError),
        (400, {"error": "interaction_required"}, ProviderRefusedError),
        (401, {"error": "invalid_client"}, ProviderUnavailableError),
        (400, {"error": "unauthorized_client"}, ProviderUnavailableError),
        (400, {}, ProviderUnavailableError),
        (429, {"error": "invalid_grant"}, ProviderUnavailableError),
        (500, {"error": "invalid_grant"}, ProviderUnavailableError),
        (503, {}, ProviderUnavailableError),
        (200, {"access_token": "a", "token_type": "mac"}, TokenRejectedError),
        (200, {"token_type": "Bearer"}, TokenRejectedError),
        (200, [], ProviderUnavailableError),
    ],
)
async def test_only_what_is_about_the_person_is_a_refusal(status: int, answer: Any, expected: type[Exception]):
    """A wrong client secret after a rotation must not sign everybody out."""
    provider = Provider()
    provider.token = (status, answer)
    with pytest.raises(expected):
        await provider.party.renew("r", "alice")


async def test_a_new_id_token_is_verified_and_must_be_about_the_same_person():
    provider = Provider()
    base = {"access_token": "a", "token_type": "Bearer"}
    provider.token = (200, {**base, "id_token": provider.id_token(department="eng")})
    renewed = await provider.party.renew("r", "alice")
    assert renewed.claims is not None
    assert renewed.claims["department"] == "eng"
    for bad in ({"sub": "mallory"}, {"iss": "https://other"}, {"aud": "d"}, {"exp": 1}):
        provider.token = (200, {**base, "id_token": provider.id_token(**bad)})
        with pytest.raises(TokenRejectedError):
            await provider.party.renew("r", "alice")


@pytest.mark.parametrize(
    ("status", "answer", "expected"),
    [
        (401, {}, ProviderRefusedError),
        (403, {}, ProviderUnavailableError),
        (500, {}, ProviderUnavailableError),
        (200, {"sub": "mallory"}, TokenRejectedError),
        (200, {}, TokenRejectedError),
    ],
)
async def test_userinfo_counts_only_about_the_same_person(status: int, answer: Any, expected: type[Exception]):
    provider = Provider()
    provider.userinfo = (status, answer)
    with pytest.raises(expected):
        await provider.party.userinfo("a", "alice")
