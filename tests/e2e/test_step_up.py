"""Somebody whose sign-in is too old or too weak signs in again, as the same person."""

import re
import urllib.parse
from collections.abc import Callable

import httpx
import pytest
from tests.e2e.conftest import PASSWORDS
from tests.support.deployment import Running
from tests.support.http_client import NAVIGATION, BrowserlessClient

from doorward.demo.identity_provider import ONE_TIME_CODE

pytestmark = pytest.mark.e2e
Browser = Callable[..., BrowserlessClient]
Url = Callable[[str], str]
HANDLE = "__Host-doorward"


def log_in(client: BrowserlessClient, page: httpx.Response, person: str, **more: str) -> httpx.Response:
    """Fill in the identity provider's page, and go where that leads."""
    fields = dict(zip(("email", "password"), PASSWORDS[person], strict=True))
    answer = client.submit(page.extensions["final_url"], page, {**fields, **more})
    return client.navigate(answer.headers["location"]) if answer.is_redirect else answer


def is_worth(client: BrowserlessClient, url: Url, handle: str | None) -> int:
    return client.request("GET", url("verify") + "/", cookie_header=f"{HANDLE}={handle}").status_code


def test_s41_a_step_up_makes_a_new_session_and_the_old_one_ends(browser: Browser, url: Url, demo: Running):
    """Whoever holds a copy of a session must not be promoted with it."""
    client = browser("alice")
    old, old_sso = (
        client.cookie("verify.localhost", HANDLE),
        client.cookie("authenticate.localhost", "__Host-doorward-sso"),
    )
    page = client.navigate(url("verify") + "/strong?a=1")
    asked = urllib.parse.parse_qs(urllib.parse.urlsplit(page.extensions["final_url"]).query)
    assert (asked["max_age"], asked["acr_values"]) == (["270"], ["mfa"])
    assert is_worth(client, url, old) == 200, "nothing ends before the new sign-in"
    landed = log_in(client, page, "alice", code=ONE_TIME_CODE)
    assert (landed.status_code, landed.extensions["final_url"]) == (200, url("verify") + "/strong?a=1")
    new = client.cookie("verify.localhost", HANDLE)
    assert new not in {None, old}
    assert (is_worth(client, url, new), is_worth(client, url, old)) == (200, 401)
    with BrowserlessClient(demo.ca_file) as thief:
        thief.cookies = {"authenticate.localhost": {"__Host-doorward-sso": str(old_sso)}}
        assert "alice@example.com" not in thief.navigate(url("authenticate") + "/").text
    assert client.get(url("verify") + "/strong", headers=NAVIGATION).status_code == 200


def test_another_person_confirms_nothing(browser: Browser, url: Url):
    client = browser("alice")
    old = client.cookie("verify.localhost", HANDLE)
    page = log_in(client, client.navigate(url("verify") + "/strong"), "bob", code=ONE_TIME_CODE)
    assert page.status_code == 403
    assert "That was somebody else" in page.text
    assert client.cookie("verify.localhost", HANDLE) == old
    assert is_worth(client, url, old) == 200
    assert client.navigate(url("verify") + "/json").json()["assertion"]["claims"]["email"] == "alice@example.com"


def test_a_sign_in_that_is_not_strong_enough_ends_on_a_page_and_the_button_tries_again(browser: Browser, url: Url):
    """A redirect that is repeated until the browser gives up says nothing to anybody."""
    client = browser("alice")
    page = client.navigate(url("verify") + "/strong")
    login = page.extensions["final_url"]
    page.extensions["final_url"] = login.replace("acr_values=mfa", "acr_values=demo")
    weak = re.sub("acr_values=mfa", "acr_values=demo", page.text)
    answer = client.submit(
        login, httpx.Response(200, text=weak), dict(zip(("email", "password"), PASSWORDS["alice"], strict=True))
    )
    refused = client.navigate(answer.headers["location"])
    assert refused.status_code == 403
    assert "A stronger sign-in is needed" in refused.text
    link = re.search(r'<a class="button" href="([^"]+)"', refused.text)
    assert link is not None
    again = client.navigate(url("authenticate") + link[1].replace("&amp;", "&"))
    assert "prompt=login" in again.extensions["final_url"]
    assert log_in(client, again, "alice", code=ONE_TIME_CODE).status_code == 200


def test_programs_are_told_what_a_sign_in_must_bring(browser: Browser, url: Url):
    client = browser("alice")
    refused = client.get(url("verify") + "/strong", headers={"accept": "application/json"})
    assert refused.status_code == 401
    assert refused.json()["step_up"] == {"max_age": 300, "acr_values": ["mfa"], "methods": ["otp"]}
    challenges = refused.headers.get_list("www-authenticate")
    bearer = next(text for text in challenges if text.startswith("Bearer "))
    assert 'error="insufficient_user_authentication"' in bearer
    assert 'acr_values="mfa"' in bearer
    assert 'max_age="300"' in bearer
