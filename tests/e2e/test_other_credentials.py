"""Tokens of other issuers and certificates of clients, from the configuration to the upstream."""

import ssl
import time
from pathlib import Path

import pytest
from cryptography import x509
from joserfc.jwk import ECKey
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
    seen = {name.lower(): value for name, value in echo.seen[-1]["headers"]}
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
