import json
import stat

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from doorward.errors import ConfigurationError, DataCorruptedError
from doorward.keys.store import (
    ASSERTION_JWKS_FILE,
    ASSERTION_KEY_FILE,
    KeyStore,
    Purpose,
    create_missing_keys,
    jwk_thumbprint,
    public_jwks,
)


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
    private = load_pem_private_key(store.assertion_key_pem().encode(), None)
    [jwk] = json.loads(store.assertion_jwks())["keys"]

    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert json.loads(public_jwks(private))["keys"] == [jwk]
    assert (jwk["kty"], jwk["crv"], jwk["alg"], jwk["use"]) == ("EC", "P-256", "ES256", "sig")
    assert "d" not in jwk


def test_a_lost_public_half_is_made_again_from_the_private_one(folder):
    before = (folder / ASSERTION_JWKS_FILE).read_text()
    (folder / ASSERTION_JWKS_FILE).unlink()

    assert create_missing_keys(folder) == [ASSERTION_JWKS_FILE]
    assert (folder / ASSERTION_JWKS_FILE).read_text() == before


def test_an_assertion_key_of_another_kind_is_reported(folder):
    other = rsa.generate_private_key(65537, 2048)
    (folder / ASSERTION_KEY_FILE).write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / ASSERTION_JWKS_FILE).unlink()

    with pytest.raises(DataCorruptedError):
        create_missing_keys(folder)


def test_the_thumbprint_is_that_of_rfc_7638():
    """Checked against joserfc, which has its own implementation."""
    from joserfc.jwk import ECKey

    private = ec.generate_private_key(ec.SECP256R1())
    [jwk] = json.loads(public_jwks(private))["keys"]

    assert ECKey.import_key({name: jwk[name] for name in ("kty", "crv", "x", "y")}).thumbprint() == jwk["kid"]
    assert jwk_thumbprint({name: jwk[name] for name in ("crv", "kty", "x", "y")}) == jwk["kid"]
