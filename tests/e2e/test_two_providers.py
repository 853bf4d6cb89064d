"""Two identity providers: people choose, and neither can speak for the other."""

import re
import urllib.parse
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
    with echo_server("app") as upstream, short_folder() as folder:
        to = f"http://127.0.0.1:{upstream.port}"
        routes = [{"name": "app", "from": "app", "to": to, "policy": signed_in(), "claim_headers": {"x-who": "email"}}]
        with site(folder, routes, two_providers=True) as running:
            yield running


@pytest.fixture
def client(made: Site) -> Iterator[BrowserlessClient]:
    with made.client() as browser:
        yield browser


def choices(client: BrowserlessClient, made: Site) -> dict[str, str]:
    """Name and address of each identity provider on the choice page."""
    page = client.navigate(made.url("app") + "/")
    assert page.status_code == 200
    found = re.findall(r'<a class="button" href="([^"]+)">([^<]+)</a>', page.text)
    return {name: made.url("authenticate") + url.replace("&amp;", "&") for url, name in found}


def login_page(client: BrowserlessClient, made: Site, name: str) -> httpx.Response:
    return client.navigate(choices(client, made)[f"The {name} provider"])


def log_in(client: BrowserlessClient, page: httpx.Response) -> str:
    fields = dict(zip(("email", "password"), PASSWORDS["alice"], strict=True))
    return str(client.submit(page.extensions["final_url"], page, fields).headers["location"])


def test_people_choose_and_each_choice_signs_in(made: Site):
    for name, port in (("demo", made.provider_port), ("second", made.second_port)):
        with made.client() as client:
            assert set(choices(client, made)) == {"The demo provider", "The second provider"}
            page = login_page(client, made, name)
            assert page.extensions["final_url"].startswith(f"http://localhost:{port}/")
            landed = client.navigate(log_in(client, page))
            assert dict(landed.json()["headers"])["x-who"] == "alice@example.com"


def test_the_choice_page_says_where_to_and_allows_no_script(client: BrowserlessClient, made: Site):
    page = client.navigate(made.url("app") + "/")
    assert made.host("app") in page.text
    assert "script-src" not in page.headers["content-security-policy"]
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_s58_an_answer_counts_only_at_the_address_of_its_own_provider(client: BrowserlessClient, made: Site):
    back = log_in(client, login_page(client, made, "demo"))
    crossed = back.replace("/callback/demo?", "/callback/second?")
    assert crossed != back
    refused = client.get(crossed, headers=NAVIGATION)
    assert refused.status_code == 400
    assert client.cookie("authenticate.localhost", "__Host-doorward-sso") is None


def test_s58_one_providers_answer_is_not_taken_under_the_others_name(client: BrowserlessClient, made: Site):
    """The mix-up: the browser began at one, and comes back with a code and `iss` of the other."""
    asked = urllib.parse.urlsplit(login_page(client, made, "second").extensions["final_url"]).query
    state = urllib.parse.parse_qs(asked)["state"][0]
    with made.client() as honest:
        other = urllib.parse.parse_qs(urllib.parse.urlsplit(log_in(honest, login_page(honest, made, "demo"))).query)
    for issuer in (other["iss"][0], f"http://localhost:{made.second_port}"):
        query = urllib.parse.urlencode({"state": state, "code": other["code"][0], "iss": issuer})
        refused = client.get(f"{made.url('authenticate')}/.doorward/callback/second?{query}", headers=NAVIGATION)
        assert refused.status_code in {400, 403}
        assert client.cookie("authenticate.localhost", "__Host-doorward-sso") is None


def test_s62_the_same_address_at_two_providers_is_two_people(made: Site):
    users = set()
    for name in ("demo", "second"):
        with made.client() as client:
            client.navigate(log_in(client, login_page(client, made, name)))
            answer = client.get(made.url("app") + "/.doorward/whoami", headers={"accept": "application/json"}).json()
            assert answer["email"] == "alice@example.com"
            users.add(answer["user"])
    assert len(users) == 2


def test_an_unknown_choice_is_refused(client: BrowserlessClient, made: Site):
    address = choices(client, made)["The demo provider"].replace("/sign_in/demo?", "/sign_in/other?")
    assert client.get(address, headers=NAVIGATION).status_code == 400
