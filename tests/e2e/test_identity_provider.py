"""An identity provider that errs, lies or is away: nobody is signed in, and the page says so with a request id."""

import time
from collections.abc import Iterator

import httpx
import pytest
from tests.e2e.conftest import PASSWORDS
from tests.support.deployment import short_folder
from tests.support.echo import echo_server
from tests.support.http_client import NAVIGATION, BrowserlessClient
from tests.support.site import Site, signed_in, site

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def made() -> Iterator[Site]:
    with (
        echo_server("app") as upstream,
        short_folder() as folder,
        site(
            folder,
            [{"name": "app", "from": "app", "to": f"http://127.0.0.1:{upstream.port}", "policy": signed_in()}],
        ) as running,
    ):
        yield running


@pytest.fixture
def client(made: Site) -> Iterator[BrowserlessClient]:
    made.set_faults()
    with made.client() as browser:
        yield browser


def attempt(client: BrowserlessClient, made: Site) -> httpx.Response:
    """Sign in as alice as far as it goes; the page at the end."""
    page = client.navigate(made.url("app") + "/")
    if 'name="password"' not in page.text:
        return page
    answer = client.submit(
        page.extensions["final_url"], page, dict(zip(("email", "password"), PASSWORDS["alice"], strict=True))
    )
    return client.navigate(answer.headers["location"])


def assert_nobody_is_signed_in(client: BrowserlessClient, made: Site, page: httpx.Response, status: int) -> None:
    assert page.status_code == status, page.text
    assert "Request " in page.text
    assert "Traceback" not in page.text
    assert client.cookie("app.localhost", "__Host-doorward") is None
    assert client.cookie("authenticate.localhost", "__Host-doorward-sso") is None
    assert client.get(made.url("app") + "/").status_code == 401


def test_an_honest_identity_provider_signs_in(client: BrowserlessClient, made: Site):
    assert attempt(client, made).json()["upstream"] == "app"


NOW = time.time()


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param({"algorithm": "none"}, id="s51-none"),
        pytest.param({"algorithm": "HS256"}, id="s51-public-key-as-secret"),
        pytest.param({"header": {"jku": "http://evil.example/keys"}, "claims": {"iss": "x"}}, id="s51-jku"),
        pytest.param({"header": {"crit": ["x"], "x": 1}}, id="s52-unknown-crit"),
        pytest.param({"claims": {"at_hash": "wrong"}}, id="s53-at-hash"),
        pytest.param({"claims": {"iss": "http://localhost"}}, id="s54-issuer-prefix"),
        pytest.param({"claims": {"aud": "other"}}, id="s54-audience"),
        pytest.param({"claims": {"aud": None}}, id="s54-no-audience"),
        pytest.param({"claims": {"aud": ["site", "other"]}}, id="s54-two-audiences-without-azp"),
        pytest.param({"claims": {"azp": "other"}}, id="s54-azp"),
        pytest.param({"claims": {"nonce": "another"}}, id="s57-nonce"),
        pytest.param({"claims": {"nonce": None}}, id="s57-no-nonce"),
        pytest.param({"claims": {"exp": int(NOW) - 3600}}, id="expired"),
        pytest.param({"claims": {"iat": int(NOW) - 36000}}, id="issued-long-ago"),
        pytest.param({"claims": {"sub": ""}}, id="empty-subject"),
        pytest.param({"userinfo_subject": "mallory"}, id="userinfo-of-somebody-else"),
        pytest.param({"response_issuer": "http://evil.example"}, id="s58-another-issuer"),
        pytest.param({"no_response_issuer": True}, id="s58-no-issuer"),
    ],
)
def test_a_token_that_is_not_as_it_must_be_signs_nobody_in(
    client: BrowserlessClient, made: Site, faults: dict[str, object]
):
    made.set_faults(**faults)
    assert_nobody_is_signed_in(client, made, attempt(client, made), 400)


@pytest.mark.parametrize("error", ["access_denied", "server_error", "<script>", "x" * 500])
def test_an_error_from_the_identity_provider_gets_a_clear_page(client: BrowserlessClient, made: Site, error: str):
    made.set_faults(authorization_error=error)
    page = attempt(client, made)
    assert_nobody_is_signed_in(client, made, page, 403)
    assert "<script" not in page.text


def test_a_failing_token_endpoint_gets_a_clear_page(client: BrowserlessClient, made: Site):
    made.set_faults(token_status=500)
    assert_nobody_is_signed_in(client, made, attempt(client, made), 502)


def test_s38_s39_the_callback_never_leads_elsewhere(client: BrowserlessClient, made: Site):
    for query in ("code=x&state=y", "state=1795491881-82107edd484cf407.jEIQDgqhFY7O_MLVGQ0QbyFir", "", "code=1&code=2"):
        answer = client.get(f"{made.url('authenticate')}/.doorward/callback/demo?{query}", headers=NAVIGATION)
        assert answer.status_code == 400
        assert "location" not in answer.headers
    unknown = client.get(made.url("authenticate") + "/.doorward/callback/other?state=a&code=b", headers=NAVIGATION)
    assert unknown.status_code == 400


def test_s47_state_of_one_browser_is_refused_in_another(client: BrowserlessClient, made: Site):
    page = client.navigate(made.url("app") + "/")
    answer = client.submit(
        page.extensions["final_url"], page, dict(zip(("email", "password"), PASSWORDS["alice"], strict=True))
    )
    with made.client() as other:
        refused = other.get(answer.headers["location"], headers=NAVIGATION)
        assert refused.status_code == 400
        assert other.cookie("authenticate.localhost", "__Host-doorward-sso") is None


def test_s57_a_state_is_good_once(client: BrowserlessClient, made: Site):
    page = client.navigate(made.url("app") + "/")
    answer = client.submit(
        page.extensions["final_url"], page, dict(zip(("email", "password"), PASSWORDS["alice"], strict=True))
    )
    back = answer.headers["location"]
    assert client.get(back, headers=NAVIGATION).status_code == 302
    assert client.get(back, headers=NAVIGATION).status_code == 400


def test_flow_cookies_stay_bounded(client: BrowserlessClient, made: Site):
    for attempt_number in range(20):
        client.get(f"{made.url('app')}/{attempt_number}", headers=NAVIGATION)
    flows = [name for name in client.cookies["app.localhost"] if name.startswith("__Host-doorward-flow-")]
    assert len(flows) <= 12
