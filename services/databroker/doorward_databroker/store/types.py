"""The record types: what may be stored at all."""

from dataclasses import dataclass

from doorward.errors import InvalidArgumentError
from doorward.records.record import Record

DATA_LIMIT_BYTES = 1024 * 1024
ID_LIMIT_BYTES = 256


@dataclass(frozen=True, slots=True)
class RecordType:
    """One record type."""

    name: str
    in_feed: bool = True
    """Whether changes get a version and reach watchers. What nobody watches stays out."""
    indexes: tuple[str, ...] = ()


RECORD_TYPES: dict[str, RecordType] = {
    kind.name: kind
    for kind in (
        RecordType("Session", indexes=("user_id", "identity_provider_id")),
        RecordType("SessionTokens", indexes=("due",)),
        RecordType("User"),
        RecordType("DirectoryUser"),
        RecordType("DirectoryGroup"),
        RecordType("SpentCode", in_feed=False),
        RecordType("SessionActivity", in_feed=False),
        RecordType("Heartbeat", in_feed=False),
    )
}


def type_of(name: str) -> RecordType:
    """The type called ``name``.

    Raises:
        InvalidArgumentError: there is none.
    """
    found = RECORD_TYPES.get(name)
    if found is None:
        raise InvalidArgumentError(f"unknown record type `{name[:64]}`")
    return found


def check_id(record_id: str) -> None:
    """Accept 1 to 256 bytes of printable ASCII without blanks.

    Raises:
        InvalidArgumentError: anything else.
    """
    if not 0 < len(record_id) <= ID_LIMIT_BYTES or any(not "!" <= character <= "~" for character in record_id):
        raise InvalidArgumentError("a record id is 1 to 256 printable ASCII characters")


def check_record(record: Record) -> None:
    """Accept what may be stored.

    Raises:
        InvalidArgumentError: unknown type, bad id, payload over 1 MiB, or an index that the type does not declare.
    """
    kind = type_of(record.type)
    check_id(record.id)
    if len(record.data) > DATA_LIMIT_BYTES:
        raise InvalidArgumentError(f"a record holds at most {DATA_LIMIT_BYTES} bytes")
    if unknown := set(record.indexes) - set(kind.indexes):
        raise InvalidArgumentError(f"`{record.type}` has no index `{min(unknown)[:64]}`")
    if not kind.in_feed and record.expires_at is None and not record.deleted:
        raise InvalidArgumentError(f"`{record.type}` needs an end")
