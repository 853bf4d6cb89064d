"""Decisions that programs ask for: counted, held for an explanation and recorded like those that Envoy asks for.

In audit-or-deny mode none is given out before its record is on the disk.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from doorward.clock import Clock
from doorward.policy import RequestFacts
from doorward.records.record import RecordVersion
from doorward_authorize.check_request import CheckedRequest
from doorward_authorize.decision_log import DecisionLog
from doorward_authorize.decision_record import NO_STATUS, DecisionRecord
from doorward_authorize.held_decisions import HeldDecision, HeldDecisions, held_as
from doorward_authorize.metrics import AuthorizeMetrics
from doorward_authorize.outcome import Outcome

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AskedDecision:
    """A decision with its record, which may not be written yet."""

    held: HeldDecision
    record: DecisionRecord


class AskedDecisions:
    """Makes them. Concurrency: belongs to one event loop."""

    def __init__(
        self,
        log: DecisionLog,
        held: HeldDecisions,
        new_id: Callable[[], str],
        data_version: Callable[[], RecordVersion],
        clock: Clock,
        metrics: AuthorizeMetrics,
    ) -> None:
        self._decision_log = log
        self._held = held
        self._new_id = new_id
        self._data_version = data_version
        self._clock = clock
        self._metrics = metrics

    def made(self, facts: RequestFacts, outcome: Outcome, generation: str, gateway: str) -> AskedDecision:
        """``outcome`` with an id, counted and held; ``gateway`` is empty where an operator asks."""
        decision_id, now = self._new_id(), self._clock.now()
        self._metrics.count_decision(outcome.verdict.value)
        held = held_as(decision_id, facts, outcome, generation, now)
        self._held.add(held)
        request = CheckedRequest(
            route_id=facts.route,
            digest="",
            host=facts.host,
            method=facts.method,
            path=facts.raw_path,
            query=facts.query,
            headers=dict(facts.headers),
            cookies=(),
            request_id="",
            client_address=facts.client_address,
            gateway=gateway,
            known_facts=facts,
        )
        record = DecisionRecord(decision_id, now, request, outcome, NO_STATUS, generation, self._data_version())
        return AskedDecision(held, record)

    async def recorded(self, decisions: Sequence[AskedDecision]) -> list[bool]:
        """Whether each may be given out: always, unless records must be on the disk first."""
        if not self._decision_log.audit_or_deny:
            for decision in decisions:
                self._decision_log.add(decision.record)
            return [True] * len(decisions)
        written = await asyncio.gather(*(self._decision_log.add_durably(item.record) for item in decisions))
        lost = written.count(False)
        if lost:
            self._metrics.unrecorded.inc(lost)
            _log.error("decisions could not be recorded and were not given out", count=lost)
        return written
