"""What other systems say of somebody, from the replica.

A kind of record that was never put, or was put too long ago, is missing: unknown. Of a kind that is known, ``None`` says that
there is no record about this person. Fields are parsed when a policy looks at them, and not before.

Concurrency: belongs to one event loop; ``on_record`` must hear of every change.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import structlog

from doorward.clock import Clock
from doorward.errors import DataCorruptedError
from doorward.identity.external_record import RECORD_TYPE, SOURCE_TYPE, ExternalRecord, ExternalSource
from doorward.identity.user import User
from doorward_authorize.parsed_later import ParsedLater

Get: TypeAlias = Callable[[str, str], bytes | None]
ExternalMark: TypeAlias = tuple[bytes | None, ...]
"""What somebody's records were read from: for each known kind what is known of it, and the record."""

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalWord:
    """What is known of one person."""

    records: Mapping[str, Mapping[str, object] | None] = field(default_factory=dict)
    ids: Mapping[str, str] = field(default_factory=dict)
    """By kind, the id of the record about this person, whether there is one or not."""
    good_until: float = float("inf")
    """When some of it becomes too old, in seconds since the Unix epoch."""


_NOTHING = ExternalWord()


class ExternalRecords:
    """Answers from the replica."""

    def __init__(self, get: Get, clock: Clock) -> None:
        """``get`` finds the payload of a live record by type and id."""
        self._get = get
        self._clock = clock
        self._sources: dict[str, tuple[bytes, ExternalSource]] = {}

    def on_record(self, record_type: str, record_id: str) -> None:
        """A record has changed."""
        if record_type != SOURCE_TYPE:
            return
        data = self._get(SOURCE_TYPE, record_id)
        try:
            source = None if data is None else ExternalSource.from_bytes(record_id, data)
        except DataCorruptedError as error:
            _log.error("a kind of external record cannot be read and is unknown", kind=record_id, error=str(error))
            source = None
        if source is None or data is None:
            self._sources.pop(record_id, None)
        else:
            self._sources[record_id] = data, source

    def mark(self, user: User, trusted_email: str | None) -> ExternalMark:
        """What the word on ``user`` would be read from."""
        if not self._sources:
            return ()
        parts: list[bytes | None] = []
        for kind, (_, source) in self._sources.items():
            record_id = source.record_id(user.issuer, user.subject, trusted_email)
            parts.append(self._get(SOURCE_TYPE, kind))
            parts.append(None if record_id is None else self._get(RECORD_TYPE, record_id))
        return tuple(parts)

    def of(self, user: User, trusted_email: str | None) -> ExternalWord:
        """What is known of ``user`` now."""
        if not self._sources:
            return _NOTHING
        now = self._clock.now()
        records: dict[str, Mapping[str, object] | None] = {}
        ids: dict[str, str] = {}
        good_until = float("inf")
        for kind, (read_from, source) in self._sources.items():
            record_id = source.record_id(user.issuer, user.subject, trusted_email)
            if record_id is None:
                continue  # it does not speak of people like this one
            ids[kind] = record_id
            if now >= source.good_until or self._get(SOURCE_TYPE, kind) != read_from:
                # Too old; or a whole copy was taken anew, and its changes are being told: a record that is missing in it must not be
                # missing by the word of the old one.
                continue
            data = self._get(RECORD_TYPE, record_id)
            records[kind] = None if data is None else ParsedLater(partial(_json_of, data))
            good_until = min(good_until, source.good_until)
        return ExternalWord(records=records, ids=ids, good_until=good_until)


def _json_of(data: bytes) -> bytes:
    return ExternalRecord.from_bytes(data).json
