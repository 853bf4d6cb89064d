"""Decisions and explanations for callers other than Envoy."""

import asyncio
from collections.abc import Collection, Sequence
from typing import Any, TypeAlias

import grpc.aio

from doorward.api.authorize.v1 import authorize_pb2 as pb
from doorward.api.authorize.v1 import authorize_pb2_grpc
from doorward.config.settings import GatewaySettings
from doorward.errors import (
    DoorwardError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from doorward.policy import Decision, Effect, RequestFacts
from doorward.records.replica import Replica
from doorward.route.paths import ambiguity, decoded_path
from doorward.rpc.plane_methods import caller, calling_gateway
from doorward.rpc.planes import Plane
from doorward_authorize.asked_decisions import AskedDecision, AskedDecisions
from doorward_authorize.evaluator import Evaluator
from doorward_authorize.explanations import Explanations, decision_message, explained
from doorward_authorize.gateways import Gateways
from doorward_authorize.held_decisions import HeldDecision
from doorward_authorize.outcome import NOT_RECORDED, Outcome, Verdict
from doorward_authorize.principal import Principal, Rejected
from doorward_authorize.principals import Principals
from doorward_authorize.snapshot import PATH_OF_ANOTHER, CompiledRoute

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["AuthorizeService"].full_name
BATCH_LIMIT = 500

_SLICE = 25
"""Decisions made before others get their turn; about a millisecond's worth."""


class MethodRefusedError(InvalidArgumentError):
    """The route does not take the method."""


_DENIALS: dict[type[DoorwardError], tuple[Verdict, str]] = {
    NotFoundError: (Verdict.DENY, "not-found"),
    InvalidArgumentError: (Verdict.BAD_REQUEST, "path-refused"),
    PermissionDeniedError: (Verdict.DENY, "route-not-listed"),
    MethodRefusedError: (Verdict.METHOD_NOT_ALLOWED, "method-not-allowed"),
    UnavailableError: (Verdict.UNAVAILABLE, "data-stale"),
}

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class AuthorizeServicer(authorize_pb2_grpc.AuthorizeServiceServicer):
    """See ``protos/doorward/api/authorize/v1/authorize.proto``.

    An operator may ask everything, another gateway about its own routes; no plane has a reason to.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        principals: Principals,
        replica: Replica,
        explanations: Explanations,
        gateways: Gateways,
        decisions: AskedDecisions,
    ) -> None:
        self._evaluator = evaluator
        self._principals = principals
        self._replica = replica
        self._explanations = explanations
        self._gateways = gateways
        self._decisions = decisions

    async def Decide(self, request: pb.DecideRequest, context: _Context) -> pb.DecideResponse:
        """One decision."""
        del context
        return pb.DecideResponse(decision=_message((await self._recorded(request, self._asker())).held))

    async def BatchDecide(self, request: pb.BatchDecideRequest, context: _Context) -> pb.BatchDecideResponse:
        """Many decisions, in slices, so that checks are answered in between."""
        del context
        asker = self._asker()
        if len(request.requests) > BATCH_LIMIT:
            raise InvalidArgumentError(f"at most {BATCH_LIMIT} requests")
        made = []
        idle = await self._idle([item.subject for item in request.requests])
        for position, item in enumerate(request.requests):
            if position and position % _SLICE == 0:
                await asyncio.sleep(0)
            made.append(self._made(self._outcome_or_denial(item, asker, idle), asker))
        response = pb.BatchDecideResponse()
        for decision, is_recorded in zip(made, await self._decisions.recorded(made), strict=True):
            response.responses.add(decision=_message(decision.held) if is_recorded else _unrecorded(decision.held))
        return response

    async def Explain(self, request: pb.ExplainRequest, context: _Context) -> pb.ExplainResponse:
        """A held decision, or one as it would be made now."""
        del context
        asker = self._asker()
        self._gateways.require_explanations(asker)
        match request.WhichOneof("target"):
            case "decision_id":
                return await self._explanations.of(request.decision_id, self._routes_of(asker))
            case "request":
                return explained((await self._recorded(request.request, asker)).held)
            case _:
                raise InvalidArgumentError("name a decision or a request")

    async def ListAccessible(self, request: pb.ListAccessibleRequest, context: _Context) -> pb.ListAccessibleResponse:
        """The routes that a GET at their own prefix, or a CONNECT to a tunnel, would reach."""
        del context
        asker = self._asker()
        if not self._replica.is_fresh():
            raise UnavailableError("the data are too old to decide by")
        idle = await self._idle([request.subject])
        self._subject(request.subject, idle)
        reachable: list[str] = []
        for position, compiled in enumerate(tuple(self._evaluator.snapshot.routes.values())):
            if position and position % _SLICE == 0:
                await asyncio.sleep(0)
            route = compiled.route
            if asker is not None and route.id not in asker.routes:
                continue
            method, path = ("CONNECT", "") if route.is_tunnel else ("GET", route.match.value)
            facts = pb.RequestFacts(route_id=route.id, method=method, path=path)
            wanted = pb.DecideRequest(subject=request.subject, request=facts)
            _, outcome = self._outcome_or_denial(wanted, asker, idle)
            if outcome.verdict is Verdict.ALLOW:
                reachable.append(route.id)
        return pb.ListAccessibleResponse(route_ids=reachable)

    async def GetStatus(self, request: pb.GetStatusRequest, context: _Context) -> pb.GetStatusResponse:
        """Generation and freshness."""
        del request, context
        self._asker()
        age = self._replica.data_age_seconds
        return pb.GetStatusResponse(
            generation=self._evaluator.snapshot.generation,
            data_age_ms=-1 if age is None else int(age * 1000),
            ready=self._replica.is_fresh(),
            sessions=self._replica.count("Session"),
        )

    def _asker(self) -> GatewaySettings | None:
        """What limits whoever asks; ``None`` for an operator, who may ask everything.

        Raises:
            PermissionDeniedError: neither an operator nor a gateway of ours.
        """
        gateway = calling_gateway.get()
        if gateway is not None:
            return self._gateways.known(gateway)
        if caller.get() is not Plane.OPERATOR:
            raise PermissionDeniedError("this is for operators, and for gateways that the configuration names")
        return None

    def _routes_of(self, asker: GatewaySettings | None) -> Collection[str] | None:
        """Names of the routes that ``asker`` may ask about; ``None`` for all."""
        if asker is None:
            return None
        routes = self._evaluator.snapshot.routes
        return frozenset(routes[route_id].route.name for route_id in asker.routes if route_id in routes)

    async def _recorded(self, request: pb.DecideRequest, asker: GatewaySettings | None) -> AskedDecision:
        """One decision.

        Raises:
            UnavailableError: its record must be on the disk first, and does not get there.
            DoorwardError: as ``_inputs``.
        """
        idle = await self._idle([request.subject])
        decision = self._made(self._outcome(request, asker, idle), asker)
        if not all(await self._decisions.recorded([decision])):
            raise UnavailableError("the decision could not be recorded")
        return decision

    def _made(self, decided: tuple[RequestFacts, Outcome], asker: GatewaySettings | None) -> AskedDecision:
        facts, outcome = decided
        gateway = "" if asker is None else asker.name
        return self._decisions.made(facts, outcome, self._evaluator.snapshot.generation, gateway)

    def _outcome_or_denial(
        self, request: pb.DecideRequest, asker: GatewaySettings | None, idle: Collection[str]
    ) -> tuple[RequestFacts, Outcome]:
        """One of several: what cannot be decided is denied in its place, and keeps no other from its answer."""
        try:
            return self._outcome(request, asker, idle)
        except (NotFoundError, InvalidArgumentError, UnavailableError, PermissionDeniedError) as error:
            verdict, reason = _DENIALS[type(error)]
            wanted = request.request
            # Only what names the question: nothing of it was looked at.
            facts = RequestFacts(method=wanted.method, host="", path="", raw_path=wanted.path, route=wanted.route_id)
            return facts, Outcome(verdict=verdict, reasons=(reason,))

    def _outcome(
        self, request: pb.DecideRequest, asker: GatewaySettings | None, idle: Collection[str]
    ) -> tuple[RequestFacts, Outcome]:
        compiled, facts, found = self._inputs(request, asker, idle)
        return facts, self._evaluator.judge(found, facts, compiled)

    def _inputs(
        self, request: pb.DecideRequest, asker: GatewaySettings | None, idle: Collection[str]
    ) -> tuple[CompiledRoute, RequestFacts, Principal | Rejected | None]:
        """Route, facts and principal of a question; ``idle`` are sessions that have ended because nobody uses them.

        Raises:
            PermissionDeniedError: it is a gateway's, about a route that is not its own.
            NotFoundError: there is no such route, session or user.
            InvalidArgumentError: the path can be read in more than one way, or the route does not take the method.
            UnavailableError: the data are too old to decide by.
        """
        snapshot = self._evaluator.snapshot
        wanted = request.request
        self._gateways.require_route(asker, wanted.route_id)
        compiled = snapshot.routes.get(wanted.route_id)
        if compiled is None or compiled.removed_at is not None or compiled.route.broken is not None:
            raise NotFoundError("no such route")
        if not compiled.route.takes(wanted.method):
            raise MethodRefusedError(f"the method is refused: expected one of {', '.join(compiled.route.methods)}")
        tunnel = compiled.route.is_tunnel and not wanted.path
        reason = None if tunnel else ambiguity(wanted.path, allow_parameters=compiled.route.path_parameters)
        path = decoded_path(wanted.path)
        if reason is not None or path is None:
            raise InvalidArgumentError(f"the path is refused: {reason or 'not UTF-8'}")
        if snapshot.is_anothers(compiled.route, wanted.path, path):
            raise InvalidArgumentError(f"the path is refused: {PATH_OF_ANOTHER}")
        staleness = snapshot.settings.staleness
        if not self._replica.is_fresh(staleness.sensitive if compiled.route.sensitive else staleness.default):
            raise UnavailableError("the data are too old to decide by")
        found = self._subject(request.subject, idle)
        is_believed = asker is None or asker.trust_client_address
        facts = RequestFacts(
            method=wanted.method,
            host=compiled.route.host,
            path=path,
            raw_path=wanted.path,
            query=wanted.query,
            headers=_headers(wanted),
            client_address=(wanted.client_address or None) if is_believed else None,
            is_certificate_unknown=True,  # there is no way to say which
            route=compiled.route.id,
        )
        return compiled, facts, found

    async def _idle(self, subjects: Sequence[pb.Subject]) -> frozenset[str]:
        """Ids of the sessions among ``subjects`` that nobody has used for too long. To ask here is no use of a session."""
        settings = self._evaluator.snapshot.settings
        if settings.session_idle_seconds is None:
            return frozenset()
        named = dict.fromkeys(
            subject.session_id for subject in subjects if subject.WhichOneof("subject") == "session_id"
        )
        perhaps: list[tuple[str, Principal]] = []
        for position, session_id in enumerate(named):
            if position and position % _SLICE == 0:
                await asyncio.sleep(0)
            found = self._principals.of_session(session_id, settings)
            if isinstance(found, Principal):
                perhaps.append((session_id, found))
        idle: set[str] = set()
        for start in range(0, len(perhaps), _SLICE):
            # All at once, the last would wait longer for its answer than is waited for, and count as idle.
            asked = perhaps[start : start + _SLICE]
            answers = await asyncio.gather(*(self._principals.is_idle(found) for _, found in asked))
            idle.update(session_id for (session_id, _), is_idle in zip(asked, answers, strict=True) if is_idle)
        return frozenset(idle)

    def _subject(self, subject: pb.Subject, idle: Collection[str]) -> Principal | Rejected | None:
        settings = self._evaluator.snapshot.settings
        match subject.WhichOneof("subject"):
            case "session_id":
                found = None
                if subject.session_id not in idle:
                    found = self._principals.of_session(subject.session_id, settings)
            case "user_id":
                found = self._principals.of_user(subject.user_id, settings)
            case _:
                return None
        if found is None:
            raise NotFoundError("no such session or user")
        return found


def _headers(wanted: pb.RequestFacts) -> dict[str, tuple[str, ...]]:
    """Values by lower-case name: of a name that stands there in two spellings all count, as they would from Envoy."""
    found: dict[str, tuple[str, ...]] = {}
    for name, values in wanted.headers.items():
        found[name.lower()] = (*found.get(name.lower(), ()), *values.values)
    return found


def _message(held: HeldDecision) -> pb.Decision:
    return decision_message(held.decision, held.id, held.generation)


def _unrecorded(held: HeldDecision) -> pb.Decision:
    """Instead of a decision whose record is not on the disk: a denial without an id, because nothing could be found by it."""
    return decision_message(Decision(effect=Effect.DENY, reasons=(NOT_RECORDED,)), "", held.generation)
