"""What is believed of a feed entry that does not open, by what its proof says of the names in it."""

from collections.abc import Sequence

import pytest
from tests.support.key_material import keyring

from doorward.errors import WatchExpiredError
from doorward.keys.store import Purpose
from doorward.records.record import Record, RecordVersion
from doorward_databroker.store.codec import SealedCodec
from doorward_databroker.store.feed import entry_of, names_in

AFTER = RecordVersion(3, 7)
NAMES = (("Session", "a"), ("SessionTokens", "a"), ("User", "u"))


def codec(*keys: str) -> SealedCodec:
    return SealedCodec(keyring(Purpose.RECORDS, *keys))


def written(by: SealedCodec, names: Sequence[tuple[str, str]] = NAMES) -> dict[bytes, bytes]:
    """The fields of a put of ``names`` after ``AFTER``, as the script leaves them."""
    fields = {b"p": b"before", b"t": b"tag", b"s": by.attest(names_in(AFTER, names))}
    for place, (kind, name) in enumerate(names):
        record = Record(type=kind, id=name, version=RecordVersion(3, 8 + place), deleted=True)
        fields |= {b"t%d" % place: kind.encode(), b"i%d" % place: name.encode(), b"b%d" % place: by.encode(record)}
    return fields


@pytest.mark.parametrize("held", [("old",), ("older", "old"), ("new", "old")])
def test_records_under_a_key_that_is_not_held_are_named_where_any_key_is_shared(held: tuple[str, ...]):
    """A rotation that has not reached everybody must not take down every type."""
    reader, entry = codec(*held), (b"3-10", written(codec("newest", "old")))
    found = entry_of(entry, AFTER, reader)
    assert [(one.type, one.id, one.version.number) for one in found.damaged] == [
        ("Session", "a", 8),
        ("SessionTokens", "a", 9),
        ("User", "u", 10),
    ]
    assert not found.records
    assert not found.unreadable


def test_nothing_is_believed_where_no_key_is_shared():
    with pytest.raises(WatchExpiredError, match="nobody vouches"):
        entry_of((b"3-10", written(codec("new"))), AFTER, codec("old"))


def test_what_opens_needs_no_proof():
    """As an older version writes it, which knows of none."""
    fields = written(codec("new"))
    del fields[b"s"]
    assert [(one.type, one.id) for one in entry_of((b"3-10", fields), AFTER, codec("new")).records] == list(NAMES)


SPOILED = {b"b0": b"spoiled"}


@pytest.mark.parametrize(
    "change",
    [
        {b"t0": b"User"},
        {b"i0": b"b"},
        {b"t2": b"Grant"},
        {b"i2": b"v"},
        {b"i0": b"a\0SessionTokens"},
        {b"s": b""},
        {b"s": codec("new").attest(names_in(RecordVersion(3, 6), NAMES))},
        {b"s": codec("new").attest(names_in(RecordVersion(2, 7), NAMES))},
        {b"s": codec("other").attest(names_in(AFTER, NAMES))},
        {b"s": codec("new").attest(names_in(AFTER, NAMES))[:-1]},
    ],
)
def test_names_beside_what_does_not_open_are_believed_only_with_their_proof(change: dict[bytes, bytes]):
    """Otherwise whoever can write to the store, and holds no key, would hide a sign-out behind another record."""
    fields = written(codec("new")) | SPOILED
    found = entry_of((b"3-10", fields), AFTER, codec("new"))
    assert (found.unreadable, len(found.records)) == ({"Session"}, 2)
    assert [(one.type, one.id, one.version) for one in found.spoiled] == [("Session", "a", RecordVersion(3, 8))]
    with pytest.raises(WatchExpiredError, match="nobody vouches"):
        entry_of((b"3-10", fields | change), AFTER, codec("new"))


def test_two_names_are_never_taken_for_one():
    fields = written(codec("new"), NAMES[:2]) | SPOILED
    joined = {b"i0": b"a\0SessionTokens\0a"}
    for place in (b"t1", b"i1", b"b1"):
        del fields[place]
    with pytest.raises(WatchExpiredError, match="nobody vouches"):
        entry_of((b"3-8", fields | joined), AFTER, codec("new"))


def test_a_proof_holds_for_the_keys_of_the_moment():
    keys = keyring(Purpose.RECORDS, "old")
    reader, writer = SealedCodec(keys), codec("new", "newer")
    proof = writer.attest(b"x")
    assert not reader.is_attested(b"x", proof)
    keys.take_over(keyring(Purpose.RECORDS, "newer"))
    assert reader.is_attested(b"x", proof)
    assert not reader.is_attested(b"y", proof)
