"""Discovery and key sets: compared, bounded, and asked for seldom."""

import asyncio
import json
from collections.abc import Callable

import httpx
import pytest
from joserfc.jwk import ECKey, OctKey, RSAKey
from tests.support.fake_clock import FakeClock

from doorward_authenticate.errors import ProviderUnavailableError
from doorward_authenticate.identity_providers.fetch import LIMIT_BYTES, fetch_json
from doorward_authenticate.identity_providers.key_sets import KeySource, parse_keys
from doorward_authenticate.identity_providers.metadata import MetadataSource, parse_metadata

ISSUER = "https://idp.example.com"
DOCUMENT: dict[str, object] = {
    "issuer": ISSUER,
    "authorization_endpoint": f"{ISSUER}/authorize",
    "token_endpoint": f"{ISSUER}/token",
    "jwks_uri": f"{ISSUER}/jwks",
    "id_token_signing_alg_values_supported": ["RS256"],
    "code_challenge_methods_supported": ["S256"],
}
KEY = RSAKey.generate_key(2048, {"kid": "one"})


def client(answer: Callable[[httpx.Request], httpx.Response]) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.MockTransport(answer))


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": f"{ISSUER}/"},
        {"issuer": None},
        {"token_endpoint": "http://idp.example.com/token"},
        {"token_endpoint": "ftp://idp.example.com"},
        {"token_endpoint": "https://user@idp.example.com/token"},
        {"jwks_uri": None},
        {"jwks_uri": 7},
        {"code_challenge_methods_supported": ["plain"]},
        {"id_token_signing_alg_values_supported": "RS256"},
        {"userinfo_endpoint": "/userinfo"},
    ],
)
def test_metadata_that_cannot_be_trusted_is_refused(change: dict[str, object]):
    with pytest.raises(ProviderUnavailableError):
        parse_metadata({**DOCUMENT, **change}, ISSUER)


async def test_metadata_are_fetched_once_an_hour_and_outlive_an_outage():
    clock = FakeClock()
    calls: list[str] = []
    up = True

    def answer(request: httpx.Request) -> httpx.Response:
        calls.append(str(request.url))
        return httpx.Response(200, json=DOCUMENT) if up else httpx.Response(503, json={})

    source = MetadataSource(client(answer), ISSUER, clock)
    await asyncio.gather(*(source.get() for _ in range(10)))
    assert calls == [f"{ISSUER}/.well-known/openid-configuration"]
    up = False
    clock.advance(3601)
    assert (await source.get()).issuer == ISSUER
    clock.advance(24 * 3600)
    with pytest.raises(ProviderUnavailableError):
        await source.get()


def test_only_public_signing_keys_count():
    entries = [
        {**KEY.as_dict(private=False), "use": "enc"},
        KEY.as_dict(private=True),
        OctKey.generate_key(256).as_dict(),
        {"kty": "strange"},
        "text",
        ECKey.generate_key("P-256", {"kid": "ec"}).as_dict(private=False),
    ]
    assert [key.kid for key in parse_keys({"keys": entries})] == ["ec"]
    for bad in ({}, {"keys": "x"}, {"keys": [{}] * 101}):
        with pytest.raises(ProviderUnavailableError):
            parse_keys(bad)


async def test_s59_an_unknown_key_is_looked_for_at_most_once_a_minute():
    clock = FakeClock()
    calls = 0

    def answer(_: httpx.Request) -> httpx.Response:
        nonlocal calls
        calls += 1
        return httpx.Response(200, json={"keys": [KEY.as_dict(private=False)]})

    source = KeySource(client(answer), clock)
    await asyncio.gather(*(source.get("https://x/jwks", f"unknown-{n}") for n in range(50)))
    assert calls == 1
    clock.advance(61)
    await asyncio.gather(*(source.get("https://x/jwks", f"unknown-{n}") for n in range(50)))
    assert calls == 2
    await source.get("https://x/jwks", "one")
    assert calls == 2


async def test_s59_a_rotated_key_is_found_and_the_old_one_forgotten():
    clock = FakeClock()
    published = [KEY]
    source = KeySource(
        client(lambda _: httpx.Response(200, json={"keys": [key.as_dict(private=False) for key in published]})), clock
    )
    assert [key.kid for key in await source.get("https://x/jwks", "one")] == ["one"]
    published[:] = [RSAKey.generate_key(2048, {"kid": "two"})]
    clock.advance(61)
    assert [key.kid for key in await source.get("https://x/jwks", "two")] == ["two"]


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(200, content=b"{"),
        httpx.Response(200, content=b"[]"),
        httpx.Response(200, content=b"x" * (LIMIT_BYTES + 1)),
        httpx.Response(200, content=b"[" * 100_000),
        httpx.Response(302, headers={"location": "http://169.254.169.254/"}, content=b""),
    ],
    ids=["broken", "list", "oversize", "deep", "redirect"],
)
async def test_an_answer_that_is_no_small_json_object_is_refused(response: httpx.Response):
    with pytest.raises(ProviderUnavailableError):
        await fetch_json(client(lambda _: response), "GET", "https://x/")


async def test_a_failing_connection_is_unavailable():
    def answer(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(ProviderUnavailableError):
        await fetch_json(client(answer), "GET", "https://x/")


def test_the_document_is_what_the_tests_say():
    assert parse_metadata(json.loads(json.dumps(DOCUMENT)), ISSUER).jwks_uri == f"{ISSUER}/jwks"
