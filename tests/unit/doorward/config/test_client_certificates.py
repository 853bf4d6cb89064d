"""Who vouches for clients: what is read, and what is wrong with it."""

import datetime as dt
from pathlib import Path

import pytest
from tests.support.client_certificates import ClientAuthority

from doorward.config.load import load
from doorward.config.references import no_secret
from doorward.config.settings import Loaded

HEAD = "version: 1\nauthenticate_url: https://sign-in.example.com\n"
ROUTE = (
    "routes:\n"
    "  - {name: app, from: https://app.example.com, to: http://10.0.0.1, client_certificate: fact,\n"
    "     policy: [{allow: {and: [{client_certificate: true}]}}]}\n"
    "  - {name: other, from: https://other.example.com, to: http://10.0.0.1, policy: [{allow: {and: [{accept: true}]}}]}\n"
)


def read(folder: Path, written: str, route: str = ROUTE) -> Loaded:
    path = folder / "doorward.yaml"
    path.write_text(HEAD + written + route)
    return load(path, secrets=no_secret)


def told(folder: Path, written: str, route: str = ROUTE) -> list[str]:
    return [problem.render().replace(f"{folder}/", "") for problem in read(folder, written, route).problems]


def test_authorities_lists_and_hosts_are_read(tmp_path: Path):
    authority = ClientAuthority()
    issued = authority.client()
    (tmp_path / "ca.crt").write_text(authority.pem)
    (tmp_path / "ca.crl").write_text(authority.revocation_list(issued))
    loaded = read(tmp_path, "client_certificates: {authorities: ca.crt, revocation_lists: ca.crl, intermediates: 2}\n")
    assert loaded.problems == ()
    assert loaded.settings is not None
    found = loaded.settings.client_certificates
    assert found is not None
    assert found.authorities_pem == authority.pem
    assert found.intermediates == 2
    assert found.revoked == {(authority.issued.certificate.subject.public_bytes(), issued.certificate.serial_number)}
    assert found.lists_end_at == pytest.approx((authority.now + dt.timedelta(days=1)).timestamp(), abs=1)
    assert loaded.settings.certificate_hosts == ("app.example.com",)
    assert {tmp_path / "ca.crt", tmp_path / "ca.crl"} <= set(loaded.files), "a changed list is a changed configuration"


def test_a_changed_list_is_another_generation(tmp_path: Path):
    authority = ClientAuthority()
    (tmp_path / "ca.crt").write_text(authority.pem)
    generations = set()
    for revoked in ((), (authority.client(),)):
        (tmp_path / "ca.crl").write_text(authority.revocation_list(*revoked))
        loaded = read(tmp_path, "client_certificates: {authorities: ca.crt, revocation_lists: ca.crl}\n")
        assert loaded.settings is not None
        generations.add(loaded.settings.generation)
    assert len(generations) == 2


@pytest.mark.parametrize(
    ("authorities", "lists", "expected"),
    [
        ("missing", None, "3:36: error: cannot read `ca.crt`"),
        ("garbage", None, "3:36: error: not a PEM file of certificates"),
        ("", None, "3:36: error: not a PEM file of certificates"),
        ("client", None, "is no authority"),
        ("authority", "garbage", "error: not a PEM file of certificate revocation lists"),
        ("authority", "", "error: not a PEM file of certificate revocation lists"),
        ("authority", "of another", "is not signed by any of the authorities"),
        ("authority", "of a namesake", "is not signed by any of the authorities"),
        ("two", "of one", "there is no list of `CN=Others`"),
    ],
)
def test_what_cannot_vouch_keeps_the_file_from_being_used(
    tmp_path: Path, authorities: str, lists: str | None, expected: str
):
    authority, other, namesake = ClientAuthority(), ClientAuthority("Others"), ClientAuthority()
    texts = {"authority": authority.pem, "client": authority.client().pem.decode(), "two": authority.pem + other.pem}
    if authorities != "missing":
        (tmp_path / "ca.crt").write_text(texts.get(authorities, authorities))
    written = "client_certificates: {authorities: ca.crt}\n"
    if lists is not None:
        made = {"of another": other, "of a namesake": namesake, "of one": authority}
        (tmp_path / "ca.crl").write_text(made[lists].revocation_list() if lists in made else lists)
        written = "client_certificates: {authorities: ca.crt, revocation_lists: ca.crl}\n"
    assert read(tmp_path, written).settings is None
    assert any(expected in text for text in told(tmp_path, written)), told(tmp_path, written)


def test_a_route_that_asks_needs_somebody_who_vouches(tmp_path: Path):
    assert any("`app` asks for a client certificate that nobody vouches for" in text for text in told(tmp_path, ""))


def test_a_policy_that_looks_where_nobody_asks_is_warned_of(tmp_path: Path):
    found = told(tmp_path, "", ROUTE.replace(" client_certificate: fact,", ""))
    assert len(found) == 1
    assert "warning: the policy of `app` looks at the client's certificate, which this route ignores" in found[0]
    assert "add `client_certificate: fact`" in found[0]
