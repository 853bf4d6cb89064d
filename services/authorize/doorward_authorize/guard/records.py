"""A record for each stream that is cut: the decision that ended it, joined to the one that let it begin by the request's id."""

from collections.abc import Callable

from doorward.records.record import RecordVersion
from doorward_authorize.check_request import CheckedRequest
from doorward_authorize.decision_log import DecisionLog
from doorward_authorize.decision_record import NO_STATUS, DecisionRecord
from doorward_authorize.guard.description import Description
from doorward_authorize.held_decisions import HeldDecisions, held_as
from doorward_authorize.outcome import Outcome


class CutRecords:
    """Writes what ``Watcher`` says of cut streams."""

    def __init__(
        self,
        log: DecisionLog,
        held: HeldDecisions,
        new_id: Callable[[], str],
        now: Callable[[], float],
        generation: Callable[[], str],
        data_version: Callable[[], RecordVersion],
    ) -> None:
        self._log = log
        self._held = held
        self._new_id = new_id
        self._now = now
        self._generation = generation
        self._data_version = data_version

    def on_cut(self, described: Description, outcome: Outcome) -> None:
        """Record that a stream was cut, and hold the decision for whoever finds its id there."""
        decision_id, now, generation = self._new_id(), self._now(), self._generation()
        self._held.add(held_as(decision_id, described.facts, outcome, generation, now))
        facts = described.facts
        request = CheckedRequest(
            route_id=described.route,
            digest=described.digest,
            host=facts.host,
            method=facts.method,
            path=facts.raw_path,
            query=facts.query,
            headers=dict(facts.headers),
            cookies=(),
            request_id=described.request_id,
            client_address=facts.client_address,
        )
        self._log.add(DecisionRecord(decision_id, now, request, outcome, NO_STATUS, generation, self._data_version()))
