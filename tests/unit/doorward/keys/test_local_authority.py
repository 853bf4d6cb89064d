import datetime as dt
import ipaddress
import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from tests.support.fake_clock import FakeClock

from doorward.errors import DataCorruptedError
from doorward.keys.local_authority import LocalAuthority

DAY = 86400.0


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def authority(tmp_path, clock):
    return LocalAuthority(tmp_path / "authority", clock)


def verify(authority, certified, host, clock):
    chain = x509.load_pem_x509_certificates(certified.certificate_pem)
    trust = Store([x509.load_pem_x509_certificate(authority.ca_file.read_bytes())])
    moment = dt.datetime.fromtimestamp(clock.now(), dt.UTC).replace(tzinfo=None)
    verifier = PolicyBuilder().store(trust).time(moment).build_server_verifier(host)
    return verifier.verify(chain[0], chain[1:])


def test_a_certificate_is_good_for_exactly_its_hosts(authority, clock):
    certified = authority.certificate_for(["verify.localhost", "admin.localhost", "127.0.0.1"])

    verify(authority, certified, x509.DNSName("verify.localhost"), clock)
    verify(authority, certified, x509.DNSName("admin.localhost"), clock)
    verify(authority, certified, x509.IPAddress(ipaddress.ip_address("127.0.0.1")), clock)
    for other in "localhost", "public.localhost", "x.verify.localhost":
        with pytest.raises(VerificationError):
            verify(authority, certified, x509.DNSName(other), clock)


def test_key_and_certificate_belong_together(authority):
    certified = authority.certificate_for(["verify.localhost"])
    leaf = x509.load_pem_x509_certificate(certified.certificate_pem)

    assert load_pem_private_key(certified.key_pem, None).public_key() == leaf.public_key()


def test_a_leaf_cannot_sign_certificates(authority):
    leaf = x509.load_pem_x509_certificate(authority.certificate_for(["verify.localhost"]).certificate_pem)

    assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert leaf.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign is False


def test_a_certificate_ends_and_a_client_with_a_slow_clock_accepts_it_now(authority, clock):
    certified = authority.certificate_for(["verify.localhost"])

    clock.advance(-1800)
    verify(authority, certified, x509.DNSName("verify.localhost"), clock)
    clock.advance(91 * DAY)
    with pytest.raises(VerificationError):
        verify(authority, certified, x509.DNSName("verify.localhost"), clock)


def test_no_host_no_certificate(authority):
    with pytest.raises(ValueError):
        authority.certificate_for([])


def test_the_authority_survives_a_restart(authority, clock):
    """A new authority at every start would make every browser distrust it again."""
    again = LocalAuthority(authority.ca_file.parent, clock)

    assert again.ca_file.read_bytes() == authority.ca_file.read_bytes()
    verify(authority, again.certificate_for(["verify.localhost"]), x509.DNSName("verify.localhost"), clock)


def test_an_authority_too_old_for_a_whole_leaf_is_made_anew(authority, clock):
    before = authority.ca_file.read_bytes()
    clock.advance(750 * DAY)

    again = LocalAuthority(authority.ca_file.parent, clock)

    assert again.ca_file.read_bytes() != before
    verify(again, again.certificate_for(["verify.localhost"]), x509.DNSName("verify.localhost"), clock)


def test_the_authority_s_key_is_private(authority):
    folder = authority.ca_file.parent

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "authority.key").stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["authority.key", "authority.crt"])
def test_a_damaged_authority_is_reported_and_not_replaced(authority, clock, name):
    (authority.ca_file.parent / name).write_text("garbage")

    with pytest.raises(DataCorruptedError):
        LocalAuthority(authority.ca_file.parent, clock)


def test_a_key_of_another_authority_is_reported(authority, clock, tmp_path):
    other = LocalAuthority(tmp_path / "other", clock)
    (authority.ca_file.parent / "authority.key").write_bytes((other.ca_file.parent / "authority.key").read_bytes())

    with pytest.raises(DataCorruptedError):
        LocalAuthority(authority.ca_file.parent, clock)


def test_half_an_authority_is_made_whole(authority, clock):
    """A start that was killed between the two files must not need a hand."""
    authority.ca_file.unlink()

    again = LocalAuthority(authority.ca_file.parent, clock)

    verify(again, again.certificate_for(["verify.localhost"]), x509.DNSName("verify.localhost"), clock)
