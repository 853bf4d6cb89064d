"""People sign in, see what they may, are told why not, and are signed out everywhere at once."""

import json
import re
from collections.abc import Callable

import pytest
from tests.e2e.conftest import PASSWORDS
from tests.support.deployment import Running, wait_for
from tests.support.http_client import NAVIGATION, BrowserlessClient

pytestmark = pytest.mark.e2e
Browser = Callable[..., BrowserlessClient]
Url = Callable[[str], str]


@pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])
def test_alice_signs_in_and_the_upstream_gets_a_genuine_assertion(browser: Browser, url: Url, http2: bool):
    client = browser(http2=http2)
    response = client.sign_in(url("verify") + "/json?a=1", *PASSWORDS["alice"])
    assert response.status_code == 200
    seen = response.json()
    assert seen["path"] == "/json"
    assert seen["query"] == "a=1"
    assert seen["assertion"]["valid"], seen["assertion"]["error"]
    claims = seen["assertion"]["claims"]
    assert claims["email"] == "alice@example.com"
    assert claims["groups"] == ["admins", "eng"]
    assert claims["aud"] == "verify.localhost"
    assert "doorward" not in str(dict(seen["headers"]).get("cookie", ""))


def test_admin_lets_its_group_in_and_nobody_else(browser: Browser, url: Url):
    alice = browser().sign_in(url("admin") + "/", *PASSWORDS["alice"])
    assert alice.status_code == 200
    assert "alice@example.com" in alice.text
    for person in ("bob", "carol"):
        page = browser().sign_in(url("admin") + "/", *PASSWORDS[person])
        assert page.status_code == 403
        assert "Ask for membership" in page.text
        assert re.search(r"Decision <code>[0-9a-f-]+</code>", page.text)
        assert "script-src" not in page.headers["content-security-policy"]
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert page.headers["cache-control"] == "no-store"


def test_public_is_open_by_policy_and_recorded(browser: Browser, url: Url, demo: Running):
    response = browser().get(url("public") + "/")
    assert response.status_code == 200
    request_id = response.headers["x-request-id"]
    record = wait_for(
        lambda: next((r for r in demo.decisions() if r["request_id"] == request_id), None), what="the decision"
    )
    assert (record["route"], record["outcome"], record["user_id"]) == ("public", "allow", None)


def test_one_sign_in_is_enough_for_several_hosts(browser: Browser, url: Url):
    client = browser("alice")
    response = client.navigate(url("admin") + "/")
    assert response.status_code == 200
    assert "Administration" in response.text


def test_programs_get_401_and_are_never_redirected(browser: Browser, url: Url):
    response = browser().get(url("verify") + "/json", headers={"accept": "application/json"})
    assert response.status_code == 401
    assert response.json()["error"] == "sign-in"
    assert "www-authenticate" in response.headers
    grpc = browser().request("POST", url("verify") + "/a.B/C", headers={"content-type": "application/grpc"})
    assert (grpc.status_code, grpc.headers["grpc-status"]) == (200, "16")
    upgrade = browser().get(url("verify") + "/ws", headers={"upgrade": "websocket", "connection": "upgrade"})
    assert upgrade.status_code in {401, 403}


@pytest.mark.parametrize("where", ["verify", "authenticate"])
def test_signing_out_on_one_host_ends_every_host(browser: Browser, url: Url, where: str):
    client = browser("alice")
    client.navigate(url("admin") + "/")
    assert client.get(url("admin") + "/", headers=NAVIGATION).status_code == 200
    kept = {host: dict(cookies) for host, cookies in client.cookies.items()}
    page_url = url(where) + "/.doorward/sign_out"
    page = client.get(page_url, headers=NAVIGATION)
    answer = client.submit(page_url, page, {})
    assert answer.status_code == 200
    assert "signed out" in answer.text.lower()
    client.cookies = kept  # a copied cookie must be worth nothing either
    for name in ("verify", "admin"):
        response = client.get(url(name) + "/", headers=NAVIGATION)
        assert response.status_code == 302, name
    sso = client.get(url("authenticate") + "/", headers=NAVIGATION)
    assert "You are signed in" not in sso.text


@pytest.mark.parametrize("said", [{"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {}])
def test_another_site_cannot_make_the_sign_in_host_forget_somebody(browser: Browser, url: Url, said: dict[str, str]):
    """A browser sends no cookie along (SameSite) and obeys the answer: with the cookie gone nobody could sign out there any more."""
    client = browser("alice")
    foreign = {**NAVIGATION, **said, "origin": "https://evil.example"}
    page_url = url("authenticate") + "/.doorward/sign_out"
    answer = client.request("POST", page_url, headers=foreign, cookie_header="")
    assert (answer.status_code, answer.headers.get_list("set-cookie")) == (400, [])
    page = client.get(page_url, headers=NAVIGATION)
    assert "signed out" in client.submit(page_url, page, {}).text
    # Nor is a success claimed that is none: whoever has no session here may have one elsewhere.
    for again in (client.get(page_url, headers=NAVIGATION), client.submit(page_url, page, {})):
        assert "signed out" not in again.text


def test_an_operators_revoke_ends_a_session_at_the_next_request(browser: Browser, url: Url, demo: Running):
    client = browser("bob")
    listed = [json.loads(line) for line in demo.command("session", "list", "--json").stdout.splitlines()]
    session_id = max((s for s in listed if s["email"] == "bob@example.com"), key=lambda s: s["issued_at"])["id"]
    assert client.get(url("verify") + "/json", headers=NAVIGATION).status_code == 200
    result = demo.command("session", "revoke", session_id, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {"state": "applied", "revoked": 1, "pending": []}
    assert client.get(url("verify") + "/json", headers=NAVIGATION).status_code == 302


def test_who_am_i(browser: Browser, url: Url):
    client = browser("alice")
    answer = client.get(url("verify") + "/.doorward/whoami", headers={"accept": "application/json"}).json()
    assert (answer["signed_in"], answer["email"]) == (True, "alice@example.com")
    assert browser().get(url("verify") + "/.doorward/whoami", headers={"accept": "application/json"}).json() == {
        "signed_in": False
    }


def test_a_denial_can_be_explained_from_its_id(browser: Browser, url: Url, demo: Running):
    page = browser().sign_in(url("admin") + "/", *PASSWORDS["bob"])
    match = re.search(r"Decision <code>([0-9a-f-]+)</code>", page.text)
    assert match is not None
    result = demo.command("explain", match.group(1))
    assert result.returncode == 0, result.stderr
    assert "groups" in result.stdout
    assert "eng" in result.stdout


def test_everybody_who_has_signed_in_can_be_asked_about(browser: Browser, url: Url, demo: Running):
    browser().sign_in(url("admin") + "/", *PASSWORDS["bob"])
    browser().sign_in(url("admin") + "/", *PASSWORDS["alice"])
    result = demo.command("policy", "who-can", "admin", "-c", str(demo.data / "demo.yaml"), "-o", "json", "--all")
    assert result.returncode == 0, result.stderr
    answers = {row["person"]: row["access"] for row in json.loads(result.stdout)}
    assert (answers["alice@example.com"], answers["bob@example.com"], answers["nobody"]) == ("yes", "no", "no")


def test_unknown_hosts_and_paths_are_checked_404s(browser: Browser, url: Url, demo: Running):
    client = browser()
    response = client.get(url("authenticate") + "/nothing/here")
    assert response.status_code == 404
    port = url("verify").rsplit(":", 1)[1]
    unknown = client._client.get(
        f"https://127.0.0.1:{port}/x",
        headers={"host": f"unknown.localhost:{port}"},
        extensions={"sni_hostname": "verify.localhost"},
    )
    assert unknown.status_code == 404
    request_id = unknown.headers["x-request-id"]
    wait_for(lambda: any(r["request_id"] == request_id for r in demo.decisions()), what="the decision")


def test_s47_ten_tabs_sign_in_at_once(browser: Browser, url: Url):
    client = browser()
    pages = [client.navigate(f"{url('verify')}/json?tab={tab}") for tab in range(10)]
    landed = []
    for page in pages:
        login = page.extensions["final_url"]
        answer = client.submit(login, page, dict(zip(("email", "password"), PASSWORDS["alice"], strict=True)))
        landed.append(client.navigate(answer.headers["location"]))
    assert [page.json()["query"] for page in landed] == [f"tab={tab}" for tab in range(10)]
