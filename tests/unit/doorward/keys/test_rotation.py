"""A key changes in steps, nothing made with the old one is lost before its time, and running planes follow their files."""

import json
from pathlib import Path

import pytest

from doorward.errors import ConfigurationError, DataCorruptedError, InvalidTokenError
from doorward.keys import rotation
from doorward.keys.assertion import public_id
from doorward.keys.keyring import Key
from doorward.keys.rotation import ENDS, read_state
from doorward.keys.sealed import Sealer
from doorward.keys.store import HOLDERS, KeyStore, Purpose, create_missing_keys

PURPOSE = Purpose.SESSION_HANDLE
NOW = 1_800_000_000.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    create_missing_keys(tmp_path)
    return tmp_path


def test_what_was_sealed_stays_open_through_a_whole_rotation_until_it_is_retired(folder: Path):
    store = KeyStore(folder)
    sealer = Sealer(store.keyring(PURPOSE))
    first = sealer.seal(b"old", b"")
    old = store.ids[PURPOSE][0]
    new = rotation.add(folder, PURPOSE, NOW)
    assert rotation.add(folder, PURPOSE, NOW) == new
    assert store.look() == [PURPOSE]
    assert store.ids[PURPOSE] == [old, new]
    assert sealer.seal(b"x", b"")[1:5].hex() == old
    assert rotation.promote(folder, PURPOSE, NOW) == new
    assert store.look() == [PURPOSE]
    second = sealer.seal(b"new", b"")
    assert second[1:5].hex() == new
    assert sealer.open(first, b"") == b"old"
    assert rotation.retire(folder, PURPOSE, NOW) == [old]
    store.look()
    assert sealer.open(second, b"") == b"new"
    with pytest.raises(InvalidTokenError):
        sealer.open(first, b"")
    assert store.look() == []


def test_a_plane_that_is_behind_opens_what_another_seals_with_the_new_key(folder: Path):
    """Between two looks at the files planes differ by one step."""
    behind, ahead = KeyStore(folder), KeyStore(folder)
    slow, fast = Sealer(behind.keyring(PURPOSE)), Sealer(ahead.keyring(PURPOSE))
    for step in (rotation.add, rotation.promote):
        step(folder, PURPOSE, NOW)
        ahead.look()
        assert slow.open(fast.seal(b"x", b""), b"") == b"x"
        assert fast.open(slow.seal(b"y", b""), b"") == b"y"
        behind.look()


def test_a_revoked_key_opens_nothing_at_once_and_the_last_one_is_replaced(folder: Path):
    store = KeyStore(folder)
    sealer = Sealer(store.keyring(PURPOSE))
    token, old = sealer.seal(b"x", b""), store.ids[PURPOSE][0]
    rotation.revoke(folder, PURPOSE, old, NOW)
    store.look()
    assert old not in store.ids[PURPOSE]
    with pytest.raises(InvalidTokenError):
        sealer.open(token, b"")
    sealer.open(sealer.seal(b"y", b""), b"")
    with pytest.raises(ConfigurationError, match="no key `00000000`"):
        rotation.revoke(folder, PURPOSE, "00000000", NOW)


def test_steps_that_are_not_due_are_refused(folder: Path):
    with pytest.raises(ConfigurationError, match="no key waits"):
        rotation.promote(folder, PURPOSE, NOW)
    assert rotation.retire(folder, PURPOSE, NOW) == []
    rotation.add(folder, PURPOSE, NOW)
    assert rotation.retire(folder, PURPOSE, NOW) == []
    assert read_state(folder, PURPOSE).next_id is not None


def test_bad_files_change_nothing_that_is_held(folder: Path):
    store = KeyStore(folder)
    keyring = store.keyring(PURPOSE)
    before = keyring.ids
    path = folder / f"{PURPOSE}.json"
    good = path.read_text()
    for text in ("", "{}", json.dumps({"purpose": "flow", "keys": ["00" * 32]}), good[:-20]):
        path.write_text(text)
        with pytest.raises(DataCorruptedError):
            store.look()
        assert keyring.ids == before
    path.unlink()
    with pytest.raises(ConfigurationError):
        store.look()
    assert keyring.ids == before


def test_a_bad_file_keeps_no_other_key_from_being_revoked(folder: Path):
    store = KeyStore(folder)
    store.keyring(Purpose.FLOW)
    revoked = store.keyring(Purpose.SERVICE_ACCOUNT).ids[0]
    (folder / f"{Purpose.FLOW}.json").write_text("{")
    rotation.revoke(folder, Purpose.SERVICE_ACCOUNT, revoked, NOW)
    with pytest.raises(DataCorruptedError):
        store.look()
    assert revoked not in store.ids[Purpose.SERVICE_ACCOUNT]


def test_every_purpose_says_what_its_loss_ends_and_is_held_by_somebody():
    assert set(ENDS) == set(Purpose)
    assert {purpose for purposes in HOLDERS.values() for purpose in purposes} == set(Purpose)


def test_a_key_for_assertions_is_published_before_it_signs_and_as_long_as_what_it_signed_lives(folder: Path):
    signing, publishing = KeyStore(folder), KeyStore(folder)
    keyring, published = signing.keyring(Purpose.ASSERTION), publishing.published()
    [old] = published.ids
    new = rotation.add(folder, Purpose.ASSERTION, NOW)
    assert rotation.read_state(folder, Purpose.ASSERTION).seconds_left(NOW + 299) > 0
    assert rotation.read_state(folder, Purpose.ASSERTION).seconds_left(NOW + 361) < 0
    assert publishing.look() == ["assertion.jwks.json"]
    assert published.ids == publishing.ids["assertion"] == [old, public_id(signing_key(folder, new))]
    assert signing.look() == ["assertion"]
    assert public_id(keyring.primary) == old
    rotation.promote(folder, Purpose.ASSERTION, NOW + 400)
    signing.look()
    publishing.look()
    assert keyring.primary.id.hex() == new
    assert set(published.ids) == {old, public_id(keyring.primary)}
    assert rotation.read_state(folder, Purpose.ASSERTION).seconds_left(NOW + 400 + 300) > 0
    assert rotation.read_state(folder, Purpose.ASSERTION).seconds_left(NOW + 400 + 361) < 0
    rotation.retire(folder, Purpose.ASSERTION, NOW + 800)
    publishing.look()
    assert published.ids == [public_id(signing_key(folder, new))]
    assert rotation.read_state(folder, Purpose.ASSERTION).seconds_left(NOW) == 0


def signing_key(folder: Path, key_id: str) -> Key:
    return KeyStore(folder).keyring(Purpose.ASSERTION).find(bytes.fromhex(key_id))


def test_a_revoked_key_for_assertions_is_published_no_more_and_the_next_one_is(folder: Path):
    publishing = KeyStore(folder)
    published = publishing.published()
    [old] = published.ids
    rotation.revoke(folder, Purpose.ASSERTION, KeyStore(folder).keyring(Purpose.ASSERTION).ids[0], NOW)
    publishing.look()
    assert published.ids == [public_id(KeyStore(folder).keyring(Purpose.ASSERTION).primary)] != [old]


def test_a_key_that_waited_and_must_sign_after_all_waits_no_more(folder: Path):
    new = rotation.add(folder, PURPOSE, NOW)
    rotation.revoke(folder, PURPOSE, read_state(folder, PURPOSE).ids[0], NOW)
    assert (read_state(folder, PURPOSE).ids, read_state(folder, PURPOSE).next_id) == ([new], None)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"keys": []}', '{"keys": [{}]}', '{"keys": 7}', "[" * 10_000])
def test_a_damaged_set_of_public_keys_is_reported_and_what_is_published_stays(folder: Path, text: str):
    store = KeyStore(folder)
    before = list(store.published().ids)
    (folder / "assertion.jwks.json").write_text(text)
    with pytest.raises(DataCorruptedError, match="public keys"):
        store.look()
    assert store.published().ids == before


def test_a_private_half_is_never_published(folder: Path):
    document = json.loads((folder / "assertion.jwks.json").read_text())
    document["keys"][0]["d"] = document["keys"][0]["x"]
    (folder / "assertion.jwks.json").write_text(json.dumps(document))
    with pytest.raises(DataCorruptedError):
        KeyStore(folder).published()


@pytest.mark.parametrize("number", ["00" * 32, "ff" * 32])
def test_a_number_that_is_no_key_on_the_curve_is_reported(folder: Path, number: str):
    path = folder / "assertion.json"
    path.write_text(json.dumps({"purpose": "assertion", "keys": [number]}))
    with pytest.raises(DataCorruptedError, match="can sign assertions"):
        KeyStore(folder).keyring(Purpose.ASSERTION)
