"""S87: which certificates of clients get past the listener, and what a check is told of them. Through real Envoy."""

import datetime as dt
import ssl
import urllib.parse
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography import x509
from tests.support.client_certificates import SERVER, ClientAuthority, Issued
from tests.support.envoy import EchoUpstream, RunningProxy, free_port, route, running_proxy, settings_of
from tests.support.http2 import http2_request

from doorward.config.settings import ClientCertificateSettings
from doorward.route.route import CertificateUse
from doorward_authorize.certificate import parse_certificate

pytestmark = pytest.mark.asyncio(loop_scope="module")
HOST = "devices.localhost"


@dataclass
class Bench:
    proxy: RunningProxy
    folder: Path
    root: ClientAuthority
    between: ClientAuthority
    below: ClientAuthority
    revoked: Issued

    async def seen(self, issued: Issued | None, host: str = HOST, sni: str | None = None) -> tuple[str, str] | None:
        """Certificate and server name that the check was told; ``None`` when the request was refused before."""
        self.proxy.authorizer.checks.clear()
        context = self.proxy.tls("h2")
        if issued is not None:
            context.load_cert_chain(*issued.write(self.folder, "client"))
        headers = [(":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", host)]
        try:
            answer = dict(await http2_request(self.proxy.port, context, headers, server_name=sni or host))
        except (OSError, ssl.SSLError, EOFError):
            answer = {}
        if not self.proxy.authorizer.checks:
            assert answer.get(":status") is None
            return None
        attributes = self.proxy.authorizer.checks[-1].attributes
        return attributes.source.certificate, attributes.tls_session.sni


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    upstream, root = EchoUpstream(free_port()), ClientAuthority()
    between = ClientAuthority("Between", parent=root)
    below = ClientAuthority("Below", parent=between)
    revoked = root.client("revoked")
    clients = ClientCertificateSettings(
        authorities_pem=root.pem + between.pem + below.pem,
        revocation_pem=root.revocation_list(revoked) + between.revocation_list() + below.revocation_list(),
        intermediates=1,
    )
    to = [("http", "127.0.0.1", upstream.port)]
    settings = settings_of(
        route(HOST, to=to, client_certificate=CertificateUse.FACT), route(to=to), client_certificates=clients
    )
    async with upstream.running(), running_proxy(settings) as proxy:
        yield Bench(proxy, tmp_path_factory.mktemp("clients"), root, between, below, revoked)


async def test_a_good_certificate_is_told_to_the_check_with_the_name_it_came_under(bench: Bench):
    laptop = bench.root.client(names=(x509.DNSName("laptop7.example.com"),))
    found = await bench.seen(laptop)
    assert found is not None
    assert found[1] == HOST
    parsed = parse_certificate(found[0])
    assert parsed is not None
    assert parsed.facts.san_dns == ("laptop7.example.com",)
    assert urllib.parse.unquote(found[0]).startswith("-----BEGIN CERTIFICATE-----")


async def test_without_a_certificate_the_check_decides(bench: Bench):
    assert await bench.seen(None) == ("", HOST)


async def test_other_hosts_ask_nobody_whatever_is_sent_there(bench: Bench):
    assert await bench.seen(bench.root.client(), "app.localhost") == ("", "app.localhost")
    # HTTP/2 lets a connection be used for another host: what was never asked for is not there.
    assert await bench.seen(bench.root.client(), HOST, sni="app.localhost") == ("", "app.localhost")


async def test_s87_a_chain_counts_up_to_its_bound(bench: Bench):
    assert await bench.seen(bench.between.client("deeper")) is not None
    deep = bench.below.client("deep")
    chain = (bench.below.issued.certificate, bench.between.issued.certificate)
    assert await bench.seen(Issued(deep.certificate, deep.key, chain)) is None


DAY = dt.timedelta(days=1)


@pytest.mark.parametrize(
    "kind", ["for servers", "expired", "not yet valid", "revoked", "of somebody else", "of a namesake", "self-signed"]
)
async def test_s87_what_does_not_verify_ends_the_handshake(bench: Bench, kind: str):
    namesake = ClientAuthority(bench.root.name)
    issued = {
        "for servers": lambda: bench.root.client(usages=(SERVER,)),
        "expired": lambda: bench.root.client(begins=-3 * DAY, ends=-DAY),
        "not yet valid": lambda: bench.root.client(begins=DAY, ends=2 * DAY),
        "revoked": lambda: bench.revoked,
        "of somebody else": lambda: ClientAuthority("Others").client(),
        "of a namesake": namesake.client,
        "self-signed": lambda: namesake.issued,
    }[kind]()
    assert await bench.seen(issued) is None
