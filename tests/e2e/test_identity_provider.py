"""An identity provider that errs, lies or is away: nobody is signed in, and the page says so with a request id."""

import signal
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.e2e.conftest import PASSWORDS
from tests.support.deployment import short_folder
from tests.support.echo import echo_server
from tests.support.http_client import NAVIGATION, BrowserlessClient
from tests.support.site import SECRET, Site, signed_in, site

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


@pytest.mark.parametrize(
    "faults",
    [
        *({"algorithm": name} for name in ("none", "None", "NONE", "")),
        *({"algorithm": "HS256", "public_key_form": form} for form in ("pem", "der", "jwk")),
        *({"foreign_key": header} for header in ("kid", "jwk", "jku", "x5u", "x5c")),
    ],
    ids=lambda faults: "-".join(str(value) or "empty" for value in faults.values()),
)
def test_s51_a_token_chooses_neither_its_algorithm_nor_its_key(
    client: BrowserlessClient, made: Site, faults: dict[str, object]
):
    made.set_faults(**faults)
    assert_nobody_is_signed_in(client, made, attempt(client, made), 400)
    assert made.keys_asked().get("/_foreign-keys", 0) == 0, "the token's own key was fetched"


@pytest.mark.parametrize("header", [{"crit": ["x"], "x": 1}, {"crit": []}, {"crit": ["b64"], "b64": False}])
def test_s52_extensions_that_are_not_understood_refuse(
    client: BrowserlessClient, made: Site, header: dict[str, object]
):
    made.set_faults(header=header)
    assert_nobody_is_signed_in(client, made, attempt(client, made), 400)


@pytest.mark.parametrize("value", ["wrong", "", 7, []], ids=str)
def test_s53_an_access_token_hash_that_does_not_fit_refuses(client: BrowserlessClient, made: Site, value: object):
    made.set_faults(claims={"at_hash": value})
    assert_nobody_is_signed_in(client, made, attempt(client, made), 400)


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "http://localhost"}, {"iss": ""}, {"iss": None}, {"aud": "other"}, {"aud": None}, {"aud": []},
        {"aud": "site2"}, {"aud": ["sit"]}, {"aud": {"site": 1}}, {"aud": ["site", "other"]}, {"azp": "other"},
        {"azp": ["site"]},
    ],
    ids=str,
)  # fmt: skip
def test_s54_issuer_and_audience_are_compared_whole(client: BrowserlessClient, made: Site, claims: dict[str, object]):
    made.set_faults(claims=claims)
    assert_nobody_is_signed_in(client, made, attempt(client, made), 400)


def test_s55_without_a_client_id_nothing_starts(made: Site, tmp_path: Path):
    """The audience of every ID token is the client id: without one there would be nothing to compare with."""
    text = made.config.read_text()
    for line in ("  client_id: ''\n", ""):
        (tmp_path / "doorward.yaml").write_text(text.replace("  client_id: site\n", line, 1))
        (tmp_path / "secret").write_text("x")
        for arguments in (["check", "doorward.yaml"], ["run", "-c", "doorward.yaml", "--data", "data"]):
            result = subprocess.run(
                [sys.executable, "-m", "doorward.cli.app", *arguments],
                cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False,
            )  # fmt: skip
            assert result.returncode == 1, result.stdout
            assert "client_id" in result.stdout + result.stderr


def sent_to_the_provider(client: BrowserlessClient, made: Site) -> tuple[httpx.Response, dict[str, str]]:
    """The login page, and the authorization request that led there."""
    page = client.navigate(made.url("app") + "/")
    query = urllib.parse.urlsplit(page.extensions["final_url"]).query
    return page, dict(urllib.parse.parse_qsl(query))


def log_in(client: BrowserlessClient, page: httpx.Response) -> str:
    """The address that the identity provider sends the browser back to."""
    fields = dict(zip(("email", "password"), PASSWORDS["alice"], strict=True))
    return str(client.submit(page.extensions["final_url"], page, fields).headers["location"])


def test_s56_every_sign_in_uses_pkce_with_s256(client: BrowserlessClient, made: Site):
    page, asked = sent_to_the_provider(client, made)
    assert asked["code_challenge_method"] == "S256"
    assert len(asked["code_challenge"]) == 43
    back = log_in(client, page)
    code = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(back).query))["code"]
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": asked["redirect_uri"]}
    stolen = httpx.post(
        f"http://127.0.0.1:{made.provider_port}/token", data=form, auth=("site", SECRET), trust_env=False
    )
    assert stolen.json() == {"error": "invalid_grant"}, "a code without its verifier must be worth nothing"


@pytest.mark.parametrize("claims", [{"nonce": "another"}, {"nonce": None}, {"nonce": ""}, {"nonce": 1}], ids=str)
def test_s57_another_sign_ins_nonce_refuses(client: BrowserlessClient, made: Site, claims: dict[str, object]):
    made.set_faults(claims=claims)
    assert_nobody_is_signed_in(client, made, attempt(client, made), 400)


def test_s57_a_state_is_good_once(client: BrowserlessClient, made: Site):
    back = log_in(client, sent_to_the_provider(client, made)[0])
    assert client.get(back, headers=NAVIGATION).status_code == 302
    assert client.get(back, headers=NAVIGATION).status_code == 400


def test_s57_a_providers_code_is_good_once(client: BrowserlessClient, made: Site):
    """Under a fresh state of the same browser."""
    used = log_in(client, sent_to_the_provider(client, made)[0])
    assert client.get(used, headers=NAVIGATION).status_code == 302
    code = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(used).query))["code"]
    with made.client() as other:
        _, asked = sent_to_the_provider(other, made)
        query = {"state": asked["state"], "code": code, "iss": f"http://localhost:{made.provider_port}"}
        address = f"{made.url('authenticate')}/.doorward/callback/demo?{urllib.parse.urlencode(query)}"
        assert_nobody_is_signed_in(other, made, other.get(address, headers=NAVIGATION), 403)


def test_s57_no_switch_turns_a_check_off(made: Site, tmp_path: Path):
    text = made.config.read_text()
    (tmp_path / "secret").write_text("x")
    for switch in ("skip_nonce", "insecure_skip_verify", "skip_issuer", "allow_unverified_email"):
        changed = text.replace("  client_id: site\n", f"  client_id: site\n  {switch}: true\n", 1)
        (tmp_path / "doorward.yaml").write_text(changed)
        result = subprocess.run(
            [sys.executable, "-m", "doorward.cli.app", "check", "doorward.yaml"],
            cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert result.returncode == 1
        assert switch in result.stdout + result.stderr


@pytest.mark.parametrize("faults", [{"response_issuer": "http://evil.example"}, {"no_response_issuer": True}], ids=str)
def test_s58_an_answer_of_another_issuer_or_of_none_refuses(
    client: BrowserlessClient, made: Site, faults: dict[str, object]
):
    made.set_faults(**faults)
    assert_nobody_is_signed_in(client, made, attempt(client, made), 400)


def test_s59_tokens_with_unknown_keys_do_not_make_us_ask_for_keys_each_time(client: BrowserlessClient, made: Site):
    assert attempt(client, made).status_code == 200
    before = made.keys_asked()["/jwks"]
    for number in range(8):
        made.set_faults(header={"kid": f"unknown-{number}"})
        with made.client() as other:
            assert_nobody_is_signed_in(other, made, attempt(other, made), 400)
    assert made.keys_asked()["/jwks"] - before <= 1


NOW = time.time()


@pytest.mark.parametrize(
    "faults",
    [
        {"claims": {"exp": int(NOW) - 3600}}, {"claims": {"exp": "soon"}}, {"claims": {"exp": None}},
        {"claims": {"iat": int(NOW) - 36000}}, {"claims": {"iat": int(NOW) + 3600}}, {"claims": {"nbf": int(NOW) + 3600}},
        {"claims": {"sub": ""}}, {"claims": {"sub": None}}, {"claims": {"sub": ["alice"]}},
        {"userinfo_subject": "mallory"},
    ],
    # No clock in a name: two workers that collect on both sides of a second would not know the same tests.
    ids=[
        "expired", "no time", "no expiry", "issued long ago", "issued later", "valid later", "empty", "no subject",
        "a list", "another one in userinfo",
    ],
)  # fmt: skip
def test_times_and_subject_are_checked(client: BrowserlessClient, made: Site, faults: dict[str, object]):
    made.set_faults(**faults)
    assert_nobody_is_signed_in(client, made, attempt(client, made), 400)


@pytest.mark.parametrize("error", ["access_denied", "server_error", "<script>", "x" * 500, "\u0001", "mfa required"])
def test_an_error_from_the_identity_provider_gets_a_clear_page(client: BrowserlessClient, made: Site, error: str):
    made.set_faults(authorization_error=error)
    page = attempt(client, made)
    assert_nobody_is_signed_in(client, made, page, 403)
    assert "<script" not in page.text


@pytest.mark.parametrize(
    ("faults", "status"),
    [
        ({"token_status": 500}, 502),
        ({"token_status": 302}, 502),
        ({"token_status": 418}, 403),
        ({"token_body": "<html>please sign in</html>"}, 502),
        ({"token_body": "null"}, 502),
        ({"token_body": "[]"}, 502),
        ({"token_body": "{}"}, 400),
        ({"token_body": "{" * 5000}, 502),
        ({"token_body": '{"a": "' + "x" * 600_000 + '"}'}, 502),
        ({"token_body": '{"token_type": "mac", "access_token": "a", "id_token": "b"}'}, 400),
        ({"token_body": '{"token_type": "Bearer", "access_token": "a"}'}, 400),
        ({"token_body": '{"token_type": "Bearer", "access_token": 1, "id_token": {}}'}, 400),
        ({"token_body": '{"token_type": "Bearer", "access_token": "a", "id_token": "a.b.c"}'}, 400),
        ({"token_body": '{"token_type": "Bearer", "access_token": "a", "id_token": "\\u2000"}'}, 400),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_unknown_answer_of_the_identity_provider_gets_a_clear_page(
    client: BrowserlessClient, made: Site, faults: dict[str, object], status: int
):
    made.set_faults(**faults)
    assert_nobody_is_signed_in(client, made, attempt(client, made), status)


@pytest.mark.parametrize(
    "query",
    [
        "",
        "code=",
        "error=",
        "code=a&error=b",
        "code=a&code=b",
        "iss=x&iss=y&code=a",
        "code=" + "a" * 5000,
        "error=%ff%fe",
    ],
)
def test_an_unknown_answer_through_the_browser_gets_a_clear_page(client: BrowserlessClient, made: Site, query: str):
    _, asked = sent_to_the_provider(client, made)
    state = urllib.parse.urlencode({"state": asked["state"]})
    address = f"{made.url('authenticate')}/.doorward/callback/demo?{state}&{query}"
    page = client.get(address, headers=NAVIGATION)
    assert page.status_code in {400, 403}
    assert_nobody_is_signed_in(client, made, page, page.status_code)


def test_s58_an_answer_that_names_two_issuers_refuses(client: BrowserlessClient, made: Site):
    """RFC 6749, section 3.1: no parameter of an answer stands twice."""
    page = client.navigate(made.url("app") + "/")
    answer = client.submit(
        page.extensions["final_url"], page, dict(zip(("email", "password"), PASSWORDS["alice"], strict=True))
    )
    assert "iss=" in answer.headers["location"]
    page = client.get(answer.headers["location"] + "&iss=http%3A%2F%2Fevil.example", headers=NAVIGATION)
    assert_nobody_is_signed_in(client, made, page, 400)


def test_cookies_that_only_resemble_ours_break_nothing(client: BrowserlessClient, made: Site):
    hostile = "; ".join(f"__Host-doorward-pending-\xff{n}=x" for n in range(20))
    started = client.request("GET", made.url("app") + "/", headers=NAVIGATION)
    answer = client.request("GET", started.headers["location"], headers=NAVIGATION, cookie_header=hostile)
    assert answer.status_code == 302, answer.text


def test_an_answer_that_is_posted_gets_a_clear_page(client: BrowserlessClient, made: Site):
    _, asked = sent_to_the_provider(client, made)
    address = f"{made.url('authenticate')}/.doorward/callback/demo"
    page = client.request("POST", address, headers=NAVIGATION, data={"state": asked["state"], "code": "x"})
    assert_nobody_is_signed_in(client, made, page, 405)


def test_an_identity_provider_that_hangs_gets_a_clear_page_in_time(client: BrowserlessClient, made: Site):
    back = log_in(client, sent_to_the_provider(client, made)[0])
    assert made.provider is not None
    made.provider.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        page = client.get(back, headers=NAVIGATION)
        assert time.monotonic() - began < 10
        assert_nobody_is_signed_in(client, made, page, 502)
    finally:
        made.provider.send_signal(signal.SIGCONT)


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


def test_flow_cookies_stay_bounded(client: BrowserlessClient, made: Site):
    for attempt_number in range(20):
        client.get(f"{made.url('app')}/{attempt_number}", headers=NAVIGATION)
    flows = [name for name in client.cookies["app.localhost"] if name.startswith("__Host-doorward-flow-")]
    assert len(flows) <= 12
