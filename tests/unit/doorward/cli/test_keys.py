"""`doorward keys gateway`: a certificate for another gateway, renewed and given out like a plane's, and good for asking alone."""

import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from doorward.cli.keys import export_plane, init_keys, issue_gateway, renew_certificates
from doorward.errors import ConfigurationError
from doorward.rpc.credentials import read_certificate
from doorward.rpc.planes import Plane


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys") / "data"
    init_keys(folder, planes=True, life="30d")
    return folder


def test_a_gateway_gets_a_certificate_that_names_it_and_serves_nobody(data: Path):
    assert issue_gateway("edge", data, life="30d") == 0
    folder = data / "planes" / "gateway" / "edge"
    found = read_certificate(folder, "gateway/edge", time.time())
    leaf = x509.load_pem_x509_certificate(found.certificate_pem)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["doorward://gateway/edge"]
    assert names.get_values_for_type(x509.DNSName) == ["edge.gateway.doorward"]
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert (folder / "tls.key").stat().st_mode & 0o077 == 0
    with pytest.raises(ConfigurationError, match="the certificate of the plane `gateway/edge`, and this is `proxy`"):
        read_certificate(folder, Plane.PROXY, time.time())


def test_it_is_renewed_with_the_others(data: Path, capsys: pytest.CaptureFixture[str]):
    issue_gateway("mesh", data, life="30d")
    before = (data / "planes" / "gateway" / "mesh" / "tls.crt").read_text()
    issue_gateway("mesh", data, life="30d")
    assert "not due yet" in capsys.readouterr().out
    assert (data / "planes" / "gateway" / "mesh" / "tls.crt").read_text() == before
    renew_certificates(data, life="30d", watch=False, all_of_them=True)
    assert "certificate of `gateway/mesh`" in capsys.readouterr().out
    assert (data / "planes" / "gateway" / "mesh" / "tls.crt").read_text() != before


def test_it_is_given_its_certificate_and_no_key_of_the_deployment(data: Path, tmp_path: Path):
    issue_gateway("out", data, life="30d")
    assert export_plane("gateway/out", data, tmp_path / "given") == 0
    files = {str(path.relative_to(tmp_path / "given")) for path in (tmp_path / "given").rglob("*") if path.is_file()}
    assert files == {f"planes/gateway/out/{name}" for name in ("tls.crt", "tls.key", "ca.crt")}


@pytest.mark.parametrize("name", ["", "Edge", "../proxy", "a/b", "-x", "x" * 65])
def test_a_name_that_is_none_makes_nothing(data: Path, tmp_path: Path, name: str):
    with pytest.raises(ConfigurationError, match="no name of a gateway"):
        issue_gateway(name, data, life="30d")
    with pytest.raises(ConfigurationError, match="error: no plane"):
        export_plane(f"gateway/{name}", data, tmp_path / "given")


def test_without_an_authority_nothing_is_made(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="no authority for planes here"):
        issue_gateway("edge", tmp_path, life="30d")
