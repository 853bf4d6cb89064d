"""What a client writes about itself reaches no upstream and no decision. Every plane is real."""

import asyncio
import base64
import json
import ssl
from typing import Any

import httpx
import pytest
from tests.e2e.conftest import CLUSTER_TOKEN, PASSWORDS
from tests.support.deployment import wait_for
from tests.support.echo import EchoServer
from tests.support.http2 import Http2Upstream, http2_request
from tests.support.raw_http import request_bytes, status_of
from tests.support.site import Site

pytestmark = pytest.mark.e2e
SESSION = "__Host-doorward"
IDENTITY_HEADERS = [
    "X-Doorward-Jwt-Assertion", "X-Who", "X-Groups", "Remote-User", "X-Remote-User", "X-Auth-Request-Email",
    "X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-Groups", "Impersonate-User", "X-Doorward-Decision-Id",
]  # fmt: skip
REWRITING_HEADERS = {
    "x-forwarded-uri": "/public/forged",
    "x-forwarded-method": "GET",
    "x-forwarded-host": "open.localhost",
    "x-forwarded-proto": "http",
    "x-forwarded-port": "1",
    "x-forwarded-for": "6.6.6.6",
    "x-real-ip": "6.6.6.6",
    "x-original-url": "/public/forged",
    "x-rewrite-url": "/public/forged",
    "x-original-uri": "/public/forged",
    "forwarded": "for=6.6.6.6;host=open.localhost;proto=http",
    "x-http-method-override": "GET",
    "x-http-method": "GET",
    "x-method-override": "GET",
    "x-envoy-original-path": "/public/forged",
    "x-doorward-client-address": "6.6.6.6",
}


def cookie_of(made: Site, name: str, person: str = "alice") -> str:
    """A session cookie of ``person`` on the host ``name``."""
    with made.client() as client:
        response = client.sign_in(made.url(name) + "/", *PASSWORDS[person])
        assert response.status_code == 200, response.text
        return f"{SESSION}={client.cookie(f'{name}.localhost', SESSION)}"


def values(seen: dict[str, Any], name: str) -> list[str]:
    return [value for header, value in seen["headers"] if header == name]


@pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])
def test_s01_the_upstream_sees_one_identity_and_it_is_ours(open_site: Site, echo: EchoServer, http2: bool):
    cookie = cookie_of(open_site, "closed")
    echo.seen.clear()
    if http2:
        with open_site.client(http2=True) as client:
            forged = {name.lower(): "forged" for name in IDENTITY_HEADERS}
            answer = client.request("GET", open_site.url("closed") + "/", headers=forged, cookie_header=cookie)
            assert answer.status_code == 200
    else:
        lines = [f"{spelling}: forged" for name in IDENTITY_HEADERS for spelling in (name, name.lower(), name.upper())]
        sent = request_bytes("/", open_site.host("closed"), f"Cookie: {cookie}", *lines)
        assert status_of(open_site.raw("closed", sent)) == 200
    (seen,) = echo.seen
    assert "forged" not in str(seen)
    assert values(seen, "x-who") == ["alice@example.com"]
    assert values(seen, "x-groups") == ["admins,eng"]
    (assertion,) = values(seen, "x-doorward-jwt-assertion")
    assert assertion.count(".") == 2


@pytest.mark.parametrize("name", ["X_Who", "x_doorward_jwt_assertion", "X-Doorward_Jwt-Assertion", "Remote_User"])
def test_s01_names_that_some_servers_fold_are_refused(open_site: Site, echo: EchoServer, name: str):
    """WSGI and its kin read ``_`` as ``-``."""
    for host in ("closed", "open"):
        assert status_of(open_site.raw(host, request_bytes("/", open_site.host(host), f"{name}: forged"))) == 400
    assert echo.seen == []


async def test_s01_request_trailers_carry_no_identity_either(open_site: Site, http2_port: int):
    upstream = Http2Upstream(http2_port)
    async with upstream.running():
        cookie = await asyncio.to_thread(cookie_of, open_site, "rpc")
        upstream.headers.clear()
        upstream.trailers.clear()
        forged = [
            (name.lower(), "forged") for name in [*IDENTITY_HEADERS, *REWRITING_HEADERS, "cookie", "authorization"]
        ]
        headers = [
            (":method", "POST"), (":scheme", "https"), (":path", "/echo.Echo/Unary"),
            (":authority", open_site.host("rpc")), ("content-type", "application/grpc"), ("te", "trailers"),
            ("cookie", cookie),
        ]  # fmt: skip
        tls = ssl.create_default_context(cafile=str(open_site.ca_file))
        tls.set_alpn_protocols(["h2"])
        answer = await http2_request(
            open_site.port, tls, headers, body=b"x", trailers=[*forged, ("x-kept", "1")], server_name="rpc.localhost"
        )
    assert dict(answer)[":status"] == "200"
    assert "forged" not in str(upstream.headers)
    assert [pair for trailers in upstream.trailers for pair in trailers] == [("x-kept", "1")]


def test_s02_a_header_for_a_claim_that_somebody_lacks_is_not_the_clients_to_fill(open_site: Site, echo: EchoServer):
    open_site.set_faults(claims={"groups": None, "email_verified": False})
    try:
        with open_site.client() as client:
            client.sign_in(open_site.url("closed") + "/", *PASSWORDS["carol"])
            echo.seen.clear()
            forged = {"x-groups": "admins", "x-who": "alice@example.com"}
            for host in ("closed", "open"):
                assert client.get(open_site.url(host) + "/", headers=forged).status_code == 200
    finally:
        open_site.set_faults()
    assert len(echo.seen) == 2
    for seen in echo.seen:
        assert values(seen, "x-groups") == values(seen, "x-who") == []


def test_s03_a_public_route_passes_no_forged_identity_and_leaves_the_applications_own_alone(
    open_site: Site, echo: EchoServer
):
    forged = {name.lower(): "forged" for name in [*IDENTITY_HEADERS, "Doorward-Authorization", "X-Static"]}
    with open_site.client() as client:
        answer = client.get(open_site.url("open") + "/", headers={**forged, "authorization": "Basic YTpi"})
    assert answer.status_code == 200
    (seen,) = echo.seen
    assert "forged" not in str(seen)
    assert values(seen, "authorization") == ["Basic YTpi"]


def test_s03_a_handle_of_another_host_makes_nobody_known_on_a_public_route(open_site: Site, echo: EchoServer):
    cookie = cookie_of(open_site, "closed")
    with open_site.client() as client:
        # A handle is for one host; the public host does not know this browser, and forged words do not help it.
        client.request("GET", open_site.url("open") + "/", headers={"x-who": "alice@example.com"}, cookie_header=cookie)
    assert values(echo.seen[-1], "x-who") == []
    assert values(echo.seen[-1], "cookie") == []


def test_s04_connection_does_not_drop_our_headers(open_site: Site, echo: EchoServer):
    cookie = cookie_of(open_site, "closed")
    for names in ("x-doorward-jwt-assertion, x-who, x-groups", "X-Who", "keep-alive, x-groups, te"):
        echo.seen.clear()
        request = (
            f"GET /s04 HTTP/1.1\r\nHost: {open_site.host('closed')}\r\nCookie: {cookie}\r\n"
            f"Connection: close, {names}\r\n\r\n"
        )
        assert status_of(open_site.raw("closed", request.encode())) == 200
        (seen,) = echo.seen
        assert values(seen, "x-who") == ["alice@example.com"]
        assert values(seen, "x-groups") == ["admins,eng"]
        assert len(values(seen, "x-doorward-jwt-assertion")) == 1


@pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])
def test_s05_forwarding_and_rewriting_headers_change_no_decision(open_site: Site, echo: EchoServer, http2: bool):
    """Policy lets GET below `/public/` through and nothing else: none of these may say what was asked for."""
    with open_site.client(http2=http2) as client:
        for name, value in REWRITING_HEADERS.items():
            private = client.request("GET", open_site.url("rules") + "/private", headers={name: value})
            written = client.request("DELETE", open_site.url("rules") + "/public/x", headers={name: value})
            unknown = client.request("GET", open_site.url("closed") + "/", headers={name: value})
            assert (private.status_code, written.status_code, unknown.status_code) == (403, 403, 401), name
        assert echo.seen == []
        secret = {"x-forwarded-uri": "/public/fine", "x-original-url": "/public/fine"}
        assert client.get(open_site.url("rules") + "/public/secret", headers=secret).status_code == 403
        passed = client.get(open_site.url("rules") + "/public/x", headers=REWRITING_HEADERS)
    assert passed.status_code == 200
    (seen,) = echo.seen
    assert seen["target"] == "/public/x"
    text = str(seen["headers"])
    assert "forged" not in text
    assert "6.6.6.6" not in text
    assert values(seen, "x-forwarded-for") == ["127.0.0.1"]
    assert values(seen, "x-forwarded-proto") == ["https"]
    record = wait_for(
        lambda: [r for r in open_site.run.decisions() if r["request_id"] == passed.headers["x-request-id"]],
        what="the decision",
    )
    assert (record[0]["client_address"], record[0]["route"], record[0]["method"]) == ("127.0.0.1", "rules", "GET")


def test_an_upstream_cannot_set_our_cookies_and_does_not_see_them(open_site: Site, echo: EchoServer):
    with open_site.client() as client:
        client.sign_in(open_site.url("closed") + "/", *PASSWORDS["alice"])
        mine = client.cookie("closed.localhost", SESSION)
        client.cookies["closed.localhost"]["theirs"] = "1"
        answer = client.get(open_site.url("closed") + "/set-cookie")
        assert answer.headers.get_list("set-cookie") == ["theirs=kept; Path=/"]
        assert client.cookie("closed.localhost", SESSION) == mine
        assert dict(answer.json()["headers"])["cookie"] == "theirs=1"


def test_a_cluster_is_asked_by_its_service_account_for_whoever_asks(open_site: Site, echo: EchoServer):
    """The account's token alone would make everybody the account; a client's own word on whom to be would make anybody anyone."""
    cookie = cookie_of(open_site, "cluster")
    echo.seen.clear()
    forged = b"".join(
        b"%s: system:masters\r\n" % name
        for name in (
            b"Impersonate-User",
            b"impersonate-group",
            b"Impersonate-Uid",
            b"Impersonate-Extra-scopes",
            b"Authorization",
        )
    )
    lines = f"GET /api/v1/pods HTTP/1.1\r\nhost: {open_site.host('cluster')}\r\ncookie: {cookie}\r\n".encode()
    answer = open_site.raw("cluster", lines + forged + b"connection: close\r\n\r\n")
    assert status_of(answer) == 200
    seen = echo.seen[-1]
    assert values(seen, "authorization") == [f"Bearer {CLUSTER_TOKEN}"]
    assert values(seen, "impersonate-user") == ["alice@example.com"]
    assert values(seen, "impersonate-group") == ["admins", "eng"]
    assert not [name for name, _ in seen["headers"] if name.startswith(("impersonate-uid", "impersonate-extra"))]
    assert "system:masters" not in str(seen)


def test_an_upstream_gets_the_providers_tokens_where_its_route_asks_and_nowhere_else(open_site: Site, echo: EchoServer):
    cookie = cookie_of(open_site, "tokens")
    seen = echo.seen[-1]
    (token,) = values(seen, "authorization")
    (id_token,) = values(seen, "x-id-token")
    claims = json.loads(base64.urlsafe_b64decode(id_token.split(".")[1] + "=="))
    assert (claims["sub"], claims["aud"]) == ("alice", "site")
    answer = httpx.get(
        f"http://127.0.0.1:{open_site.provider_port}/userinfo", headers={"authorization": token}, trust_env=False
    )
    assert answer.json()["sub"] == "alice"
    with open_site.client() as client:
        client.request("GET", open_site.url("tokens") + "/", cookie_header=cookie)
        client.sign_in(open_site.url("closed") + "/", *PASSWORDS["alice"])
    assert values(echo.seen[-2], "authorization") == [token]
    assert not values(echo.seen[-1], "authorization")
    written = open_site.run.log.read_text() + open_site.run.decisions_file.read_text()
    for secret in (token.removeprefix("Bearer "), id_token, CLUSTER_TOKEN):
        assert secret not in written
