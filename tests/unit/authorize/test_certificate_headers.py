"""What upstreams are told of a client's certificate: all of it while it counts, nothing after, never the client's own word."""

import datetime as dt
import urllib.parse
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from tests.support.client_certificates import Issued
from tests.unit.authorize.builders import passed, set_headers
from tests.unit.authorize.test_client_certificates import Certified, laptop

from doorward_authorize.certificate import parse_certificate

NAMES = ("fingerprint", "spki_hash", "subject", "san_dns", "san_email", "san_uri", "pem")
ROUTES = (
    "  - name: told\n"
    "    from: https://told.example.com\n"
    "    to: http://127.0.0.1:9006\n"
    "    client_certificate: fact\n"
    "    set_request_headers:\n"
    + "".join(f'      x-{name.replace("_", "-")}: "${{client_certificate/{name}}}"\n' for name in NAMES)
    + '      x-both: "${email} by ${client_certificate/fingerprint}"\n'
    "    policy: [{allow: {or: [{accept: true}]}}]\n"
)
HEADERS = {f"x-{name.replace('_', '-')}" for name in NAMES} | {"x-both"}


class Told(Certified):
    def config(self, *, lists: str = "") -> str:
        return super().config(lists=lists) + ROUTES

    async def told(self, issued: Issued | None = None, **options: str) -> dict[str, str]:
        """What the upstream gets under our names; the client writes all of them itself."""
        forged = {name.replace("-", "_"): "forged" for name in HEADERS}
        response = await self.ask("told", issued, **forged, **options)
        assert passed(response)
        found = {name: value for name, value in set_headers(response).items() if name in HEADERS}
        assert found.keys() | set(response.ok_response.headers_to_remove) >= HEADERS, "the client's own got through"
        return found


@pytest.fixture
def world(tmp_path: Path) -> Told:
    return Told(tmp_path)


async def test_every_field_is_told_of_a_certificate_that_counts(world: Told):
    """Nobody has to be signed in for it: it is the client's machine that is named."""
    issued = world.authority.client(
        "Laptop, the 7th: 100 %",
        names=(
            x509.DNSName("a.example.com"),
            x509.DNSName("b.example.com"),
            x509.RFC822Name("alice@example.com"),
            x509.UniformResourceIdentifier("spiffe://example.com/a,b%2f"),
        ),
    )
    found = await world.told(issued)
    pem = issued.certificate.public_bytes(Encoding.PEM).decode()
    parsed = parse_certificate(urllib.parse.quote(pem))
    assert parsed is not None
    assert found["x-fingerprint"] == parsed.facts.fingerprint
    assert found["x-spki-hash"] == parsed.facts.spki_hash
    assert found["x-subject"] == "CN=Laptop\\, the 7th: 100 %25"
    assert urllib.parse.unquote(found["x-subject"]) == issued.certificate.subject.rfc4514_string()
    assert found["x-san-dns"] == "a.example.com,b.example.com"
    assert found["x-san-email"] == "alice@example.com"
    assert found["x-san-uri"] == "spiffe://example.com/a%2Cb%252f"
    assert urllib.parse.unquote(found["x-pem"]) == pem
    assert "x-both" not in found, "half of it is not known"


async def test_what_a_certificate_does_not_say_is_not_sent(world: Told):
    assert (await world.told(world.authority.client())).keys() == {"x-fingerprint", "x-spki-hash", "x-subject", "x-pem"}
    assert await world.told() == {}


async def test_a_certificate_beside_somebody_who_is_signed_in(world: Told):
    cookie, first, second = world.sign_in(host="told.example.com"), laptop(world), laptop(world)
    found = [await world.told(issued, cookie=cookie) for issued in (first, second, None, first)]
    assert found[0]["x-both"].startswith("alice@example.com by ")
    assert found[0] == found[3]
    assert found[1]["x-both"] != found[0]["x-both"], "an answer that is kept is for its own certificate alone"
    assert found[2] == {}


@pytest.mark.parametrize("end", ["revoked", "expired", "of another connection"])
async def test_s87_a_certificate_that_no_longer_counts_is_not_told(world: Told, end: str):
    issued = world.authority.client(ends=dt.timedelta(minutes=1))
    assert "x-fingerprint" in await world.told(issued)
    match end:
        case "revoked":
            world.revoke(issued)
        case "expired":
            world.clock.advance(61)
        case _:
            response = await world.ask("told", issued, sni="app.example.com")
            assert response.HasField("denied_response")
            return
    assert await world.told(issued) == {}


async def test_a_certificate_that_no_header_can_hold_is_not_sent(world: Told):
    names = tuple(x509.DNSName(f"{index}.{'a' * 50}.example.com") for index in range(200))
    found = await world.told(world.authority.client(names=names))
    assert found.keys() == {"x-fingerprint", "x-spki-hash", "x-subject"}


async def test_a_line_break_in_a_name_stays_one_value(world: Told):
    found = await world.told(world.authority.client("a\r\nx-admin: yes"))
    assert found["x-subject"] == "CN=a%0D%0Ax-admin: yes"
