"""Keys of token issuers: fetched in the background, written when they differ, never for what a caller sends."""

import json

import httpx
import pytest
from tests.support.fake_clock import FakeClock
from tests.support.token_issuer import CI, TokenIssuer

from doorward.config.settings import TokenIssuerSettings
from doorward.errors import NotFoundError
from doorward.identity.issuer_keys import RECORD_TYPE, IssuerKeys, issuer_keys_id
from doorward.records.record import Fence, Record, Write
from doorward_authenticate.issuer_keys import CONFIRM_SECONDS, IssuerKeysKeeper

SETTINGS = TokenIssuerSettings(
    id="ci",
    issuer=CI,
    audiences=frozenset({"doorward"}),
    signing_algorithms=frozenset({"ES256"}),
    key_set_url=None,
    groups_claim=None,
)


class Records:
    """Remembers what is put."""

    def __init__(self) -> None:
        self.found: dict[str, bytes] = {}
        self.puts = 0

    async def get(self, record_type: str, record_id: str) -> Record:
        assert record_type == RECORD_TYPE
        if record_id not in self.found:
            raise NotFoundError(record_id)
        return Record(type=record_type, id=record_id, data=self.found[record_id])

    async def put(self, writes: list[Write], fence: Fence | None = None) -> None:
        del fence
        self.puts += 1
        for write in writes:
            self.found[write.record.id] = write.record.data


class Issuer:
    """A web site."""

    def __init__(self) -> None:
        self.keys = TokenIssuer()
        self.pages: dict[str, object] = {}
        self.status = 200
        self.asked: list[str] = []
        self.good()

    def good(self) -> None:
        self.pages = {
            "/.well-known/openid-configuration": {"issuer": CI, "jwks_uri": f"{CI}/keys"},
            "/keys": json.loads(self.keys.key_set),
        }

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        page = self.pages[request.url.path]
        if isinstance(page, Exception):
            raise page
        return httpx.Response(self.status, content=page if isinstance(page, bytes) else json.dumps(page).encode())


@pytest.fixture
def site() -> Issuer:
    return Issuer()


@pytest.fixture
def records() -> Records:
    return Records()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def keeper(site: Issuer, records: Records, clock: FakeClock) -> IssuerKeysKeeper:
    client = httpx.AsyncClient(transport=httpx.MockTransport(site))
    return IssuerKeysKeeper(records, client, lambda: (SETTINGS,), clock)  # type: ignore[arg-type]


async def test_keys_are_written_once_and_confirmed_each_hour(
    keeper: IssuerKeysKeeper, site: Issuer, records: Records, clock: FakeClock
):
    for _ in range(3):
        assert await keeper.attend(SETTINGS)
    assert records.puts == 1
    stored = IssuerKeys.from_bytes(records.found[issuer_keys_id(CI)])
    assert [key.kid for key in stored.usable()] == ["one"]
    assert (stored.issuer, stored.confirmed_at) == (CI, clock.now())
    clock.advance(CONFIRM_SECONDS)
    assert await keeper.attend(SETTINGS)
    assert records.puts == 2
    site.keys = TokenIssuer()
    site.good()
    assert await keeper.attend(SETTINGS)
    assert records.puts == 3
    clock.advance(-3 * CONFIRM_SECONDS)
    assert await keeper.attend(SETTINGS), "a clock that was set back must not stop the confirming"
    assert records.puts == 4


async def test_a_configured_address_needs_no_metadata(records: Records, site: Issuer, clock: FakeClock):
    client = httpx.AsyncClient(transport=httpx.MockTransport(site))
    keeper = IssuerKeysKeeper(records, client, tuple, clock)  # type: ignore[arg-type]
    settings = TokenIssuerSettings(
        id="ci", issuer=CI, audiences=frozenset({"d"}), signing_algorithms=frozenset({"ES256"}),
        key_set_url=f"{CI}/keys", groups_claim=None,
    )  # fmt: skip
    assert await keeper.attend(settings)
    assert site.asked == ["/keys"]


@pytest.mark.parametrize(
    ("path", "page"),
    [
        ("/.well-known/openid-configuration", b"<html>"),
        ("/.well-known/openid-configuration", {"issuer": "https://evil.example", "jwks_uri": f"{CI}/keys"}),
        ("/.well-known/openid-configuration", {"issuer": f"{CI}/", "jwks_uri": f"{CI}/keys"}),
        ("/.well-known/openid-configuration", {"issuer": CI}),
        ("/.well-known/openid-configuration", {"issuer": CI, "jwks_uri": "http://ci.example.net/keys"}),
        ("/.well-known/openid-configuration", {"issuer": CI, "jwks_uri": "file:///etc/passwd"}),
        ("/.well-known/openid-configuration", {"issuer": CI, "jwks_uri": "https://user@evil.example/keys"}),
        ("/.well-known/openid-configuration", httpx.ConnectTimeout("late")),
        ("/keys", b"[]"),
        ("/keys", {"keys": []}),
        ("/keys", {"keys": "one"}),
        ("/keys", {"keys": [{"kty": "oct", "k": "AAAA"}]}),
        ("/keys", {"keys": [{"kty": "EC"}] * 101}),
        ("/keys", b'{"keys": [' + b" " * 600_000 + b"]}"),
        ("/keys", b"[" * 100_000),
        ("/keys", httpx.ReadError("gone")),
    ],
)
async def test_what_cannot_be_used_changes_nothing(
    keeper: IssuerKeysKeeper, site: Issuer, records: Records, path: str, page: object
):
    assert await keeper.attend(SETTINGS)
    before = dict(records.found)
    site.pages[path] = page
    assert not await keeper.attend(SETTINGS)
    assert records.found == before


@pytest.mark.parametrize("status", [301, 401, 404, 500])
async def test_an_answer_that_is_no_yes_is_none(keeper: IssuerKeysKeeper, site: Issuer, records: Records, status: int):
    site.status = status
    assert not await keeper.attend(SETTINGS)
    assert records.puts == 0
