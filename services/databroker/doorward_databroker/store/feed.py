"""Feed entries as they stand in the stream."""

from collections.abc import Mapping
from typing import TypeAlias

from doorward.errors import DataCorruptedError
from doorward.records.record import RecordVersion
from doorward_databroker.store.codec import Codec
from doorward_databroker.store.port import FeedEntry

RawEntry: TypeAlias = tuple[bytes, Mapping[bytes, bytes]]
"""Stream id and fields: ``p`` and ``t`` chain tags, ``n`` how many records, then for each ``t<i>`` type, ``i<i>`` id,
``v<i>`` version, ``b<i>`` sealed bytes."""


def position_of(stream_id: bytes) -> RecordVersion:
    """The version that a stream id stands for."""
    epoch, _, number = stream_id.partition(b"-")
    return RecordVersion(int(epoch), int(number))


def entry_of(entry: RawEntry, codec: Codec) -> FeedEntry:
    """The changes in ``entry``.

    Raises:
        DataCorruptedError: it does not open; nothing after it may be delivered as if it had not been there.
    """
    stream_id, fields = entry
    version = position_of(stream_id)
    try:
        records = tuple(
            codec.decode(
                fields[b"t%d" % place].decode(),
                fields[b"i%d" % place].decode(),
                _version(fields[b"v%d" % place]),
                fields[b"b%d" % place],
            )
            for place in range(int(fields[b"n"]))
        )
    except (KeyError, ValueError, UnicodeDecodeError) as error:
        raise DataCorruptedError(f"the feed entry at `{version}` cannot be read") from error
    if not records or records[-1].version != version:
        raise DataCorruptedError(f"the feed entry at `{version}` is not what its id says")
    return FeedEntry(version, records)


def _version(text: bytes) -> RecordVersion:
    epoch, _, number = text.partition(b".")
    return RecordVersion(int(epoch), int(number))
