"""The last decisions, kept with what they were made of, so that an id that was handed out can be explained.

What was refused before any policy was asked has little to keep, and may be much at once (nobody can be let in while the data are stale).
It has room of its own, so that it drives no other decision out.
"""

from collections import OrderedDict
from dataclasses import dataclass, replace

from doorward.errors import DataCorruptedError
from doorward.policy import Decision, Effect, Facts, PrincipalFacts, RequestFacts
from doorward_authorize.check_request import CheckParser
from doorward_authorize.outcome import Outcome, Verdict
from doorward_authorize.snapshot import CompiledRoute

LIMIT_BYTES = 64 * 1024 * 1024
_UNASKED_PART = 16
"""One part in so many is for decisions that no policy made."""
_FIXED_BYTES = 600
"""What an entry costs besides its texts; measured generously."""
_HEADER_BYTES = 200


@dataclass(slots=True)
class HeldDecision:
    """A decision and its inputs; not frozen, because one is made for each check. The request is kept as it came and read when asked for."""

    id: str
    data: bytes | RequestFacts
    """The serialized CheckRequest; or what policy saw, where that is not all of it, or there was none."""
    route: CompiledRoute | None
    principal: PrincipalFacts | None
    decision: Decision
    generation: str
    now: float
    by_policy: bool = True
    """Whether it is a policy's decision. Where it is not, there is nothing to explain but ``decision.reasons``."""

    def facts(self) -> Facts:
        """What the policy saw."""
        request = self.data if isinstance(self.data, RequestFacts) else CheckParser().parse(self.data).facts()
        if request is None:
            raise DataCorruptedError("a request that was decided cannot be read again")
        return Facts(principal=self.principal, request=request, now=self.now)


class HeldDecisions:
    """Two rings bounded in bytes, one for what policies decided and one for the rest; the oldest go first."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._by_policy = _Ring(limit_bytes)
        self._unasked = _Ring(limit_bytes // _UNASKED_PART)

    def add(self, held: HeldDecision) -> None:
        """Keep one more."""
        (self._by_policy if held.by_policy else self._unasked).add(held)

    def refuse(self, decision_id: str, reason: str) -> None:
        """Nobody was told this decision: from now on its id stands for a refusal. A no-op when it is no longer held."""
        held = self._by_policy.pop(decision_id) or self._unasked.pop(decision_id)
        if held is not None:
            refusal = Decision(effect=Effect.DENY, reasons=(reason,))
            self.add(replace(held, data=b"", principal=None, decision=refusal, by_policy=False))

    def get(self, decision_id: str) -> HeldDecision | None:
        """The decision with this id while it is held."""
        return self._by_policy.held.get(decision_id) or self._unasked.held.get(decision_id)

    def __len__(self) -> int:
        return len(self._by_policy.held) + len(self._unasked.held)


class _Ring:
    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self.held: OrderedDict[str, HeldDecision] = OrderedDict()
        self._bytes = 0

    def add(self, held: HeldDecision) -> None:
        self.held[held.id] = held
        self._bytes += _size(held)
        while self._bytes > self._limit:
            _, dropped = self.held.popitem(last=False)
            self._bytes -= _size(dropped)

    def pop(self, decision_id: str) -> HeldDecision | None:
        held = self.held.pop(decision_id, None)
        if held is not None:
            self._bytes -= _size(held)
        return held


def held_as(
    decision_id: str, data: bytes | RequestFacts, outcome: Outcome, generation: str, now: float
) -> HeldDecision:
    """What became of a request, as it is held; ``data`` is what there is to explain, where a policy was asked."""
    if outcome.decision is not None and outcome.route is not None:
        principal = outcome.principal.facts if outcome.principal is not None else None
        return HeldDecision(decision_id, data, outcome.route, principal, outcome.decision, generation, now)
    effect = Effect.ALLOW if outcome.verdict is Verdict.ALLOW else Effect.DENY
    decision = Decision(effect=effect, reasons=outcome.reasons)
    return HeldDecision(decision_id, b"", outcome.route, None, decision, generation, now, by_policy=False)


def _size(held: HeldDecision) -> int:
    data = held.data
    if isinstance(data, bytes):
        return len(data) + _FIXED_BYTES
    texts = len(data.raw_path) + len(data.path) + len(data.query)
    headers = sum(_HEADER_BYTES + len(name) + sum(map(len, values)) for name, values in data.headers.items())
    return texts + headers + _FIXED_BYTES
