import json
import stat
from base64 import urlsafe_b64decode

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from doorward.errors import ConfigurationError, DataCorruptedError
from doorward.keys.assertion import jwk_thumbprint, new_pair, pair_of_key, public_jwks
from doorward.keys.store import ASSERTION_JWKS_FILE, KeyStore, Purpose, create_missing_keys


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "keys"
    create_missing_keys(folder)
    return folder


def test_every_purpose_has_a_key_of_its_own(folder):
    store = KeyStore(folder)
    secrets = {store.keyring(purpose).primary.secret.reveal() for purpose in Purpose}

    assert len(secrets) == len(Purpose)
    assert all(len(secret) == 32 for secret in secrets)


def test_only_the_owner_may_read_private_keys(folder):
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.iterdir():
        if path.name != ASSERTION_JWKS_FILE:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name


def test_keys_that_exist_are_kept(folder):
    """New keys at every start would end every session at every start."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    assert create_missing_keys(folder) == []
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_only_what_is_missing_is_made(folder):
    (folder / "flow.json").unlink()

    assert create_missing_keys(folder) == ["flow.json"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_that_others_may_read_is_refused(folder, mode):
    (folder / "flow.json").chmod(mode)

    with pytest.raises(ConfigurationError, match="others may read"):
        KeyStore(folder).keyring(Purpose.FLOW)


def test_a_missing_key_names_the_command(tmp_path):
    with pytest.raises(ConfigurationError, match="doorward keys init"):
        KeyStore(tmp_path).keyring(Purpose.FLOW)


def test_a_key_file_under_another_name_is_refused(folder):
    """Files swapped by hand must not swap what may be made with them."""
    (folder / "session-handle.json").write_text((folder / "flow.json").read_text())

    with pytest.raises(DataCorruptedError):
        KeyStore(folder).keyring(Purpose.SESSION_HANDLE)


def test_a_key_file_that_is_no_text_is_reported_damaged(folder):
    (folder / "flow.json").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(DataCorruptedError):
        KeyStore(folder).keyring(Purpose.FLOW)


def test_the_published_key_is_the_public_half_of_the_signing_key(folder):
    store = KeyStore(folder)
    pair = pair_of_key(store.keyring(Purpose.ASSERTION).primary)
    [jwk] = json.loads(store.published().text)["keys"]
    numbers = pair.public_key().public_numbers()

    assert int.from_bytes(urlsafe_b64decode(jwk["x"] + "="), "big") == numbers.x
    assert int.from_bytes(urlsafe_b64decode(jwk["y"] + "="), "big") == numbers.y
    assert (jwk["kty"], jwk["crv"], jwk["alg"], jwk["use"]) == ("EC", "P-256", "ES256", "sig")
    assert "d" not in jwk


def test_lost_public_halves_are_made_again_from_the_private_ones(folder):
    before = (folder / ASSERTION_JWKS_FILE).read_text()
    (folder / ASSERTION_JWKS_FILE).unlink()

    assert create_missing_keys(folder) == [ASSERTION_JWKS_FILE]
    assert (folder / ASSERTION_JWKS_FILE).read_text() == before


def test_the_key_of_an_earlier_version_goes_on_signing(folder):
    """It lay in a PEM file of its own; upstreams may have kept its public half."""
    pair = ec.generate_private_key(ec.SECP256R1())
    (folder / "assertion.pem").write_bytes(pair.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "assertion.json").unlink()

    assert create_missing_keys(folder) == ["assertion.json"]
    kept = pair_of_key(KeyStore(folder).keyring(Purpose.ASSERTION).primary)
    assert kept.private_numbers() == pair.private_numbers()


@pytest.mark.parametrize(
    "other", [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1()), None]
)
def test_an_earlier_key_of_another_kind_is_reported(folder, other):
    pem = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) if other else b"nothing"
    (folder / "assertion.pem").write_bytes(pem)
    (folder / "assertion.json").unlink()

    with pytest.raises(DataCorruptedError):
        create_missing_keys(folder)


def test_a_proxy_is_given_public_halves_alone(folder):
    store = KeyStore(folder)

    assert sorted(store.files_of("proxy")) == ["assertion.jwks.json", "flow.json"]
    assert ASSERTION_JWKS_FILE not in store.files_of("authorize")


def test_the_thumbprint_is_that_of_rfc_7638():
    """Checked against joserfc, which has its own implementation."""
    from joserfc.jwk import ECKey

    [jwk] = json.loads(public_jwks([new_pair()]))["keys"]

    assert ECKey.import_key({name: jwk[name] for name in ("kty", "crv", "x", "y")}).thumbprint() == jwk["kid"]
    assert jwk_thumbprint({name: jwk[name] for name in ("crv", "kty", "x", "y")}) == jwk["kid"]
