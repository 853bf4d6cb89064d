"""Nothing that a client writes into an address sends a browser away from the hosts of the configuration."""

import html
import re
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.deployment import Running
from tests.support.forge import Forge
from tests.support.http_client import NAVIGATION, BrowserlessClient
from tests.support.raw_http import raw, request_bytes, status_of

from doorward.keys.flow import Flow, FlowSealer
from doorward.keys.sealed import Sealer
from doorward.keys.store import KeyStore, Purpose

pytestmark = pytest.mark.e2e
Browser = Callable[..., BrowserlessClient]
Url = Callable[[str], str]
SESSION = "__Host-doorward"
TARGETS = (
    (Path(__file__).parents[1] / "unit/doorward/keys/data/foreign_return_targets.txt").read_text("utf-8").splitlines()
)


@pytest.fixture
def forge(demo: Running) -> Forge:
    return Forge(demo.data)


def session_id(client: BrowserlessClient, url: Url) -> str:
    return str(client.get(url("verify") + "/json").json()["assertion"]["claims"]["sid"])


def stays(base: str, location: str) -> bool:
    """Whether a browser that reads backslashes as slashes and drops control bytes stays on the host of ``base``."""
    plain = re.sub(r"[\x00-\x20]", "", location).replace("\\", "/")
    return urllib.parse.urlsplit(urllib.parse.urljoin(base, plain)).netloc == urllib.parse.urlsplit(base).netloc


def test_s36_the_callback_leads_nowhere_else_whatever_was_remembered(
    browser: Browser, url: Url, demo: Running, forge: Forge
):
    """Sealed with the right key, as if a bug had let them through when they were remembered."""
    sid = session_id(browser("alice"), url)
    sealer = FlowSealer(Sealer(KeyStore(demo.data / "keys").keyring(Purpose.FLOW)))
    base = url("verify") + "/.doorward/callback"
    client = browser()
    tried = 0
    for target in TARGETS:
        if not target.isascii():
            continue
        blank, _ = forge.flow("verify.localhost")
        flow = Flow(name=blank.name, secret=blank.secret, return_path=target, expires_at=blank.expires_at)
        client.cookies["verify.localhost"] = {flow.name: sealer.seal(flow, "verify.localhost")}
        code = forge.code(sid, "verify.localhost", flow)
        answer = client.get(f"{base}?code={code}&cookie={flow.name}", headers=NAVIGATION)
        assert answer.status_code == 303, target
        assert client.cookie("verify.localhost", SESSION) is not None, "the code itself was good"
        assert stays(base, answer.headers["location"]), target
        assert answer.headers["location"].startswith("/")
        tried += 1
    assert tried > 150


def test_s36_a_page_that_is_asked_for_leads_to_the_sign_in_host_and_nowhere_else(url: Url, demo: Running):
    wanted = url("authenticate") + "/.doorward/sign_in?"
    host = urllib.parse.urlsplit(url("verify"))
    for target in TARGETS[::4]:
        if re.search(r"[\s]", target) or not target.isascii():
            continue
        path = target if target.startswith("/") else f"/{target}"
        sent = request_bytes(path, host.netloc, "Accept: text/html", "Sec-Fetch-Dest: document")
        answer = raw(demo.ca_file, host.port or 443, "verify.localhost", sent).decode("latin-1")
        locations = re.findall(r"(?im)^location: (.*?)\r$", answer)
        assert all(location.startswith(wanted) for location in locations), target
        assert bool(locations) is (status_of(answer.encode("latin-1")) == 302)


@pytest.mark.parametrize("name", ["rd", "redirect_uri", "next", "url", "state", "returnTo", "post_logout_redirect_uri"])
def test_s36_s38_no_parameter_of_our_own_pages_leads_away(browser: Browser, url: Url, name: str):
    client = browser("alice")
    for target in (
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "https://verify.localhost.evil.example/",
    ):
        query = urllib.parse.urlencode({name: target})
        for place in ("verify", "authenticate"):
            for path in ("/.doorward/sign_in", "/.doorward/sign_out", "/.doorward/callback", "/.doorward/whoami"):
                answer = client.get(f"{url(place)}{path}?{query}", headers=NAVIGATION)
                assert "evil" not in answer.headers.get("location", "")
                assert "evil" not in answer.text


@pytest.mark.parametrize("where", ["verify", "authenticate"])
def test_s38_signing_out_ends_on_our_own_page(browser: Browser, url: Url, where: str):
    client = browser("alice")
    page_url = f"{url(where)}/.doorward/sign_out?rd=https://evil.example/&post_logout_redirect_uri=//evil.example"
    page = client.get(page_url, headers=NAVIGATION)
    answer = client.submit(page_url, page, {"rd": "https://evil.example/", "next": "//evil.example"})
    assert answer.status_code == 200
    assert "location" not in answer.headers
    for link in re.findall(r'(?:href|action)="([^"]*)"', answer.text):
        assert stays(url(where), html.unescape(link))


LOOKALIKES = [
    "verify.localhost.evil.example", "evil-verify.localhost", "evilverify.localhost", "verifyxlocalhost", "localhost",
    "verify.localhost.", "verify.localhost@evil.example", "evil.example#verify.localhost",
    "verify.localhost%00.evil.example", "verify.localhost\\.evil.example", "VERIFY.localhost.evil.example",
]  # fmt: skip


@pytest.mark.parametrize("host", LOOKALIKES)
def test_s39_a_host_that_only_resembles_ours_is_unknown(url: Url, demo: Running, host: str):
    port = urllib.parse.urlsplit(url("verify")).port or 443
    sent = request_bytes("/", host, "Accept: text/html", "Sec-Fetch-Dest: document")
    answer = raw(demo.ca_file, port, "verify.localhost", sent)
    assert status_of(answer) in {400, 404}
    assert b"\r\nlocation:" not in answer.lower()


@pytest.mark.parametrize("authority", [*LOOKALIKES, "evil.example", "verify.localhost", "verify.localhost:1", ""])
def test_s39_a_sign_in_for_a_host_that_only_resembles_ours_is_refused_even_if_signed(
    browser: Browser, url: Url, forge: Forge, authority: str
):
    """With a live session, which would otherwise be sent straight back with a code."""
    flow, _ = forge.flow("verify.localhost")
    answer = browser("alice").get(
        f"{url('authenticate')}/.doorward/sign_in?{forge.sign_in_query(authority, flow)}", headers=NAVIGATION
    )
    assert answer.status_code == 400
    assert "location" not in answer.headers


def test_s37_no_byte_of_a_sign_in_request_can_be_changed(browser: Browser, url: Url):
    client = browser("alice")
    fresh = browser()
    query = fresh.get(url("verify") + "/", headers=NAVIGATION).headers["location"].partition("?")[2]
    place = url("authenticate") + "/.doorward/sign_in?"
    assert client.get(place + query, headers=NAVIGATION).status_code == 302
    honest = urllib.parse.parse_qsl(query)
    for index, byte in enumerate(query):
        changed = query[:index] + ("A" if byte != "A" else "B") + query[index + 1 :]
        if urllib.parse.parse_qsl(changed) == honest:
            continue
        answer = client.get(place + changed, headers=NAVIGATION)
        assert answer.status_code == 400, (index, byte)
        assert "location" not in answer.headers
    for cut in range(1, len(honest)):
        assert client.get(place + urllib.parse.urlencode(honest[:cut]), headers=NAVIGATION).status_code == 400
    assert client.get(f"{place}{query}&cookie=x", headers=NAVIGATION).status_code == 400


def test_s37_a_late_request_and_one_of_another_purpose_are_refused(browser: Browser, url: Url, forge: Forge):
    client = browser("alice")
    authority = urllib.parse.urlsplit(url("verify")).netloc
    flow, _ = forge.flow("verify.localhost")
    place = url("authenticate") + "/.doorward/sign_in?"
    good = client.get(place + forge.sign_in_query(authority, flow), headers=NAVIGATION)
    assert good.headers["location"].startswith(url("verify") + "/.doorward/callback?")
    late = client.get(place + forge.sign_in_query(authority, flow, expires_in=-1), headers=NAVIGATION)
    other = client.get(place + forge.sign_in_query(authority, flow, purpose="sign-out"), headers=NAVIGATION)
    assert (late.status_code, other.status_code) == (400, 400)


def test_s37_no_byte_of_a_code_a_flow_or_a_state_can_be_changed(browser: Browser, url: Url, forge: Forge):
    sid = session_id(browser("alice"), url)
    client = browser()
    flow, sealed = forge.flow("verify.localhost")
    code = forge.code(sid, "verify.localhost", flow)

    def attempt(code: str, cookie: str) -> None:
        client.cookies["verify.localhost"] = {flow.name: cookie}
        place = f"{url('verify')}/.doorward/callback?code={code}&cookie={flow.name}"
        client.get(place, headers=NAVIGATION)
        assert client.cookie("verify.localhost", SESSION) is None

    for text, spoil in ((code, lambda bad: attempt(bad, sealed)), (sealed, lambda bad: attempt(code, bad))):
        for index, byte in enumerate(text):
            spoil(text[:index] + ("A" if byte != "A" else "B") + text[index + 1 :])
    page = browser()
    login = page.navigate(url("verify") + "/").extensions["final_url"]
    state = urllib.parse.parse_qs(urllib.parse.urlsplit(login).query)["state"][0]
    for index, byte in enumerate(state):
        changed = state[:index] + ("1" if byte != "1" else "2") + state[index + 1 :]
        query = urllib.parse.urlencode({"state": changed, "code": "c"})
        answer = page.get(f"{url('authenticate')}/.doorward/callback/demo?{query}", headers=NAVIGATION)
        assert answer.status_code == 400, index


def test_s40_what_we_publish_comes_from_the_configuration_and_not_from_host(browser: Browser, url: Url, demo: Running):
    claims = browser("alice").get(url("verify") + "/json").json()["assertion"]["claims"]
    assert (claims["iss"], claims["aud"]) == (url("authenticate"), "verify.localhost")
    client = browser()
    honest = client.get(url("verify") + "/.well-known/doorward/jwks.json")
    assert {key["alg"] for key in honest.json()["keys"]} == {"ES256"}
    assert all("d" not in key for key in honest.json()["keys"])
    port = urllib.parse.urlsplit(url("verify")).port or 443
    forged = ("X-Forwarded-Host: evil.example", "Forwarded: host=evil.example", "X-Forwarded-Port: 1")
    for host in ("verify.localhost", "VERIFY.localhost:1", "verify.localhost:65000"):
        keys = raw(
            demo.ca_file, port, "verify.localhost", request_bytes("/.well-known/doorward/jwks.json", host, *forged)
        )
        assert keys.partition(b"\r\n\r\n")[2] == honest.content
        page = request_bytes("/", host, "Accept: text/html", "Sec-Fetch-Dest: document", *forged)
        location = re.search(r"(?im)^location: (.*?)\r$", raw(demo.ca_file, port, "verify.localhost", page).decode())
        assert location is not None
        assert location[1].startswith(url("authenticate") + "/.doorward/sign_in?")
        wanted = urllib.parse.parse_qs(urllib.parse.urlsplit(location[1]).query)
        assert wanted["authority"] == [f"verify.localhost:{port}"]
        assert int(wanted["expires"][0]) <= time.time() + 601
