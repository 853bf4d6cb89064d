"""The last decisions, kept with what they were made of, so that an id on a denial page can be explained."""

from collections import OrderedDict
from dataclasses import dataclass

from doorward.policy import CompiledPolicy, Decision, Facts

LIMIT_BYTES = 64 * 1024 * 1024
_FIXED_BYTES = 1_200
"""What an entry costs besides its texts; measured generously."""


@dataclass(frozen=True, slots=True)
class HeldDecision:
    """A decision and its inputs."""

    id: str
    route: str
    generation: str
    decision: Decision
    policy: CompiledPolicy
    facts: Facts


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
    request = held.facts.request
    headers = sum(len(name) + sum(map(len, values)) + 100 for name, values in request.headers.items())
    return _FIXED_BYTES + len(request.raw_path) + len(request.query) + headers
