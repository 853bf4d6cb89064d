"""Why a decision came out as it did, for whoever asks later: from this authorizer's memory, or from the records.

Refusals that somebody saw a page of are also put as records, explained, for a day: a person reports an id, and any authorizer can say what
it meant. That is rated for each person, because a refusal costs nothing to provoke, and done in the background.
"""

import asyncio
import json
from collections import deque
from collections.abc import Collection, Sequence
from typing import Protocol

import structlog
from google.protobuf.message import DecodeError

from doorward.api.authorize.v1 import authorize_pb2 as pb
from doorward.clock import Clock
from doorward.errors import DataCorruptedError, DoorwardError, InvalidArgumentError, NotFoundError
from doorward.policy import Decision, Effect, explain_policy
from doorward.records.record import Record, RecordVersion, Write
from doorward_authorize.held_decisions import HeldDecision, HeldDecisions
from doorward_authorize.metrics import AuthorizeMetrics
from doorward_authorize.outcome import CHECK_FAILED, NOT_RECORDED, OVERLOADED
from doorward_authorize.snapshot import PATH_OF_ANOTHER

RECORD_TYPE = "Refusal"
KEEP_SECONDS = 24 * 3600.0
FLUSH_SECONDS = 1.0
QUEUE_LIMIT = 1_000
PER_MINUTE = 10
"""Refusals of one person that are put as records in a minute."""
_BATCH = 50
_NOT_HELD = "the decision is no longer held, or was made by another authorizer"
WITHOUT_POLICY = {
    "broken": "the route, or its host, cannot be served; Envoy answers 503 (broken)",
    "certificate-not-asked": "the connection was not asked for a certificate (certificate-not-asked)",
    CHECK_FAILED: "the check could not be read, or deciding it failed; the log has the error (check-failed)",
    "configuration-unknown": "Envoy asked about a route, or a form of it, that this authorizer does not know (configuration-unknown)",
    "credential-not-accepted": "a token was presented that is nobody's here (credential-not-accepted)",
    "credentials-conflict": "valid credentials of two principals were presented (credentials-conflict)",
    "data-stale": "the data were too old to decide by (data-stale)",
    "foreign-origin": "the request came from a page of another site (foreign-origin)",
    "header-not-deleted": "a header came that another route sets, over a connection older than that route (header-not-deleted)",
    OVERLOADED: "too many checks waited (overloaded)",
    NOT_RECORDED: "the record was not on the disk in time, so that nobody was told what was decided (not-recorded)",
    "own-page": "Doorward's own page, which decides for itself (own-page)",
    PATH_OF_ANOTHER: "the path is encoded so that Envoy does not find the route that it is for (path-of-another-route)",
    "path-not-utf-8": "the path is no UTF-8 (path-not-utf-8)",
    "preflight": "the route's list of origins answers a preflight (preflight)",
    "session-unknown": "nobody could say whether there is such a session (session-unknown)",
    "unmatched": "nothing is configured for this host or path; Envoy answers 404 (unmatched)",
}
"""What reasons mean that no policy gives. Others, of a path that can be read in several ways above all, speak for themselves."""
_EFFECTS = {
    Effect.ALLOW: pb.EFFECT_ALLOW,
    Effect.DENY: pb.EFFECT_DENY,
    Effect.SIGN_IN: pb.EFFECT_SIGN_IN,
    Effect.STEP_UP: pb.EFFECT_STEP_UP,
}

_log = structlog.stdlib.get_logger(__name__)


class RefusalRecords(Protocol):
    """The databroker, as far as refusals need it (``doorward.records.client.RecordClient``)."""

    async def get(self, record_type: str, record_id: str) -> Record:
        """The live record."""
        ...

    async def put(self, writes: Sequence[Write]) -> tuple[RecordVersion, ...]:
        """Write all or nothing."""
        ...


class Explanations:
    """Explains decisions and keeps refusals for all. Concurrency: belongs to one event loop."""

    def __init__(self, held: HeldDecisions, records: RefusalRecords, clock: Clock, metrics: AuthorizeMetrics) -> None:
        self._held = held
        self._records = records
        self._clock = clock
        self._metrics = metrics
        self._queue: deque[HeldDecision] = deque()
        self._rated: dict[str, int] = {}
        self._rated_minute = 0

    def offer(self, refusal: HeldDecision, person: str) -> None:
        """Put a refusal as a record soon; never waits. ``person`` is who it is rated for."""
        minute = int(self._clock.monotonic() // 60)
        if minute != self._rated_minute:
            self._rated.clear()
            self._rated_minute = minute
        count = self._rated.get(person, 0)
        if count >= PER_MINUTE or len(self._queue) >= QUEUE_LIMIT or len(self._rated) >= 10 * QUEUE_LIMIT:
            self._metrics.refusals_unkept.inc()
            return
        self._rated[person] = count + 1
        self._queue.append(refusal)

    async def run(self) -> None:
        """Write refusals until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write what is queued; what cannot be written is counted, and still explained here while it is held."""
        while self._queue:
            writes = []
            for _ in range(min(_BATCH, len(self._queue))):
                refusal = self._queue.popleft()
                data = explained(refusal).SerializeToString()
                expires_at = refusal.now + KEEP_SECONDS
                writes.append(Write(record=Record(type=RECORD_TYPE, id=refusal.id, data=data, expires_at=expires_at)))
                await asyncio.sleep(0)
            try:
                await self._records.put(writes)
            except DoorwardError as error:
                self._metrics.refusals_unkept.inc(len(writes))
                _log.warning("refusals could not be put as records", count=len(writes), reason=str(error))

    async def of(self, decision_id: str, routes: Collection[str] | None = None) -> pb.ExplainResponse:
        """The explanation of a decision; with ``routes``, of one about a route so named.

        Raises:
            NotFoundError: it is held neither here nor in the records, or is about another route.
            DoorwardError: the records cannot be asked.
        """
        held = self._held.get(decision_id)
        if held is not None:
            if routes is not None and _route_of(held) not in routes:
                raise NotFoundError(_NOT_HELD)
            return explained(held)
        try:
            record = await self._records.get(RECORD_TYPE, decision_id)
            found = pb.ExplainResponse.FromString(record.data)
        except (NotFoundError, InvalidArgumentError) as error:
            raise NotFoundError(_NOT_HELD) from error
        except DecodeError as error:
            raise DataCorruptedError("a refusal record does not parse") from error
        if routes is not None and found.route not in routes:
            raise NotFoundError(_NOT_HELD)
        return found


def explained(held: HeldDecision) -> pb.ExplainResponse:
    """A held decision in words."""
    decision = decision_message(held.decision, held.id, held.generation)
    if held.route is None or not held.by_policy:
        return _without_policy(held, decision)
    explanation = explain_policy(held.route.policy.policy, held.facts())
    return pb.ExplainResponse(
        decision=decision,
        route=_route_of(held),
        text=explanation.render(),
        json=json.dumps(explanation.to_dict(), default=str),
    )


def _without_policy(held: HeldDecision, decision: pb.Decision) -> pb.ExplainResponse:
    """What is to be said of what no policy decided: there are no rules to go through."""
    effect, reasons = held.decision.effect.value, list(held.decision.reasons)
    by_policy = "whatever a policy said" if NOT_RECORDED in reasons else "and no policy was asked"
    said = "; ".join(WITHOUT_POLICY.get(reason, reason) for reason in reasons)
    return pb.ExplainResponse(
        decision=decision,
        route=_route_of(held),
        text=f"{effect}, {by_policy}: {said}",
        json=json.dumps({"effect": effect, "reasons": reasons, "rules": []}),
    )


def _route_of(held: HeldDecision) -> str:
    return "" if held.route is None else held.route.route.name


def decision_message(decision: Decision, decision_id: str, generation: str) -> pb.Decision:
    """A decision as it is sent."""
    return pb.Decision(
        id=decision_id,
        effect=_EFFECTS[decision.effect],
        reasons=decision.reasons,
        rule=decision.rule or "",
        generation=generation,
    )
