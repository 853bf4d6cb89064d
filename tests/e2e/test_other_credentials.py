"""Tokens of other issuers and certificates of clients, from the configuration to the upstream."""

import ssl
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet
from tests.e2e.test_headers import cookie_of
from tests.support.client_certificates import ClientAuthority, Issued
from tests.support.deployment import wait_for
from tests.support.echo import EchoServer
from tests.support.raw_http import request_bytes, status_of
from tests.support.site import Site
from tests.support.token_issuer import TokenIssuer

pytestmark = pytest.mark.e2e


def test_a_token_of_a_trusted_issuer_counts_once_its_keys_are_known(
    open_site: Site, echo: EchoServer, token_issuer: TokenIssuer
):
    def status(token: str, name: str = "builds") -> int:
        with open_site.client() as client:
            return client.get(open_site.url(name) + "/", headers={"authorization": f"Bearer {token}"}).status_code

    good = token_issuer.token(time.time())
    wait_for(lambda: status(good) == 200, 20, what="the issuer's keys to be known")
    seen = _told(echo)
    assert "authorization" not in seen
    assert "x-doorward-jwt-assertion" in seen
    echo.seen.clear()
    assert status(token_issuer.token(time.time(), key=ECKey.generate_key("P-256"))) == 401
    assert status(token_issuer.token(time.time(), exp=time.time() - 60)) == 401
    assert status(token_issuer.token(time.time(), aud="elsewhere")) == 401
    assert status(good, "closed") == 401
    assert echo.seen == []


def test_a_certificate_is_asked_for_under_its_own_host_and_policy_sees_it(
    open_site: Site, echo: EchoServer, client_authority: ClientAuthority, tmp_path: Path
):
    def answer(issued: Issued | None, name: str = "devices") -> int:
        certificate = issued.write(tmp_path, "client") if issued is not None else None
        return status_of(open_site.raw(name, request_bytes("/", open_site.host("devices")), certificate))

    laptop = client_authority.client(names=(x509.DNSName("laptop7.example.com"),))
    assert answer(laptop) == 200
    assert _told(echo)["x-client"] == f"{_fingerprint(laptop)} laptop7.example.com"
    assert answer(client_authority.client(names=(x509.DNSName("laptop8.example.com"),))) == 403
    assert answer(None) == 403
    assert answer(laptop, "closed") == 421, "a connection for another host"
    echo.seen.clear()
    try:
        refused = answer(ClientAuthority().client())
    except (ssl.SSLError, ConnectionError):
        refused = 400
    assert refused == 400, "the handshake ends"
    assert echo.seen == []


def test_a_certificate_says_who_asks_and_beside_another_credential_nobody_does(
    open_site: Site, echo: EchoServer, client_authority: ClientAuthority, tmp_path: Path
):
    def answer(issued: Issued | None, *headers: str, method: str = "GET") -> int:
        certificate = issued.write(tmp_path, "machine") if issued is not None else None
        return status_of(
            open_site.raw(
                "machines", request_bytes("/", open_site.host("machines"), *headers, method=method), certificate
            )
        )

    machine = client_authority.client("press-7")
    assert answer(machine, "x-user: somebody else", "x-mail: alice@example.com") == 200
    told = _told(echo)
    assert (told["x-user"], told["x-subject"]) == (f"cert-{_fingerprint(machine)}", "CN=press-7")
    assert "x-mail" not in told, "what is not known of a machine is not sent, and neither is its own word"
    with open_site.client() as client:
        keys = KeySet.import_key_set(client.get(open_site.url("machines") + "/.well-known/doorward/jwks.json").json())
    assert jwt.decode(told["x-doorward-jwt-assertion"], keys).claims["sub"] == told["x-user"]
    cookie = cookie_of(open_site, "machines")
    echo.seen.clear()
    assert answer(None) == 401
    assert answer(machine, "origin: https://evil.example", "sec-fetch-site: cross-site", method="POST") == 403
    assert answer(machine, f"cookie: {cookie}") == 400, "two who ask are nobody"
    assert echo.seen == []
    assert answer(None, f"cookie: {cookie}") == 200


def _told(echo: EchoServer) -> dict[str, str]:
    """The headers of the last request that reached the upstream."""
    headers = echo.seen[-1]["headers"]
    assert isinstance(headers, list)
    return {name.lower(): value for name, value in headers}


def _fingerprint(issued: Issued) -> str:
    return issued.certificate.fingerprint(hashes.SHA256()).hex()
