"""Discovery and key sets: compared, bounded, and asked for seldom."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from joserfc.jwk import ECKey, OctKey, RSAKey
from tests.support.fake_clock import FakeClock

from doorward_authenticate.errors import ProviderUnavailableError
from doorward_authenticate.identity_providers import fetch
from doorward_authenticate.identity_providers.fetch import LIMIT_BYTES, fetch_json
from doorward_authenticate.identity_providers.key_sets import KeySource, parse_keys
from doorward_authenticate.identity_providers.metadata import MetadataSource, parse_metadata
from doorward_authenticate.session_life.refresher import ATTEMPT_SECONDS

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


@pytest.mark.parametrize("what", ["metadata", "keys"])
async def test_callers_who_wait_together_hear_together_that_nobody_answers(what: str):
    """One after the other they would keep a hung identity provider's sign-ins waiting for minutes after it is back."""
    clock = FakeClock()
    calls = 0
    gate = asyncio.Event()

    async def answer(_: httpx.Request) -> httpx.Response:
        nonlocal calls
        calls += 1
        await gate.wait()
        clock.advance(8)
        return httpx.Response(503, json={})

    hung = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    metadata, keys = MetadataSource(hung, ISSUER, clock), KeySource(hung, clock)

    async def ask() -> object:
        return await metadata.get() if what == "metadata" else await keys.get("https://x/jwks", "one")

    waiting = [asyncio.create_task(ask()) for _ in range(50)]
    while not calls:
        await asyncio.sleep(0)
    gate.set()
    failures = await asyncio.gather(*waiting, return_exceptions=True)
    assert calls == 1
    assert {type(failure) for failure in failures} == {ProviderUnavailableError}
    with pytest.raises(ProviderUnavailableError):
        await ask()
    assert calls == 2, "who comes later asks anew"


async def test_known_metadata_serve_at_once_while_nobody_answers():
    clock = FakeClock()
    calls = 0

    def answer(_: httpx.Request) -> httpx.Response:
        nonlocal calls
        calls += 1
        return httpx.Response(200, json=DOCUMENT) if calls == 1 else httpx.Response(503, json={})

    source = MetadataSource(client(answer), ISSUER, clock)
    await source.get()
    clock.advance(3601)
    for _ in range(20):
        assert (await source.get()).issuer == ISSUER
    assert calls == 2
    clock.advance(61)
    await source.get()
    assert calls == 3


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


async def test_s59_keys_that_nobody_has_confirmed_for_a_day_verify_nothing():
    """A key that was taken back must not count for as long as somebody keeps the key set away; and an outage must not stop everybody."""
    clock = FakeClock()
    calls = 0

    def answer(_: httpx.Request) -> httpx.Response:
        nonlocal calls
        calls += 1
        if calls == 1:
            return httpx.Response(200, json={"keys": [KEY.as_dict(private=False)]})
        return httpx.Response(503, json={})

    source = KeySource(client(answer), clock)
    for _ in range(23):
        assert [key.kid for key in await source.get("https://x/jwks", "one")] == ["one"]
        clock.advance(3601)
    # Known keys are looked for anew once a minute when they are old, and not only after another hour.
    before = calls
    for _ in range(3):
        await source.get("https://x/jwks", "one")
        await source.get("https://x/jwks", "one")
        clock.advance(61)
    assert calls == before + 3
    clock.advance(3600)
    for _ in range(2):
        with pytest.raises(ProviderUnavailableError):
            await source.get("https://x/jwks", "one")


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


async def test_an_answer_that_trickles_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch):
    """Each piece is in time. A refresh that it could hold for longer than its attempt lasts would be made twice."""
    monkeypatch.setattr(fetch, "DEADLINE_SECONDS", 0.05)

    async def trickle() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.001)

    with pytest.raises(ProviderUnavailableError, match="no whole answer"):
        await fetch_json(client(lambda _: httpx.Response(200, content=trickle())), "GET", "https://x/")


def test_a_refresh_cannot_outlast_its_attempt():
    assert fetch.DEADLINE_SECONDS * 6 < ATTEMPT_SECONDS


async def test_a_failing_connection_is_unavailable():
    def answer(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(ProviderUnavailableError):
        await fetch_json(client(answer), "GET", "https://x/")


def test_the_document_is_what_the_tests_say():
    assert parse_metadata(json.loads(json.dumps(DOCUMENT)), ISSUER).jwks_uri == f"{ISSUER}/jwks"
