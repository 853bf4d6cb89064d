"""Malformed cookies, codes and headers: never an error page, never a pass."""

import base64
import secrets
import socket
import ssl
from collections.abc import Callable, Iterator

import pytest
from tests.e2e.conftest import PASSWORDS
from tests.support.deployment import Running, short_folder
from tests.support.echo import EchoServer, echo_server
from tests.support.http_client import NAVIGATION, BrowserlessClient
from tests.support.site import Site, everyone, signed_in, site

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


def test_s73_no_token_passes_for_another(browser: Browser, url: Url):
    """Handle, flow cookie, code and assertion: each presented where the others belong."""
    client = browser("alice")
    good = handle(client)
    assertion = dict(client.get(url("verify") + "/json").json()["headers"])["x-doorward-jwt-assertion"]
    fresh = browser()
    fresh.get(url("verify") + "/", headers=NAVIGATION)
    flow_name, flow = next(iter(fresh.cookies["verify.localhost"].items()))
    for token in (flow, assertion):
        response = client.request("GET", url("verify") + "/json", cookie_header=f"{SESSION}={token}")
        assert response.status_code in {400, 401}
    for token in (good, assertion, flow):
        callback = f"{url('verify')}/.doorward/callback?code={token}&cookie={flow_name}"
        fresh.cookies["verify.localhost"][flow_name] = flow
        answer = fresh.get(callback, headers=NAVIGATION)
        assert fresh.cookie("verify.localhost", SESSION) is None, answer.text
    bearer = client.request(
        "GET", url("verify") + "/json", headers={"authorization": f"Bearer {good}"}, cookie_header=""
    )
    assert bearer.status_code == 401


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


def test_s37_a_changed_sign_in_request_is_refused(browser: Browser, url: Url):
    client = browser()
    location = client.get(url("verify") + "/", headers=NAVIGATION).headers["location"]
    for old, new in (
        ("authority=verify.localhost", "authority=evil.example"),
        ("purpose=sign-in", "purpose=sign-out"),
        ("expires=1", "expires=2"),
        ("signature=", "signature=A"),
        ("&cookie=", "&cookie=x&cookie="),
    ):
        changed = location.replace(old, new, 1)
        assert changed != location
        response = client.get(changed, headers=NAVIGATION)
        assert response.status_code == 400, old
        assert "request" in response.text.lower()


@pytest.mark.parametrize("target", ["//evil.example/", "/\\evil.example", "/%09/evil.example", "/..//evil.example"])
def test_s36_the_return_path_stays_on_the_host(browser: Browser, url: Url, target: str):
    client = browser()
    response = client.get(url("verify") + target, headers=NAVIGATION)
    if response.status_code == 400:
        return
    landed = client.navigate(url("verify") + target)
    if 'name="password"' in landed.text:
        landed = client.submit(
            landed.extensions["final_url"], landed, dict(zip(("email", "password"), PASSWORDS["alice"], strict=True))
        )
        back = client.get(landed.headers["location"], headers=NAVIGATION)
        final = client.get(back.headers["location"], headers=NAVIGATION)
        assert final.headers["location"].startswith("/")
        assert not final.headers["location"].startswith(("//", "/\\"))


@pytest.fixture(scope="module")
def echo() -> Iterator[EchoServer]:
    with echo_server("echo") as server:
        yield server


@pytest.fixture(scope="module")
def open_site(echo: EchoServer) -> Iterator[Site]:
    to = f"http://127.0.0.1:{echo.port}"
    routes = [
        {"name": "open", "from": "open", "to": to, "policy": everyone(), "claim_headers": {"x-who": "email"}},
        {"name": "closed", "from": "closed", "to": to, "policy": signed_in(), "claim_headers": {"x-who": "email"}},
        {"name": "other", "from": "other", "to": to, "policy": signed_in()},
    ]
    with short_folder() as folder, site(folder, routes) as made:
        yield made


FORGED = {
    "x-doorward-jwt-assertion": "forged",
    "X-Doorward-JWT-Assertion": "forged",
    "x-who": "forged",
    "remote-user": "forged",
    "x-auth-request-email": "forged",
    "x-forwarded-user": "forged",
    "x-forwarded-email": "forged",
    "x-forwarded-groups": "forged",
    "x-forwarded-uri": "/forged",
    "x-original-url": "/forged",
    "x-rewrite-url": "/forged",
    "x-http-method-override": "FORGED",
    "forwarded": "for=forged",
    "x-forwarded-host": "forged",
    "x-forwarded-for": "6.6.6.6",
    "impersonate-user": "forged",
    "x-doorward-client-address": "6.6.6.6",
    "x-envoy-original-path": "/forged",
}


@pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])
def test_s01_s02_s03_s05_forged_headers_reach_nobody(open_site: Site, echo: EchoServer, http2: bool):
    with open_site.client(http2=http2) as client:
        answer = client.request("GET", open_site.url("open") + "/p", headers=FORGED)
        assert answer.status_code == 200
        text = str(answer.json()["headers"])
        assert "forged" not in text.lower()
        assert "6.6.6.6" not in text
        refused = client.request("GET", open_site.url("closed") + "/p", headers=FORGED)
        assert refused.status_code == 401
    record = next(r for r in reversed(_settled(open_site)) if r["route"] == "closed")
    assert record["client_address"] == "127.0.0.1"


def _settled(made: Site) -> list[dict[str, object]]:
    from tests.support.deployment import wait_for

    return wait_for(lambda: [r for r in made.run.decisions() if r["route"] == "closed"], what="a decision")


def raw(made: Site, name: str, text: bytes) -> bytes:
    """Send bytes over TLS as they are, and return what comes back until the connection closes."""
    context = ssl.create_default_context(cafile=str(made.data / "certificates" / "authority.crt"))
    with socket.create_connection(("127.0.0.1", made.port), 5) as plain:
        with context.wrap_socket(plain, server_hostname=f"{name}.localhost") as connection:
            connection.sendall(text)
            connection.settimeout(5)
            received = b""
            while chunk := connection.recv(65536):
                received += chunk
            return received


def test_s04_connection_does_not_drop_our_headers(open_site: Site, echo: EchoServer):
    with open_site.client() as client:
        client.sign_in(open_site.url("closed") + "/", *PASSWORDS["alice"])
        value = client.cookie("closed.localhost", SESSION)
    request = (
        f"GET /s04 HTTP/1.1\r\nHost: closed.localhost:{open_site.port}\r\nCookie: {SESSION}={value}\r\n"
        "Connection: close, x-doorward-jwt-assertion, x-who\r\n\r\n"
    )
    assert b" 200 " in raw(open_site, "closed", request.encode())
    seen = next(item for item in echo.seen if item["target"] == "/s04")
    headers = dict(seen["headers"])  # type: ignore[call-overload]
    assert headers["x-who"] == "alice@example.com"
    assert headers["x-doorward-jwt-assertion"].count(".") == 2


@pytest.mark.parametrize(
    "target",
    [
        "/a%2f..%2fadmin", "/a%5cb", "/a;x=1/", "/%252e%252e/admin", "/x/%00", "/pub#/../admin",
        "/a%0ab", "/%c0%af", "/x;/y",
    ],
)  # fmt: skip
def test_s13_s14_s15_s16_ambiguous_paths_are_refused_or_read_alike(open_site: Site, echo: EchoServer, target: str):
    echo.seen.clear()
    request = f"GET {target} HTTP/1.1\r\nHost: open.localhost:{open_site.port}\r\nConnection: close\r\n\r\n"
    answer = raw(open_site, "open", request.encode("latin-1"))
    status = int(answer.split(b" ", 2)[1]) if answer else 400
    assert status == 400, (status, echo.seen)
    assert echo.seen == []


def test_s13_dots_and_double_slashes_are_normalised_before_anybody_looks(open_site: Site, echo: EchoServer):
    for target, wanted in (
        ("//x", "/x"),
        ("/a/../b", "/b"),
        ("/a//b", "/a/b"),
        ("/./c", "/c"),
        ("/a\\b", "/a/b"),
        ("/public/..;/admin", "/admin"),
    ):
        echo.seen.clear()
        request = f"GET {target} HTTP/1.1\r\nHost: open.localhost:{open_site.port}\r\nConnection: close\r\n\r\n"
        assert b" 200 " in raw(open_site, "open", request.encode())
        assert echo.seen[0]["target"] == wanted


def test_an_upstream_cannot_set_our_cookies_and_does_not_see_them(open_site: Site, echo: EchoServer):
    with open_site.client() as client:
        client.sign_in(open_site.url("closed") + "/", *PASSWORDS["alice"])
        mine = client.cookie("closed.localhost", SESSION)
        client.cookies["closed.localhost"]["theirs"] = "1"
        answer = client.get(open_site.url("closed") + "/set-cookie")
        assert answer.headers.get_list("set-cookie") == ["theirs=kept; Path=/"]
        assert client.cookie("closed.localhost", SESSION) == mine
        assert dict(answer.json()["headers"])["cookie"] == "theirs=1"


@pytest.mark.parametrize("site_header", [{"sec-fetch-site": "same-site"}, {"sec-fetch-site": "cross-site"}, {}])
def test_s85_a_sibling_hosts_script_cannot_post_or_open_a_socket(
    open_site: Site, echo: EchoServer, site_header: dict[str, str]
):
    with open_site.client() as client:
        client.sign_in(open_site.url("closed") + "/", *PASSWORDS["alice"])
        echo.seen.clear()
        foreign = {**site_header, "origin": open_site.url("other")}
        post = client.request("POST", open_site.url("closed") + "/post", headers=foreign, data={"a": "1"})
        assert post.status_code == 403
        upgrade = client.request(
            "GET",
            open_site.url("closed") + "/ws",
            headers={**foreign, "upgrade": "websocket", "connection": "upgrade"},
        )
        assert upgrade.status_code == 403
        sign_out = client.request("POST", open_site.url("closed") + "/.doorward/sign_out", headers=foreign)
        assert sign_out.status_code == 403
        assert echo.seen == []
        own = {"sec-fetch-site": "same-origin", "origin": open_site.url("closed")}
        assert client.request("POST", open_site.url("closed") + "/post", headers=own).status_code == 200


def test_s27_options_is_no_way_round(open_site: Site, echo: EchoServer):
    with open_site.client() as client:
        echo.seen.clear()
        preflight = {"origin": open_site.url("other"), "access-control-request-method": "POST"}
        assert client.request("OPTIONS", open_site.url("closed") + "/x", headers=preflight).status_code == 401
        assert client.request("OPTIONS", open_site.url("closed") + "/x").status_code == 401
        assert echo.seen == []


@pytest.mark.parametrize("path", ["/debug", "/metrics", "/config_dump", "/-/", "/healthz", "/ready", "/stats"])
def test_s24_s25_s78_no_side_door_on_the_public_port(open_site: Site, path: str):
    with open_site.client() as client:
        answer = client.get(open_site.url("closed") + path, headers={"user-agent": "GoogleHC/1.0"})
        assert answer.status_code == 401


def test_s26_there_is_no_setup_page_to_reopen(open_site: Site):
    with open_site.client() as client:
        for path in ("/.doorward/setup", "/.doorward/admin", "/setup", "/.doorward/"):
            assert client.get(open_site.url("authenticate") + path).status_code == 404


def test_s40_keys_and_issuer_come_from_the_configuration_not_from_host(demo: Running, browser: Browser, url: Url):
    claims = browser("alice").get(url("verify") + "/json").json()["assertion"]["claims"]
    assert claims["iss"] == url("authenticate")
    keys = browser().get(url("verify") + "/.well-known/doorward/jwks.json").json()["keys"]
    assert {key["alg"] for key in keys} == {"ES256"}
    assert all("d" not in key for key in keys)


def test_s91_our_pages_allow_no_script(browser: Browser, url: Url):
    client = browser("alice")
    for page in ("verify/.doorward/whoami", "verify/.doorward/sign_out", "authenticate/", "authenticate/nothing"):
        name, path = page.split("/", 1)
        answer = client.get(f"{url(name)}/{path}", headers=NAVIGATION)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe-inline" not in policy
