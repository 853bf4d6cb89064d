"""Feed entries as they stand in the stream."""

from collections.abc import Mapping
from typing import TypeAlias

from doorward.errors import DataCorruptedError, WatchExpiredError
from doorward.records.record import NO_VERSION, Damaged, Record, RecordVersion
from doorward_databroker.store.codec import Codec, decode
from doorward_databroker.store.port import FeedEntry, Position

RawEntry: TypeAlias = tuple[bytes, Mapping[bytes, bytes]]
"""Stream id and fields: ``p`` and ``t`` chain tags, ``m`` when (ms), ``n`` how many records, then for each ``t<i>`` type,
``i<i>`` id, ``v<i>`` version, ``b<i>`` sealed bytes."""


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


def entry_of(entry: RawEntry, codec: Codec) -> FeedEntry:
    """The changes in ``entry``. A record in it that does not open is told as damaged, and the others are still delivered.

    Raises:
        DataCorruptedError: not even its shape can be read.
    """
    stream_id, fields = entry
    version = position_of(stream_id)
    records: list[Record] = []
    damaged: list[Damaged] = []
    last = None
    try:
        for place in range(int(fields[b"n"])):
            record_type = fields[b"t%d" % place].decode()
            record_id = fields[b"i%d" % place].decode()
            last = version_from(fields[b"v%d" % place])
            try:
                records.append(decode(codec, record_type, record_id, last, fields[b"b%d" % place]))
            except DataCorruptedError as error:
                damaged.append(Damaged(record_type, record_id, last, str(error)))
        tag = fields[b"t"]
    except (KeyError, ValueError, UnicodeDecodeError) as error:
        raise DataCorruptedError(f"the feed entry at `{version}` cannot be read") from error
    if last != version:
        raise DataCorruptedError(f"the feed entry at `{version}` is not what its id says")
    return FeedEntry(version, tuple(records), tag, tuple(damaged))


def chained(entries: list[RawEntry], after: Position, codec: Codec) -> list[FeedEntry]:
    """The entries, provided that each continues the chain from the one before it.

    Raises:
        WatchExpiredError: they do not continue from ``after``.
    """
    tag = after.tag
    found = []
    for entry in entries:
        if tag and entry[1].get(b"p") != tag:
            raise WatchExpiredError(f"the history after `{after.version}` is another one")
        found.append(entry_of(entry, codec))
        tag = found[-1].tag
    return found
