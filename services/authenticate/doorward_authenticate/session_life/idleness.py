"""Whether anybody has used a session lately, as authorizers have written it down."""

from typing import Protocol

from doorward.errors import NotFoundError
from doorward.identity.activity import RECORD_TYPE, Activity
from doorward.identity.session import Session
from doorward.records.record import Record


class ActivityRecords(Protocol):
    """The databroker, as far as this needs it (``doorward.records.client.RecordClient``)."""

    async def get(self, record_type: str, record_id: str) -> Record:
        """The live record."""
        ...


async def is_idle(records: ActivityRecords, session: Session, idle_seconds: float | None, now: float) -> bool:
    """Whether nobody has used ``session`` for ``idle_seconds``. What is written of its use is up to a tenth of that behind.

    Raises:
        DataCorruptedError: what is written of its use cannot be read.
        DoorwardError: it cannot be known now.
    """
    if idle_seconds is None or now < session.issued_at + idle_seconds:
        return False
    try:
        record = await records.get(RECORD_TYPE, session.id)
        return now >= Activity.from_bytes(record.data).seen_at + idle_seconds
    except NotFoundError:
        return True
