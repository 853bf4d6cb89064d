"""S87, and what a certificate is at a decision: dates and lists every time, names by their kind, and only where it was asked for."""

import base64
import datetime as dt
import hashlib
import urllib.parse
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.client_certificates import SERVER, ClientAuthority, Issued
from tests.unit.authorize.builders import CONFIG, World, passed, status
from tests.unit.authorize.test_guard_watcher import Streams, description
from tests.unit.authorize.test_refusals import body

from doorward.api.authorize.v1.check_view_pb2 import PeerView, TlsSessionView
from doorward.envoy_api.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from doorward_authorize.certificate import LIMIT_BYTES, VerifiedCertificate, parse_certificate

NOW = dt.datetime.fromtimestamp(1_800_000_000, dt.UTC)
DAY = dt.timedelta(days=1)
ROUTES = """\
  - name: device
    from: https://device.example.com
    to: http://127.0.0.1:9003
    client_certificate: fact
    policy: [{allow: {and: [{authenticated_user: true}, {client_certificate: {san_dns: {ends_with: .example.com}}}]}}]
  - name: machine
    from: https://machine.example.com
    to: http://127.0.0.1:9004
    client_certificate: principal
    continuous: true
    policy: [{allow: {and: [{authenticated_user: true}, {client_certificate: true}]}}]
  - name: any
    from: https://any.example.com
    to: http://127.0.0.1:9005
    client_certificate: fact
    policy: [{allow: {or: [{accept: true}]}}, {deny: {or: [{invalid_client_certificate: true}]}}]
"""


class Certified(World):
    """A world whose clients may have certificates."""

    def __init__(self, folder: Path) -> None:
        self.authority = ClientAuthority(now=NOW)
        (folder / "clients.crt").write_text(self.authority.pem)
        super().__init__(folder, self.config())

    def config(self, *, lists: str = "") -> str:
        written = f"client_certificates: {{authorities: clients.crt{lists}}}\n"
        return CONFIG.replace("routes:\n", written + "routes:\n") + ROUTES

    def revoke(self, *issued: Issued, ends: dt.timedelta = DAY) -> None:
        (self.folder / "clients.crl").write_text(self.authority.revocation_list(*issued, ends=ends))
        self.reload(self.config(lists=", revocation_lists: clients.crl"))

    def with_certificate(self, data: bytes, issued: Issued | None, sni: str) -> bytes:
        message = CheckRequest.FromString(data)
        message.attributes.tls_session.sni = sni
        if issued is not None:
            message.attributes.source.certificate = encoded(issued)
        return message.SerializeToString()

    async def ask(
        self, route: str, issued: Issued | None = None, *, sni: str | None = None, **options: str
    ) -> CheckResponse:
        data = self.with_certificate(
            self.request(route, **options),  # type: ignore[arg-type]
            issued,
            f"{route}.example.com" if sni is None else sni,
        )
        return CheckResponse.FromString(await self.answer(data))


def encoded(issued: Issued) -> str:
    return urllib.parse.quote(issued.certificate.public_bytes(Encoding.PEM).decode())


@pytest.fixture
def world(tmp_path: Path) -> Certified:
    return Certified(tmp_path)


def laptop(world: Certified) -> Issued:
    return world.authority.client(names=(x509.DNSName("laptop7.example.com"),))


def test_what_policy_sees_is_what_the_certificate_says():
    issued = ClientAuthority(now=NOW).client(
        names=(
            x509.DNSName("a.example.com"),
            x509.RFC822Name("alice@example.com"),
            x509.UniformResourceIdentifier("spiffe://example.com/x"),
            x509.DNSName("b.example.com"),
        )
    )
    found = parse_certificate(encoded(issued))
    assert found is not None
    der = issued.certificate.public_bytes(Encoding.DER)
    key = issued.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    facts = found.facts
    assert facts.fingerprint == hashlib.sha256(der).hexdigest()
    assert facts.spki_hash == base64.b64encode(hashlib.sha256(key).digest()).decode()
    assert (facts.san_dns, facts.san_email) == (("a.example.com", "b.example.com"), ("alice@example.com",))
    assert facts.san_uri == ("spiffe://example.com/x",)
    assert facts.not_after_at == (NOW + 30 * DAY).timestamp()
    assert VerifiedCertificate.of_description(found.described()) == found


def test_s87_a_name_counts_as_what_it_is_and_as_nothing_else():
    """An address in a DNS name is no address, and other kinds of names are none of ours."""
    other = x509.OtherName(ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x1badmin@example.com\x00.evil.com")
    found = parse_certificate(
        encoded(
            ClientAuthority(now=NOW).client(
                "admin@example.com",
                names=(x509.DNSName("admin.example.com"), other, x509.RegisteredID(ObjectIdentifier("1.2.3"))),
            )
        )
    )
    assert found is not None
    assert (found.facts.san_dns, found.facts.san_email, found.facts.san_uri) == (("admin.example.com",), (), ())


@pytest.mark.parametrize("text", ["a.example.com\0.evil.com", "a b.example.com", "a\n.example.com", "a\x7f"])
def test_s87_a_name_that_two_programs_read_differently_spoils_the_certificate(text: str):
    names = tuple(kind._init_without_validation(text) for kind in (x509.DNSName, x509.RFC822Name))
    for name in names:
        assert parse_certificate(encoded(ClientAuthority(now=NOW).client(names=(name,)))) is None


def test_s87_what_is_no_clients_certificate_does_not_count_even_if_envoy_let_it_through():
    authority = ClientAuthority(now=NOW)
    assert parse_certificate(encoded(authority.client(usages=(SERVER,)))) is None
    assert parse_certificate(encoded(authority.client(authority=True))) is None
    assert parse_certificate(encoded(authority.issued)) is None
    assert parse_certificate(encoded(authority.client(usages=()))) is not None
    anything = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE
    assert parse_certificate(encoded(authority.client(usages=(SERVER, anything)))) is not None


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.just(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
def test_bytes_that_are_no_certificate_are_none(data: bytes):
    assert parse_certificate(urllib.parse.quote(data)) is None


def test_no_changed_byte_of_a_certificate_raises():
    good = bytearray(ClientAuthority(now=NOW).client().certificate.public_bytes(Encoding.DER))
    for position in range(0, len(good), 3):
        spoiled = bytes([*good[:position], good[position] ^ 0x55, *good[position + 1 :]])
        pem = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(spoiled) + b"-----END CERTIFICATE-----\n"
        parse_certificate(urllib.parse.quote(pem))
    assert parse_certificate("x" * (LIMIT_BYTES + 1)) is None


async def test_a_certificate_is_a_fact_beside_whoever_is_signed_in(world: Certified):
    cookie = world.sign_in(host="device.example.com")
    assert passed(await world.ask("device", laptop(world), cookie=cookie))
    assert status(await world.ask("device", world.authority.client(), cookie=cookie)) == 403
    assert status(await world.ask("device", None, cookie=cookie)) == 403
    assert status(await world.ask("device", laptop(world))) == 401


async def test_s87_dates_and_lists_are_looked_at_at_every_decision(world: Certified):
    issued, other = laptop(world), laptop(world)
    cookie = world.sign_in(host="device.example.com")
    assert passed(await world.ask("device", issued, cookie=cookie))
    world.revoke(issued)
    assert status(await world.ask("device", issued, cookie=cookie)) == 403
    assert passed(await world.ask("device", other, cookie=cookie))
    assert status(await world.ask("any", issued)) == 403
    assert passed(await world.ask("any", other))
    world.revoke(ends=dt.timedelta(seconds=5))
    assert passed(await world.ask("any", issued))
    world.clock.advance(6)
    assert status(await world.ask("any", issued)) == 403, "a list that has run out vouches for nobody"
    short = world.authority.client(ends=dt.timedelta(minutes=1))
    world.reload(world.config())
    assert passed(await world.ask("any", short))
    world.clock.advance(60)
    assert status(await world.ask("any", short)) == 403


@pytest.mark.parametrize("kind", ["for servers", "an authority", "expired", "early", "garbage"])
async def test_an_invalid_certificate_is_denied_where_policy_says_so(world: Certified, kind: str):
    issued = {
        "for servers": lambda: world.authority.client(usages=(SERVER,)),
        "an authority": lambda: world.authority.issued,
        "expired": lambda: world.authority.client(begins=-2 * DAY, ends=-DAY),
        "early": lambda: world.authority.client(begins=DAY),
        "garbage": lambda: None,
    }[kind]()
    data = world.with_certificate(world.request("any"), issued, "any.example.com")
    if issued is None:
        message = CheckRequest.FromString(data)
        message.attributes.source.certificate = "%2d%2dgarbage"
        data = message.SerializeToString()
    response = CheckResponse.FromString(await world.answer(data))
    assert status(response) == 403
    assert "client-certificate-required" in body(response)
    assert passed(await world.ask("any", laptop(world)))


@pytest.mark.parametrize("sni", ["", "app.example.com", "unknown.example.com"])
async def test_a_connection_that_was_not_asked_is_sent_back(world: Certified, sni: str):
    """Else somebody could reach the host without the question, over a connection for another one."""
    for route in ("device", "machine", "any"):
        for issued in (laptop(world), None):
            response = await world.ask(route, issued, sni=sni)
            assert status(response) == 421
            assert '"certificate-not-asked"' in body(response)
    assert passed(await world.ask("any", laptop(world), sni="DEVICE.example.com")), "asked alike"


async def test_a_route_that_ignores_certificates_sees_none(world: Certified):
    assert passed(await world.ask("public", laptop(world), sni="any.example.com"))
    assert status(await world.ask("app", laptop(world), sni="machine.example.com")) == 401


@pytest.mark.parametrize(
    "policy",
    [
        "[{allow: {or: [{accept: true}]}}, {deny: {or: [{client_certificate: {san_dns: old.example, optional: true}}]}}]",
        "[{allow: {nor: [{client_certificate: {san_dns: old.example, optional: true}}]}}]",
        "[{allow: {and: [{invalid_client_certificate: true}]}}]",
        "{dialect: ppl, rules: [{allow: {or: [{accept: true}]}}, {deny: {or: [{client_certificate: {san_dns: old.example}}]}}]}",
    ],
)
async def test_where_nobody_looks_nobody_knows_that_there_is_no_certificate(world: Certified, policy: str):
    config = world.config().replace("policy: [{allow: {or: [{accept: true}]}}]", f"policy: {policy}")
    world.reload(config)
    assert status(await world.ask("public", laptop(world))) == 403
    assert status(await world.ask("public")) == 403
    world.reload(config.replace("- name: public", "- name: public\n    client_certificate: fact"))
    assert passed(await world.ask("public"))


async def test_what_envoy_says_that_does_not_parse_is_no_certificate(world: Certified):
    message = CheckRequest.FromString(world.request("any"))
    view = message.SerializeToString()
    # `source` and `tls_session` of another form, put behind: the last counts for a field of bytes.
    spoiled = b"\x0a\x03\xff\xff\xff" + b"\x62\x02\xff\xff"
    response = CheckResponse.FromString(await world.answer(view + b"\x0a" + bytes([len(spoiled)]) + spoiled))
    assert status(response) in {421, 503}
    assert PeerView.FromString(b"").certificate == TlsSessionView.FromString(b"").sni == ""


async def test_a_certificate_speaks_for_somebody_only_where_the_route_says_so(world: Certified):
    issued = laptop(world)
    assert passed(await world.ask("machine", issued))
    assert status(await world.ask("machine")) == 403
    foreign = {"method": "POST", "origin": "https://evil.example", "sec_fetch_site": "cross-site"}
    assert status(await world.ask("machine", issued, **foreign)) == 403, "browsers send certificates unasked"


async def test_s49_a_certificate_that_speaks_beside_another_credential(world: Certified):
    issued = laptop(world)
    cookie, token = world.sign_in(host="machine.example.com"), f"Bearer {world.account()}"
    assert status(await world.ask("machine", issued, cookie=cookie)) == 400
    assert status(await world.ask("machine", issued, authorization=token)) == 400
    assert status(await world.ask("machine", issued, authorization=f"{token}x")) == 401
    assert passed(await world.ask("machine", issued, authorization="Basic YTpi"))
    assert passed(await world.ask("machine", issued, cookie="__Host-doorward=garbage"))


@pytest.mark.parametrize("end", ["revoked", "expired", "list ran out", "no longer asked", "route changed"])
async def test_s86_an_open_stream_ends_with_its_certificate(tmp_path: Path, end: str):
    world = Certified(tmp_path)
    streams = Streams(tmp_path, world=world)
    issued = world.authority.client(ends=dt.timedelta(minutes=10))
    number = streams.open(description(await world.ask("machine", issued)))
    assert streams.link.taken() == [(number, True, "")]
    before = world.evaluator.snapshot
    match end:
        case "revoked":
            world.revoke(issued)
        case "list ran out":
            world.revoke(ends=dt.timedelta(seconds=1))
            streams.watcher.on_snapshot(before, world.evaluator.snapshot)
            assert await streams.settle() == []
            before = world.evaluator.snapshot
            world.clock.advance(2)
        case "no longer asked":
            world.reload(world.config().replace("client_certificate: principal", "client_certificate: ignored"))
        case "expired":
            world.clock.advance(601)
        case _:
            world.reload(world.config().replace("127.0.0.1:9004", "127.0.0.1:9999"))
    streams.watcher.on_snapshot(before, world.evaluator.snapshot)
    streams.watcher.on_time()
    assert [(found, allowed) for found, allowed, _ in await streams.settle()] == [(number, False)]
