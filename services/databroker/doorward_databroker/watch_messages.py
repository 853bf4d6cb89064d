"""Changes and snapshots as the messages that watchers get, encoded once for all of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from doorward.api.databroker.v1 import databroker_pb2 as pb
from doorward.records.record import Record, RecordVersion, record_message, version_message
from doorward_databroker.store.port import FeedEntry, Position
from doorward_databroker.store.types import PAGE_BYTES

BATCH_RECORDS = 500
"""In one message."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A ``WatchResponse`` as bytes, the same for every watcher that gets it."""

    data: bytes
    version: RecordVersion


def responses_for(entries: Sequence[FeedEntry], types: frozenset[str], suffix: bytes = b"") -> list[Encoded]:
    """The entries as few messages as the bounds allow; one put is never split. ``suffix`` goes behind each tag."""
    responses: list[Encoded] = []
    pending: list[Record] = []
    size = 0
    last: Position | None = None
    for entry in entries:
        records = [record for record in entry.records if record.type in types]
        more = sum(len(record.data) for record in records)
        if last is not None and pending and (len(pending) + len(records) > BATCH_RECORDS or size + more > PAGE_BYTES):
            responses.append(_batch(pending, last, suffix))
            pending, size = [], 0
        pending += records
        size += more
        last = entry.position
    if last is not None:
        # Also without records: the watcher's version must move on, or it would resume from too far back.
        responses.append(_batch(pending, last, suffix))
    return responses


def _batch(records: Sequence[Record], position: Position, suffix: bytes) -> Encoded:
    batch = pb.WatchResponse.Batch(
        records=[record_message(record) for record in records],
        version=version_message(position.version),
        tag=position.tag + suffix,
    )
    return Encoded(pb.WatchResponse(batch=batch).SerializeToString(), position.version)


def joined(records: Sequence[bytes]) -> bytes:
    """A batch of records that are serialized already: as `Batch.records`, inside `WatchResponse.batch` (both field 1)."""
    body = b"".join(part for record in records for part in (b"\x0a", _varint(len(record)), record))
    return b"\x0a" + _varint(len(body)) + body


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)
