"""Which grants somebody has. The replica holds them by id; here they are found by whose they are.

A grant names a kind; on which routes that counts, and for how long at the most, the configuration says as it stands now. One of
a kind that is no longer configured counts nowhere.

Concurrency: belongs to one event loop; ``on_record`` must hear of every change.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import structlog

from doorward.config.settings import GrantKind
from doorward.errors import DataCorruptedError
from doorward.identity.grant import RECORD_TYPE, Grant, holder_of
from doorward.policy import GrantFacts

GrantsMark: TypeAlias = tuple[bytes | None, ...]
"""What somebody's grants were read from."""
Get: TypeAlias = Callable[[str, str], bytes | None]
_UNKNOWN: GrantsMark = (b"",)

_log = structlog.stdlib.get_logger(__name__)


class Grants:
    """Answers from the replica."""

    def __init__(self, get: Get, knows: Callable[[str], bool] = lambda _: True) -> None:
        """``get`` finds the payload of a live record by type and id; ``knows`` says whether there are records of a type at all."""
        self._get = get
        self._knows = knows
        self._ids: dict[str, tuple[str, ...]] = {}
        """Ids of grants by whose they are; those that have ended meanwhile may be among them."""

    def on_record(self, record_type: str, record_id: str) -> None:
        """A record has changed."""
        if record_type != RECORD_TYPE:
            return
        holder = holder_of(record_id)
        others = [known for known in self._ids.get(holder, ()) if known != record_id]
        if self._get(RECORD_TYPE, record_id) is not None:
            others.append(record_id)
        if others:
            self._ids[holder] = tuple(sorted(others))
        else:
            self._ids.pop(holder, None)

    def mark(self, user_id: str) -> GrantsMark:
        """What the grants of ``user_id`` would be read from."""
        if not self._knows(RECORD_TYPE):
            return _UNKNOWN
        ids = self._ids.get(user_id)
        return () if ids is None else tuple(self._get(RECORD_TYPE, record_id) for record_id in ids)

    def of(self, user_id: str, kinds: Sequence[GrantKind]) -> tuple[GrantFacts, ...] | None:
        """The grants of ``user_id``, those that have not begun yet included; ``None`` when nobody tells us of all of them."""
        if not self._knows(RECORD_TYPE):
            return None
        found = []
        by_name = {kind.name: kind for kind in kinds}
        for data in self.mark(user_id):
            if data is None:
                continue
            try:
                grant = Grant.from_bytes(data)
            except DataCorruptedError as error:
                # A policy may also ask for there being none.
                _log.error("a grant cannot be read, so its holder's are unknown", user_id=user_id, error=str(error))
                return None
            kind = by_name.get(grant.name)
            if kind is None or grant.user_id != user_id:
                continue
            ends_at = min(grant.ends_at, grant.starts_at + kind.longest_seconds)
            found.append(GrantFacts(name=grant.name, routes=kind.routes, starts_at=grant.starts_at, ends_at=ends_at))
        return tuple(found)
