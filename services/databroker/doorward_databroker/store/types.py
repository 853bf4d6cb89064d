"""The record types: what may be stored at all."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from doorward.errors import DataCorruptedError, InvalidArgumentError
from doorward.records.record import Record, Write
from doorward_databroker.store.contents import callings_of_group, groups_of_entry, groups_of_user

DATA_LIMIT_BYTES = 1024 * 1024
ID_LIMIT_BYTES = 256
PUT_LIMIT_BYTES = 16 * 1024 * 1024
"""Of the payloads of one put, which is never split: watchers get it in one message."""
PAGE_BYTES = 8 * 1024 * 1024
"""Of one page, or of one batch of several puts; what is more comes with the next one. A message may hold eight times as much."""
INDEX_VALUE_LIMIT_BYTES = 1024
INDEX_ENTRIES_LIMIT = 10_000
"""Most index entries of one batch; each is a key that the script names."""

END_LIMIT = 253_402_300_799
"""The end of the year 9999; what a server can count a key's end in is not much more."""

_ID = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class RecordType:
    """One record type."""

    name: str
    in_feed: bool = True
    """Whether changes get a version and reach watchers. What nobody watches stays out."""
    indexes: tuple[str, ...] = ()
    """What a record may be found under because whoever writes it says so."""
    read_indexes: Mapping[str, Callable[[bytes], Sequence[str]]] = field(default_factory=dict)
    """What it is found under because its payload says so, with what reads the values out of that."""
    ends_with_history: bool = False
    """Whether its records end when acknowledged writes may have been lost: a lost one may have been a sign-out."""

    @property
    def has_indexes(self) -> bool:
        """Whether its records are under any index."""
        return bool(self.indexes or self.read_indexes)


RECORD_TYPES: dict[str, RecordType] = {
    kind.name: kind
    for kind in (
        RecordType("Session", indexes=("user_id", "identity_provider_id", "provider_session"), ends_with_history=True),
        RecordType("SessionTokens", indexes=("due",), ends_with_history=True),
        RecordType("SessionUpstreamToken", ends_with_history=True),
        RecordType(
            "User",
            indexes=("email", "identity_provider_id", "directory_user"),
            read_indexes={"group": groups_of_user},
        ),
        RecordType("ServiceAccount"),
        RecordType("IssuerKeys"),
        RecordType(
            "DirectoryUser", indexes=("directory_id", "join_value", "email"), read_indexes={"group": groups_of_entry}
        ),
        RecordType("DirectoryGroup", indexes=("directory_id",), read_indexes={"calling": callings_of_group}),
        RecordType("DirectoryState"),
        RecordType("ScimResource"),
        RecordType("Grant", indexes=("user_id",), ends_with_history=True),
        RecordType("ExternalRecord", indexes=("kind",)),
        RecordType("ExternalSource", ends_with_history=True),
        RecordType("SignInStop"),
        RecordType("SpentCode", in_feed=False),
        RecordType("SessionActivity", in_feed=False),
        RecordType("Refusal", in_feed=False),
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
    if not 0 < len(record_id) <= ID_LIMIT_BYTES or _ID.fullmatch(record_id) is None:
        raise InvalidArgumentError("a record id is 1 to 256 printable ASCII characters")


def check_index(record_type: str, index: str) -> None:
    """Accept an index that the type declares.

    Raises:
        InvalidArgumentError: unknown type or index.
    """
    kind = type_of(record_type)
    if index not in kind.indexes and index not in kind.read_indexes:
        raise InvalidArgumentError(f"`{record_type}` has no index `{index[:64]}`")


def read_values(record: Record) -> dict[str, Sequence[str]] | None:
    """What a record is found under by its payload; ``None`` when that cannot be read."""
    try:
        return {index: read(record.data) for index, read in type_of(record.type).read_indexes.items()}
    except DataCorruptedError:
        return None


def check_record(record: Record) -> None:
    """Accept what may be stored.

    Raises:
        InvalidArgumentError: unknown type, bad id, payload over 1 MiB, an end that no clock shows, or an index that the type does
            not declare.
    """
    kind = type_of(record.type)
    check_id(record.id)
    if len(record.data) > DATA_LIMIT_BYTES:
        raise InvalidArgumentError(f"a record holds at most {DATA_LIMIT_BYTES} bytes")
    for index, values in record.indexes.items():
        if index not in kind.indexes:
            raise InvalidArgumentError(f"`{record.type}` has no index `{index[:64]}` that may be named")
        if len(set(values)) != len(values) or any(len(value) > INDEX_VALUE_LIMIT_BYTES for value in values):
            raise InvalidArgumentError(f"the values of `{index}` are different texts of at most 1024 characters")
    if record.expires_at is not None and not 0 <= record.expires_at <= END_LIMIT:
        raise InvalidArgumentError(f"a record ends between 0 and {END_LIMIT} seconds after the Unix epoch")
    if not kind.in_feed and record.expires_at is None and not record.deleted:
        raise InvalidArgumentError(f"`{record.type}` needs an end")
    if not kind.in_feed and record.indexes:
        raise InvalidArgumentError(f"`{record.type}` has no indexes")


def check_batch(writes: Sequence[Write]) -> None:
    """Accept what may be written at once.

    Raises:
        InvalidArgumentError: a record that may not be stored, one named twice, none at all, too many bytes or index entries.
    """
    for write in writes:
        check_record(write.record)
    if not writes:
        raise InvalidArgumentError("a batch holds at least one write")
    if (size := sum(len(write.record.data) for write in writes)) > PUT_LIMIT_BYTES:
        raise InvalidArgumentError(f"a batch holds at most {PUT_LIMIT_BYTES} bytes, and this one has {size}")
    if len({(write.record.type, write.record.id) for write in writes}) != len(writes):
        raise InvalidArgumentError("a batch names a record twice")
    if sum(len(values) for write in writes for values in write.record.indexes.values()) > INDEX_ENTRIES_LIMIT:
        raise InvalidArgumentError(f"a batch holds at most {INDEX_ENTRIES_LIMIT} index entries")
