"""The last decisions, kept with what they were made of, so that an id on a denial page can be explained."""

from collections import OrderedDict
from dataclasses import dataclass

from doorward.errors import DataCorruptedError
from doorward.policy import Decision, Facts, PrincipalFacts, RequestFacts
from doorward_authorize.check_request import CheckParser
from doorward_authorize.snapshot import CompiledRoute

LIMIT_BYTES = 64 * 1024 * 1024
_FIXED_BYTES = 600
"""What an entry costs besides its texts; measured generously."""
_HEADER_BYTES = 200


@dataclass(slots=True)
class HeldDecision:
    """A decision and its inputs; not frozen, because one is made for each check. The request is kept as it came and read when asked for."""

    id: str
    data: bytes | RequestFacts
    """The serialized CheckRequest; or what policy saw, where that is not all of it, or there was none."""
    route: CompiledRoute
    principal: PrincipalFacts | None
    decision: Decision
    generation: str
    now: float

    def facts(self) -> Facts:
        """What the policy saw."""
        request = self.data if isinstance(self.data, RequestFacts) else CheckParser().parse(self.data).facts()
        if request is None:
            raise DataCorruptedError("a request that was decided cannot be read again")
        return Facts(principal=self.principal, request=request, now=self.now)


class HeldDecisions:
    """A ring bounded in bytes; the oldest go first."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit = limit_bytes
        self._held: OrderedDict[str, HeldDecision] = OrderedDict()
        self._bytes = 0

    def add(self, held: HeldDecision) -> None:
        """Keep one more."""
        self._held[held.id] = held
        self._bytes += _size(held)
        while self._bytes > self._limit:
            _, dropped = self._held.popitem(last=False)
            self._bytes -= _size(dropped)

    def get(self, decision_id: str) -> HeldDecision | None:
        """The decision with this id while it is held."""
        return self._held.get(decision_id)

    def __len__(self) -> int:
        return len(self._held)


def _size(held: HeldDecision) -> int:
    data = held.data
    if isinstance(data, bytes):
        return len(data) + _FIXED_BYTES
    texts = len(data.raw_path) + len(data.path) + len(data.query)
    headers = sum(_HEADER_BYTES + len(name) + sum(map(len, values)) for name, values in data.headers.items())
    return texts + headers + _FIXED_BYTES
