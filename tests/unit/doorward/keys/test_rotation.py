"""A key changes in steps, nothing made with the old one is lost before its time, and running planes follow their files."""

import json
from pathlib import Path

import pytest

from doorward.errors import ConfigurationError, DataCorruptedError, InvalidTokenError
from doorward.keys import rotation
from doorward.keys.rotation import ENDS, read_state
from doorward.keys.sealed import Sealer
from doorward.keys.store import HOLDERS, KeyStore, Purpose, create_missing_keys

PURPOSE = Purpose.SESSION_HANDLE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    create_missing_keys(tmp_path)
    return tmp_path


def test_what_was_sealed_stays_open_through_a_whole_rotation_until_it_is_retired(folder: Path):
    store = KeyStore(folder)
    sealer = Sealer(store.keyring(PURPOSE))
    first = sealer.seal(b"old", b"")
    old = store.ids[PURPOSE][0]
    new = rotation.add(folder, PURPOSE)
    assert rotation.add(folder, PURPOSE) == new
    assert store.look() == [PURPOSE]
    assert store.ids[PURPOSE] == [old, new]
    assert sealer.seal(b"x", b"")[1:5].hex() == old
    assert rotation.promote(folder, PURPOSE) == new
    assert store.look() == [PURPOSE]
    second = sealer.seal(b"new", b"")
    assert second[1:5].hex() == new
    assert sealer.open(first, b"") == b"old"
    assert rotation.retire(folder, PURPOSE) == [old]
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
        step(folder, PURPOSE)
        ahead.look()
        assert slow.open(fast.seal(b"x", b""), b"") == b"x"
        assert fast.open(slow.seal(b"y", b""), b"") == b"y"
        behind.look()


def test_a_revoked_key_opens_nothing_at_once_and_the_last_one_is_replaced(folder: Path):
    store = KeyStore(folder)
    sealer = Sealer(store.keyring(PURPOSE))
    token, old = sealer.seal(b"x", b""), store.ids[PURPOSE][0]
    rotation.revoke(folder, PURPOSE, old)
    store.look()
    assert old not in store.ids[PURPOSE]
    with pytest.raises(InvalidTokenError):
        sealer.open(token, b"")
    sealer.open(sealer.seal(b"y", b""), b"")
    with pytest.raises(ConfigurationError, match="no key `00000000`"):
        rotation.revoke(folder, PURPOSE, "00000000")


def test_steps_that_are_not_due_are_refused(folder: Path):
    with pytest.raises(ConfigurationError, match="no key waits"):
        rotation.promote(folder, PURPOSE)
    assert rotation.retire(folder, PURPOSE) == []
    rotation.add(folder, PURPOSE)
    assert rotation.retire(folder, PURPOSE) == []
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
    rotation.revoke(folder, Purpose.SERVICE_ACCOUNT, revoked)
    with pytest.raises(DataCorruptedError):
        store.look()
    assert revoked not in store.ids[Purpose.SERVICE_ACCOUNT]


def test_every_purpose_says_what_its_loss_ends_and_is_held_by_somebody():
    assert set(ENDS) == set(Purpose)
    assert {purpose for purposes in HOLDERS.values() for purpose in purposes} == set(Purpose)
