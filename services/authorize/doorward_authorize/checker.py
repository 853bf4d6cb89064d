"""`Check`: bytes in, bytes out. Nothing gets out of here as an error that could be read as a yes."""

import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeAlias

import structlog

from doorward.clock import Clock
from doorward.records.record import RecordVersion
from doorward.rpc.grpc_methods import UNAVAILABLE, CallEnded
from doorward.rpc.planes import Gateway
from doorward.rpc.traceparent import is_unsampled, text_of
from doorward.telemetry.tracing import Tracer
from doorward_authorize.check_request import EMPTY, CheckedRequest, CheckParser
from doorward_authorize.check_response import Responder, unavailable
from doorward_authorize.decision_log import DecisionLog
from doorward_authorize.decision_record import DecisionRecord, not_recorded
from doorward_authorize.evaluator import Evaluator
from doorward_authorize.explanations import Explanations
from doorward_authorize.gateways import Gateways
from doorward_authorize.held_decisions import HeldDecisions, held_as
from doorward_authorize.metrics import AuthorizeMetrics
from doorward_authorize.outcome import CHECK_FAILED, DATA_STALE, OVERLOADED, Outcome, Verdict
from doorward_authorize.principals import NOTHING, PendingError

SHED_RECORDS = 1_000
"""Records of checks that were shed, in a second. What is beyond them gets an answer without an id, and is counted: whoever has no time to
decide has none to write either."""
WAITING_LIMIT = 1_000
"""Checks that may wait for something at once; beyond it they are refused early instead of timing out late."""
_UNAVAILABLE_STATUS = 503
_MEASURED_EVERY = 16
_QUESTIONS = 2
"""That a check may wait for, one after another: a new session, and whether it is idle."""

_Begun: TypeAlias = tuple[int, bytes]
"""When a check that may be traced began, and whose part it is."""

_log = structlog.stdlib.get_logger(__name__)


class Checker:
    """Answers checks. Concurrency: belongs to one event loop."""

    def __init__(
        self,
        *,
        authorizer_id: str,
        evaluator: Evaluator,
        responder: Responder,
        log: DecisionLog,
        held: HeldDecisions,
        explanations: Explanations,
        gateways: Gateways,
        data_version: Callable[[], RecordVersion],
        clock: Clock,
        metrics: AuthorizeMetrics,
        tracer: Tracer | None = None,
        others_may_know: Callable[[], bool] = lambda: False,
    ) -> None:
        """``others_may_know`` says whether another authorizer was well when we last heard of the others."""
        self._tracer = tracer
        self._others_may_know = others_may_know
        self._id = authorizer_id
        self._evaluator = evaluator
        self._responder = responder
        self._decision_log = log
        self._held = held
        self._explanations = explanations
        self._gateways = gateways
        self._data_version = data_version
        self._clock = clock
        self._metrics = metrics
        self._parse = CheckParser().parse
        self._sequence = itertools.count(1)
        self._waiting = 0
        self._unmeasured = 0
        self._shed_second = 0
        self._shed_recorded = 0
        self._shed_unnamed = unavailable("").SerializeToString()
        self._count = metrics.count_decision

    def check(
        self, data: bytes, gateway: Gateway | None = None, *, traceparent: bytes = b""
    ) -> bytes | Awaitable[bytes]:
        """The serialized CheckResponse for a serialized CheckRequest, at once unless it waits for a sign-in.

        ``gateway`` is who asks, when it is not our own Envoy. ``traceparent`` is that of the call (``CallHeaders.traceparent``): the
        span that the gateway waits for us in.

        Raises:
            CallEnded: our data are too old to decide, and another authorizer's may not be: our Envoy asks that one.
        """
        decision_id = self._next_id()
        self._unmeasured -= 1
        began = time.perf_counter() if self._unmeasured < 0 else 0.0
        begun = (time.time_ns(), traceparent) if self._tracer is not None else None
        request = None
        try:
            request = self._parse(data)
            refused = None if gateway is None else self._gateways.refused(request, gateway)
            outcome = self._evaluator.decide(request) if refused is None else refused
            answer = self._answer(data, request, outcome, decision_id, begun)
            if began:
                self._unmeasured = _MEASURED_EVERY - 1
                self._metrics.seconds.observe(time.perf_counter() - began)
            return answer
        except PendingError as pending:
            assert request is not None  # noqa: S101  # it was decided
            if self._waiting >= WAITING_LIMIT:
                return self._shed(request)
            return self._check_later(data, request, pending, decision_id, begun)
        except CallEnded:
            raise
        except Exception as error:
            return self._failed(decision_id, error, request, gateway)

    def overloaded(self, data: bytes) -> bytes:
        """The answer when there is no time to decide: refused early instead of timing out late. ``data`` are not even read."""
        del data
        return self._shed(EMPTY)

    def _shed(self, request: CheckedRequest) -> bytes:
        self.count_shed()
        second = int(self._clock.monotonic())
        if second != self._shed_second:
            self._shed_second, self._shed_recorded = second, 0
        if self._shed_recorded >= SHED_RECORDS:
            self._metrics.log_drops.inc()
            return self._shed_unnamed
        self._shed_recorded += 1
        decision_id = self._next_id()
        self._decision_log.add(self._without_policy(decision_id, request, OVERLOADED))
        return unavailable(decision_id).SerializeToString()

    def count_shed(self) -> None:
        """Count a check that nobody had time for."""
        self._metrics.shed.inc()

    async def _check_later(
        self, data: bytes, request: CheckedRequest, pending: PendingError, decision_id: str, begun: _Begun | None
    ) -> bytes:
        self._waiting += 1
        try:
            learned = NOTHING
            for _ in range(_QUESTIONS):
                learned = await self._evaluator.find_out(pending, learned)
                try:
                    answer = self._answer(data, request, self._evaluator.decide(request, learned), decision_id, begun)
                    return answer if isinstance(answer, bytes) else await answer
                except PendingError as another:
                    pending = another
            raise pending
        except CallEnded:
            raise
        except Exception as error:
            answer = self._failed(decision_id, error, request, None)
            return answer if isinstance(answer, bytes) else await answer
        finally:
            self._waiting -= 1

    def _answer(
        self, data: bytes, request: CheckedRequest, outcome: Outcome, decision_id: str, begun: _Begun | None
    ) -> bytes | Awaitable[bytes]:
        if DATA_STALE in outcome.reasons and not request.gateway and self._others_may_know():
            # No decision, and no record of one: that is for whoever makes it. Another gateway may not know to ask again.
            self._metrics.handed_on.inc()
            raise CallEnded(UNAVAILABLE, "the data are too old here")
        snapshot = self._evaluator.snapshot
        traceparent = _traceparent(request, begun) if begun is not None else None
        settings = snapshot.settings
        answer, status = self._responder.response(request, outcome, settings, decision_id, traceparent or "")
        record = self._recorded(data, request, outcome, status, decision_id, snapshot.generation)
        if self._decision_log.audit_or_deny:
            return self._audited(answer, record, begun, traceparent)
        self._decision_log.add(record)
        self._told(record, begun, traceparent)
        return answer

    def _told(self, record: DecisionRecord, begun: _Begun | None, traceparent: str | None) -> None:
        """What is left to do once it is certain that somebody is told what ``record`` says."""
        outcome, request = record.outcome, record.request
        if outcome.verdict is Verdict.DENY and request.prefers_html:
            held = self._held.get(record.id)
            if held is not None and held.by_policy:
                self._explanations.offer(held, outcome.user_id or request.client_address or "")
        if self._tracer is not None and begun is not None and traceparent is not None:
            self._trace(self._tracer, record, begun[0], traceparent)

    @staticmethod
    def _trace(tracer: Tracer, record: DecisionRecord, began_ns: int, traceparent: str) -> None:
        attributes = {
            "doorward.decision_id": record.id,
            "doorward.route": record.request.route_id,
            "doorward.outcome": record.outcome.verdict.value,
            "http.response.status_code": str(record.status),
        }
        tracer.record("check", traceparent, began_ns, time.time_ns(), attributes, is_error=record.status >= 500)

    def _failed(
        self, decision_id: str, error: Exception, request: CheckedRequest | None, gateway: Gateway | None
    ) -> bytes | Awaitable[bytes]:
        """A bug, or bytes that are no CheckRequest: refuse, count, log, record, and let nobody through."""
        self._metrics.failures.inc()
        _log.error("a check failed and was refused", decision_id=decision_id, error=str(error), exc_info=True)
        if request is None:
            request = replace(EMPTY, gateway="" if gateway is None else gateway.name)
        record = self._without_policy(decision_id, request, CHECK_FAILED)
        answer = unavailable(decision_id).SerializeToString()
        if self._decision_log.audit_or_deny:
            return self._audited(answer, record)
        self._decision_log.add(record)
        return answer

    def _without_policy(self, decision_id: str, request: CheckedRequest, reason: str) -> DecisionRecord:
        """Count and hold a refusal that nothing was looked at for, and make its record."""
        outcome = Outcome(verdict=Verdict.UNAVAILABLE, reasons=(reason,))
        generation = self._evaluator.snapshot.generation
        return self._recorded(b"", request, outcome, _UNAVAILABLE_STATUS, decision_id, generation)

    def _recorded(
        self, data: bytes, request: CheckedRequest, outcome: Outcome, status: int, decision_id: str, generation: str
    ) -> DecisionRecord:
        """Count and hold the decision, and make its record."""
        now = self._clock.now()
        self._count(outcome.verdict.value)
        # What a gateway said and is not believed about must not come back in the explanation.
        seen = (request.facts() if request.gateway else None) or data
        self._held.add(held_as(decision_id, seen, outcome, generation, now))
        return DecisionRecord(decision_id, now, request, outcome, status, generation, self._data_version())

    async def _audited(
        self, answer: bytes, record: DecisionRecord, begun: _Begun | None = None, traceparent: str | None = None
    ) -> bytes:
        """``answer``, once its record is on the disk; a refusal when it does not get there."""
        if await self._decision_log.add_durably(record):
            self._told(record, begun, traceparent)
            return answer
        self._told(not_recorded(record), begun, traceparent)
        self._metrics.unrecorded.inc()
        _log.error("a decision could not be recorded and was refused", decision_id=record.id)
        return unavailable(record.id).SerializeToString()

    def _next_id(self) -> str:
        """Names the authorizer, the second and a running number."""
        return f"{self._id}-{int(self._clock.now()):x}-{next(self._sequence):x}"


def _traceparent(request: CheckedRequest, begun: _Begun) -> str | None:
    """Whose part a check is: of the gateway's span for it, else of the client's; ``None`` when it is not to be traced."""
    if is_unsampled(begun[1]):
        return None
    return text_of(begun[1]) or request.header("traceparent") or ""
