"""Feed entries as they stand in the stream."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from doorward.errors import DataCorruptedError, KeyMissingError, WatchExpiredError
from doorward.records.record import NO_VERSION, Damaged, Record, RecordVersion
from doorward_databroker.store.codec import Codec, decode
from doorward_databroker.store.port import FeedEntry, Position
from doorward_databroker.store.types import RECORD_TYPES

RawEntry: TypeAlias = tuple[bytes, Mapping[bytes, bytes]]
"""Stream id and fields: ``p`` and ``t`` chain tags, ``m`` when (ms), ``n`` how many records, ``s`` a proof of their names, then for each
``t<i>`` type, ``i<i>`` id, ``v<i>`` version, ``b<i>`` sealed bytes."""


def fields_of(raw: Any) -> dict[bytes, bytes]:
    """A stream entry's fields; RESP3 gives them flat to commands that the library does not know the shape of."""
    if isinstance(raw, dict):
        return raw
    return {raw[index]: raw[index + 1] for index in range(0, len(raw), 2)}


def position_of(stream_id: bytes) -> RecordVersion:
    """The version that a stream id stands for."""
    epoch, _, number = stream_id.partition(b"-")
    return RecordVersion(int(epoch), int(number))


def version_from(text: bytes) -> RecordVersion:
    """The version that ``epoch.number`` stands for.

    Raises:
        DataCorruptedError: it is none.
    """
    epoch, _, number = text.partition(b".")
    try:
        return RecordVersion(int(epoch), int(number))
    except ValueError:
        raise DataCorruptedError("a stored version cannot be read") from None


def readable_version(text: bytes) -> RecordVersion:
    """As ``version_from``; ``NO_VERSION``, under which nothing opens, when it cannot be read."""
    try:
        return version_from(text)
    except DataCorruptedError:
        return NO_VERSION


def names_in(after: RecordVersion, names: Sequence[tuple[str, str]]) -> bytes:
    """What is attested of the entry that comes next after ``after``: type and id of each of its records.

    What opens is bound to its name by its own seal; this holds where it does not open.
    """
    return "\0".join((str(after), str(len(names)), *itertools.chain.from_iterable(names))).encode()


def entry_of(entry: RawEntry, after: RecordVersion, codec: Codec) -> FeedEntry:
    """The changes in ``entry``, the next one after ``after``. Versions have no gaps, so how many they are is known.

    A record sealed under a key that is not held is told as damaged. Where one does not open for another reason, its type is told as
    unreadable. Either is believed only of names that are attested: anybody who can write to the store can put others beside bytes that
    do not open. What the entry says of other records is delivered.

    Raises:
        WatchExpiredError: nobody can say of which types it is, or how the chain goes on.
    """
    stream_id, fields = entry
    version = position_of(stream_id)
    tag, count = fields.get(b"t"), version.number - after.number
    kinds = [fields.get(b"t%d" % place, b"").decode(errors="replace") for place in range(min(count, len(fields)))]
    if not tag or version.epoch != after.epoch or len(kinds) != count or b"t%d" % count in fields:
        raise WatchExpiredError(f"the feed entry at `{version}` has lost its shape")
    names = [(kind, fields.get(b"i%d" % place, b"").decode(errors="replace")) for place, kind in enumerate(kinds)]
    are_true: bool | None = None
    records: list[Record] = []
    damaged: list[Damaged] = []
    spoiled: list[Damaged] = []
    for place, (kind, record_id) in enumerate(names):
        its_version = RecordVersion(version.epoch, after.number + place + 1)
        try:
            records.append(decode(codec, kind, record_id, its_version, fields.get(b"b%d" % place, b"")))
        except DataCorruptedError as error:
            if are_true is None:
                are_true = codec.is_attested(names_in(after, names), fields.get(b"s", b""))
            if not are_true:
                raise WatchExpiredError(f"nobody vouches for what the feed entry at `{version}` is about") from error
            known = RECORD_TYPES.get(kind)
            if known is None or not known.in_feed:
                # Nobody watches such a type, and whom the change concerns would not hear of it.
                raise WatchExpiredError(f"the feed entry at `{version}` is of no type that is watched") from error
            if isinstance(error, KeyMissingError):
                damaged.append(Damaged(kind, record_id, its_version, str(error)))
            else:
                spoiled.append(Damaged(kind, record_id, its_version, str(error)))
    unreadable = frozenset(one.type for one in spoiled)
    return FeedEntry(version, tuple(records), tag, tuple(damaged), unreadable, tuple(spoiled))


def chained(entries: list[RawEntry], after: Position, codec: Codec) -> list[FeedEntry]:
    """The entries, provided that each continues the chain from the one before it.

    Raises:
        WatchExpiredError: they do not continue from ``after``.
    """
    found = []
    for entry in entries:
        if after.tag and entry[1].get(b"p") != after.tag:
            raise WatchExpiredError(f"the history after `{after.version}` is another one")
        found.append(entry_of(entry, after.version, codec))
        after = found[-1].position
    return found
