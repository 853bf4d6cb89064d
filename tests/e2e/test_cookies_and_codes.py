"""Cookies and one-time codes that are malformed, late, foreign or somebody else's: never an error page, never a pass."""

import base64
import re
import secrets
import urllib.parse
from collections.abc import Callable

import httpx
import pytest
from tests.e2e.conftest import PASSWORDS
from tests.support.deployment import Running, wait_for
from tests.support.forge import Forge
from tests.support.http_client import NAVIGATION, BrowserlessClient

from doorward.keys.store import Purpose

pytestmark = pytest.mark.e2e
Browser = Callable[..., BrowserlessClient]
Url = Callable[[str], str]
SESSION = "__Host-doorward"


def handle(client: BrowserlessClient, host: str = "verify.localhost") -> str:
    value = client.cookie(host, SESSION)
    assert value is not None
    return value


def spoiled(value: str) -> dict[str, str]:
    raw = bytearray(base64.urlsafe_b64decode(value + "=="))
    raw[40] ^= 1
    flipped = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    return {
        "empty": "",
        "garbage": "x",
        "truncated": value[:-4],
        "bit-flipped": flipped,
        "padded": value + "=",
        "oversize": value + "A" * 3000,
        "foreign-key": base64.urlsafe_b64encode(b"\x01" + secrets.token_bytes(90)).rstrip(b"=").decode(),
        "quoted": f'"{value}"',
    }


@pytest.mark.parametrize("kind", sorted(spoiled(base64.urlsafe_b64encode(bytes(100)).decode().rstrip("="))))
def test_s44_a_spoiled_cookie_is_not_signed_in(browser: Browser, url: Url, kind: str):
    client = browser("alice")
    value = spoiled(handle(client))[kind]
    response = client.request("GET", url("verify") + "/json", cookie_header=f"{SESSION}={value}")
    assert response.status_code == 401
    page = client.request("GET", url("verify") + "/", headers=NAVIGATION, cookie_header=f"{SESSION}={value}")
    assert page.status_code == 302
    public = client.request("GET", url("public") + "/", cookie_header=f"{SESSION}={value}")
    assert public.status_code == 200


@pytest.mark.parametrize(
    "shape",
    [
        "{n}={v}; {n}={v}",
        "{n}=x; {n}={v}",
        "{n}={v}; {n}=x",
        "\u2000{n}={v}",
        'a="; {n}=x; b="; {n}={v}',
        "$Version=1; {n}=x; {n}={v}",
    ],
    ids=["twice", "first-bad", "last-bad", "unicode-space", "sandwich", "version"],
)
def test_s45_two_candidates_or_a_lookalike_count_as_none(browser: Browser, url: Url, shape: str):
    client = browser("alice")
    header = shape.format(n=SESSION, v=handle(client)).encode("utf-8").decode("latin-1")
    response = client.request("GET", url("verify") + "/json", cookie_header=header)
    assert response.status_code in {400, 401}


def test_s46_cookies_are_bound_to_their_host_by_prefix_and_attributes(browser: Browser, url: Url):
    """The client itself asserts Secure, Path=/ and no Domain on every `__Host-` cookie; here: none without the prefix."""
    client = browser("alice")
    for host in ("verify.localhost", "authenticate.localhost"):
        assert client.cookies[host]
        assert all(name.startswith("__Host-doorward") for name in client.cookies[host])


def test_s90_a_handle_is_worth_nothing_on_another_host(browser: Browser, url: Url):
    client = browser("alice")
    stolen = handle(client)
    response = client.request("GET", url("admin") + "/", headers=NAVIGATION, cookie_header=f"{SESSION}={stolen}")
    assert response.status_code == 302
    sso = client.cookie("authenticate.localhost", "__Host-doorward-sso")
    crossed = client.request("GET", url("verify") + "/json", cookie_header=f"{SESSION}={sso}")
    assert crossed.status_code == 401


def code_for(client: BrowserlessClient, start: str) -> str:
    """Sign in up to the redirect that carries the one-time code, and return that address."""
    page = client.navigate(start)
    login = page.extensions["final_url"]
    answer = client.submit(login, page, dict(zip(("email", "password"), PASSWORDS["alice"], strict=True)))
    back = client.get(answer.headers["location"], headers=NAVIGATION)
    return str(back.headers["location"])


def test_a_code_is_good_once_and_only_in_the_browser_that_began(browser: Browser, url: Url):
    client, thief = browser(), browser()
    callback = code_for(client, url("verify") + "/json")
    flows = dict(client.cookies["verify.localhost"])
    stolen = thief.get(callback, headers=NAVIGATION)
    assert thief.cookie("verify.localhost", SESSION) is None
    assert stolen.status_code in {303, 400}
    first = client.get(callback, headers=NAVIGATION)
    assert first.status_code == 303
    assert first.headers["location"] == "/json"
    assert client.cookie("verify.localhost", SESSION) is not None
    client.cookies["verify.localhost"] = flows
    client.get(callback, headers=NAVIGATION)
    assert client.cookie("verify.localhost", SESSION) is None, "a replayed code opened a session"


def test_a_thief_with_a_flow_of_his_own_burns_the_code_and_gets_nothing(browser: Browser, url: Url):
    client, thief = browser(), browser()
    callback = code_for(client, url("verify") + "/json")
    thief.get(url("verify") + "/", headers=NAVIGATION)
    name = next(iter(thief.cookies["verify.localhost"]))
    code = callback.split("code=")[1].split("&")[0]
    thief.get(f"{url('verify')}/.doorward/callback?code={code}&cookie={name}", headers=NAVIGATION)
    assert thief.cookie("verify.localhost", SESSION) is None
    client.get(callback, headers=NAVIGATION)
    assert client.cookie("verify.localhost", SESSION) is None, "an attempt must spend the code"


def test_a_code_for_one_host_is_refused_by_another(browser: Browser, url: Url):
    client = browser()
    callback = code_for(client, url("verify") + "/json")
    client.get(url("admin") + "/", headers=NAVIGATION)
    name = next(iter(client.cookies["admin.localhost"]))
    code = callback.split("code=")[1].split("&")[0]
    client.get(f"{url('admin')}/.doorward/callback?code={code}&cookie={name}", headers=NAVIGATION)
    assert client.cookie("admin.localhost", SESSION) is None


@pytest.fixture
def forge(demo: Running) -> Forge:
    return Forge(demo.data)


def claims(client: BrowserlessClient, url: Url) -> dict[str, str]:
    return dict(client.get(url("verify") + "/json").json()["assertion"]["claims"])


def value_is_worth(client: BrowserlessClient, url: Url, value: str) -> int:
    return client.request("GET", url("verify") + "/json", cookie_header=f"{SESSION}={value}").status_code


def test_s44_a_handle_that_has_expired_or_names_nobody_is_not_signed_in(browser: Browser, url: Url, forge: Forge):
    """Sealed with the right keys: only what it says is wrong."""
    client = browser("alice")
    sid = claims(client, url)["sid"]
    assert value_is_worth(client, url, forge.handle(sid, "verify.localhost")) == 200
    assert value_is_worth(client, url, forge.handle(sid, "verify.localhost", expires_in=-1)) == 401
    assert value_is_worth(client, url, forge.handle(sid, "admin.localhost")) == 401
    assert value_is_worth(client, url, forge.handle("0" * 32, "verify.localhost")) == 401
    for purpose in set(Purpose) - {Purpose.SESSION_HANDLE}:
        assert value_is_worth(client, url, forge.handle(sid, "verify.localhost", purpose=purpose)) == 401, purpose


def test_s46_a_cookie_that_a_sibling_host_tosses_in_does_not_win(browser: Browser, url: Url, forge: Forge):
    """Without its prefix, with another case, or beside the real one."""
    client = browser("alice")
    good = handle(client)
    mallory = forge.handle("0" * 32, "verify.localhost")
    for header in (
        f"doorward={good}",
        f"__host-doorward={good}",
        f"__Secure-doorward={good}",
        f"=__Host-doorward={good}",
    ):
        assert client.request("GET", url("verify") + "/json", cookie_header=header).status_code == 401, header
    for header in (f"{SESSION}={mallory}; {SESSION}={good}", f"{SESSION}={good}; {SESSION}={mallory}"):
        assert client.request("GET", url("verify") + "/json", cookie_header=header).status_code == 401


@pytest.mark.parametrize(
    ("flow_age", "code_life", "code_host", "same_flow"),
    [
        pytest.param(0, 30, "verify.localhost", True, id="good"),
        pytest.param(0, -1, "verify.localhost", True, id="late-code"),
        pytest.param(601, 30, "verify.localhost", True, id="late-flow"),
        pytest.param(0, 30, "admin.localhost", True, id="code-for-another-host"),
        pytest.param(0, 30, "verify.localhost", False, id="code-of-another-browser"),
    ],
)
def test_s47_a_callback_counts_in_time_and_in_the_browser_that_began(
    browser: Browser, url: Url, forge: Forge, flow_age: int, code_life: int, code_host: str, same_flow: bool
):
    sid = claims(browser("alice"), url)["sid"]
    client = browser()
    flow, sealed = forge.flow("verify.localhost", "/json", age=flow_age)
    other, _ = forge.flow("verify.localhost", "/json", seed=2)
    code = forge.code(sid, code_host, flow if same_flow else other, expires_in=code_life)
    client.cookies["verify.localhost"] = {flow.name: sealed}
    callback = f"{url('verify')}/.doorward/callback?code={code}&cookie={flow.name}"
    client.get(callback, headers=NAVIGATION)
    good = flow_age == 0 and code_life > 0 and code_host == "verify.localhost" and same_flow
    assert (client.cookie("verify.localhost", SESSION) is not None) is good
    assert client.get(url("verify") + "/json").status_code == (200 if good else 401)
    # Whatever came of it, the attempt has spent the code.
    client.cookies["verify.localhost"] = {flow.name: sealed}
    client.get(callback, headers=NAVIGATION)
    assert client.cookie("verify.localhost", SESSION) is None


def test_s47_a_code_of_a_session_that_has_ended_opens_nothing(browser: Browser, url: Url, forge: Forge, demo: Running):
    alice = browser("alice")
    sid = claims(alice, url)["sid"]
    assert demo.command("session", "revoke", sid).returncode == 0
    client = browser()
    flow, sealed = forge.flow("verify.localhost", "/json")
    client.cookies["verify.localhost"] = {flow.name: sealed}
    code = forge.code(sid, "verify.localhost", flow)
    client.get(f"{url('verify')}/.doorward/callback?code={code}&cookie={flow.name}", headers=NAVIGATION)
    assert client.cookie("verify.localhost", SESSION) is None


def test_s41_the_session_of_before_is_dead_after_another_sign_in(browser: Browser, url: Url):
    """Two tabs wait at the identity provider; bob finishes in one, then alice in the other."""
    client = browser()
    tabs = [client.navigate(url("verify") + "/json") for _ in range(2)]

    def finish(page: httpx.Response, person: str) -> str:
        client.cookies.pop("localhost", None)
        fields = dict(zip(("email", "password"), PASSWORDS[person], strict=True))
        landed = client.navigate(client.submit(page.extensions["final_url"], page, fields).headers["location"])
        assert landed.json()["assertion"]["claims"]["email"] == PASSWORDS[person][0]
        return str(landed.json()["assertion"]["claims"]["sid"])

    first = finish(tabs[0], "bob")
    bobs = handle(client)
    bobs_sso = client.cookie("authenticate.localhost", "__Host-doorward-sso")
    assert value_is_worth(client, url, bobs) == 200
    second = finish(tabs[1], "alice")
    assert first != second
    assert value_is_worth(client, url, handle(client)) == 200
    wait_for(lambda: value_is_worth(client, url, bobs) == 401, 5, what="the end of bob's session")
    home = client.request(
        "GET", url("authenticate") + "/", headers=NAVIGATION, cookie_header=f"__Host-doorward-sso={bobs_sso}"
    )
    assert "You are signed in" not in home.text


def test_s41_an_id_from_before_signing_in_is_never_promoted(browser: Browser, url: Url, forge: Forge):
    planted = "5" * 32
    client = browser()
    client.cookies["authenticate.localhost"] = {"__Host-doorward-sso": forge.handle(planted, "authenticate.localhost")}
    client.cookies["verify.localhost"] = {SESSION: forge.handle(planted, "verify.localhost")}
    assert client.sign_in(url("verify") + "/json", *PASSWORDS["alice"]).status_code == 200
    assert claims(client, url)["sid"] != planted
    assert value_is_worth(client, url, forge.handle(planted, "verify.localhost")) == 401


def test_s73_no_token_passes_for_another(browser: Browser, url: Url, forge: Forge):
    """Every kind of token, presented wherever another kind belongs."""
    client, fresh = browser("alice"), browser()
    seen = client.get(url("verify") + "/json").json()
    sid = seen["assertion"]["claims"]["sid"]
    location = fresh.get(url("verify") + "/", headers=NAVIGATION).headers["location"]
    login = fresh.navigate(location).extensions["final_url"]
    form = client.get(url("authenticate") + "/.doorward/sign_out", headers=NAVIGATION)
    flow, flow_cookie = forge.flow("verify.localhost")
    pending_name, pending = next(
        pair for pair in fresh.cookies["authenticate.localhost"].items() if "pending" in pair[0]
    )
    state = urllib.parse.parse_qs(urllib.parse.urlsplit(login).query)["state"][0]
    tokens = {
        "handle": handle(client),
        "sign-in handle": client.cookie("authenticate.localhost", "__Host-doorward-sso") or "",
        "flow cookie": flow_cookie,
        "pending cookie": pending,
        "code": forge.code(sid, "verify.localhost", flow),
        "signature": urllib.parse.parse_qs(urllib.parse.urlsplit(location).query)["signature"][0],
        "state": state,
        "assertion": dict(seen["headers"])["x-doorward-jwt-assertion"],
        "form token": re.findall(r'name="token" value="([^"]+)"', form.text)[0],
    }
    for kind, token in tokens.items():
        if kind != "handle":
            assert value_is_worth(client, url, token) in {400, 401}, kind
        for header in ("authorization", "doorward-authorization"):
            bearer = client.request(
                "GET", url("verify") + "/json", headers={header: f"Bearer {token}"}, cookie_header=""
            )
            assert bearer.status_code == 401, (kind, header)
        if kind != "sign-in handle":
            home = client.request(
                "GET", url("authenticate") + "/", headers=NAVIGATION, cookie_header=f"__Host-doorward-sso={token}"
            )
            assert "You are signed in" not in home.text, kind
        for code, cookie in ((token, flow_cookie), (tokens["code"], token)):
            if (code, cookie) == (tokens["code"], flow_cookie):
                continue
            fresh.cookies["verify.localhost"] = {flow.name: cookie}
            fresh.get(f"{url('verify')}/.doorward/callback?code={code}&cookie={flow.name}", headers=NAVIGATION)
            assert fresh.cookie("verify.localhost", SESSION) is None, kind
        if kind not in {"pending cookie", "state"}:
            fresh.cookies["authenticate.localhost"] = {pending_name: token}
            query = urllib.parse.urlencode({"state": state, "code": "x"})
            answer = fresh.get(f"{url('authenticate')}/.doorward/callback/demo?{query}", headers=NAVIGATION)
            assert answer.status_code == 400, kind
        if kind != "form token":
            answer = client.request(
                "POST", url("authenticate") + "/.doorward/sign_out", data={"token": token},
                headers={"origin": url("authenticate"), "sec-fetch-site": "same-origin"},
            )  # fmt: skip
            assert answer.status_code == 400, kind
    assert value_is_worth(client, url, tokens["handle"]) == 200, "nothing of this has signed anybody out"
