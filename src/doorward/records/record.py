"""A record as a value."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from google.protobuf.timestamp_pb2 import Timestamp

from doorward.api.databroker.v1 import databroker_pb2


@dataclass(frozen=True, slots=True, order=True)
class RecordVersion:
    """A position in the deployment's one change feed; orders by epoch, then number. Never used twice."""

    epoch: int
    number: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.number}"


NO_VERSION = RecordVersion(0, 0)
"""Before everything; also the version of records outside the feed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record, or its tombstone. Times are seconds since the Unix epoch."""

    type: str
    id: str
    version: RecordVersion = NO_VERSION
    data: bytes = b""
    modified_at: float = 0.0
    expires_at: float | None = None
    deleted: bool = False
    indexes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What it is found under, by declared index; a member of many groups has many values."""

    def is_live(self, now: float) -> bool:
        """Whether it counts at ``now``: neither deleted nor expired."""
        return not self.deleted and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True)
class Damaged:
    """A stored record that does not open. It is reported, and never taken for absent."""

    type: str
    id: str
    version: RecordVersion
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One write of a batch, with what it expects of the stored state."""

    record: Record
    expected: RecordVersion | None = None
    """The stored version; ``None`` expects nothing."""
    absent: bool = False
    """No live record may be stored: create only."""


@dataclass(frozen=True, slots=True)
class Fence:
    """Binds writes to one taking of a lease; they are refused once somebody has taken it since."""

    lease: str
    holder: str
    number: int


def version_message(version: RecordVersion) -> databroker_pb2.Version:
    """``version`` on the wire."""
    return databroker_pb2.Version(epoch=version.epoch, number=version.number)


def version_of(message: databroker_pb2.Version) -> RecordVersion:
    """``message`` as a value."""
    return RecordVersion(message.epoch, message.number)


def record_message(record: Record) -> databroker_pb2.Record:
    """``record`` on the wire."""
    version = record.version
    message = databroker_pb2.Record(
        type=record.type,
        id=record.id,
        version=databroker_pb2.Version(epoch=version.epoch, number=version.number),
        data=record.data,
        deleted=record.deleted,
    )
    for name, values in record.indexes.items():
        message.indexes[name].values.extend(values)
    if record.modified_at:
        _set(message.modified_at, record.modified_at)
    if record.expires_at is not None:
        _set(message.expires_at, record.expires_at)
    return message


def record_of(message: databroker_pb2.Record) -> Record:
    """``message`` as a value."""
    indexes = message.indexes
    return Record(
        type=message.type,
        id=message.id,
        version=version_of(message.version) if message.HasField("version") else NO_VERSION,
        data=message.data,
        modified_at=_seconds(message.modified_at) if message.HasField("modified_at") else 0.0,
        expires_at=_seconds(message.expires_at) if message.HasField("expires_at") else None,
        deleted=message.deleted,
        indexes={name: tuple(indexes[name].values) for name in indexes} if indexes else {},
    )


def _set(stamp: Timestamp, seconds: float) -> None:
    nanoseconds = int(seconds * 1e9)
    stamp.seconds, stamp.nanos = divmod(nanoseconds, 1_000_000_000)


def _seconds(stamp: Timestamp) -> float:
    return float(stamp.seconds + stamp.nanos * 1e-9)


def damaged_message(damaged: Damaged) -> databroker_pb2.DamagedRecord:
    """``damaged`` on the wire."""
    return databroker_pb2.DamagedRecord(
        type=damaged.type, id=damaged.id, version=version_message(damaged.version), reason=damaged.reason
    )


def damaged_of(message: databroker_pb2.DamagedRecord) -> Damaged:
    """``message`` as a value."""
    return Damaged(message.type, message.id, version_of(message.version), message.reason)
