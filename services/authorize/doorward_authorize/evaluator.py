"""The decision. Every way through ends in an outcome; only two of them let a request pass, and both say so.

what Envoy matched ─► our own pages, or nothing at all      allowed: they decide for themselves, or answer 404 or 503
                   ─► a route by its current digest         its policy
                   ─► a route by an earlier digest          as what it was, and as everything that it became
                   ─► anything else                         503
"""

from collections.abc import Sequence
from typing import Protocol

from doorward.clock import Clock
from doorward.policy import Decision, Effect, Facts, RequestFacts
from doorward.route.headers import own_headers
from doorward.route.internal import INTERNAL_DIGEST, InternalRoute
from doorward.route.methods import ORDINARY_METHODS, TUNNEL_METHOD, is_method
from doorward.route.paths import ambiguity
from doorward.route.route import CertificateUse, Route
from doorward_authorize.certificate import VerifiedCertificate
from doorward_authorize.check_request import CheckedRequest
from doorward_authorize.client_certificates import ClientCertificates, Misdirected
from doorward_authorize.cross_origin import is_forbidden, preflight_origin
from doorward_authorize.metrics import AuthorizeMetrics
from doorward_authorize.outcome import DATA_STALE, Outcome, Verdict
from doorward_authorize.principal import Conflicting, Credential, Found, Principal, Rejected, Unaccepted, Unknown
from doorward_authorize.principals import NOTHING, Learned, PendingError, Principals
from doorward_authorize.snapshot import PATH_OF_ANOTHER, REMOVED_SECONDS, CompiledRoute, Snapshot

_OWN_PAGES = frozenset({InternalRoute.PAGES.value, InternalRoute.SIGN_IN.value})
_ANSWERED_BY_ENVOY = frozenset({InternalRoute.UNMATCHED.value, InternalRoute.BROKEN.value})
_MILD = (Verdict.SIGN_IN, Verdict.STEP_UP, Verdict.PREFLIGHT, Verdict.ALLOW)
"""From what keeps a request from the upstream to what does not; all other verdicts come before."""
_VERDICTS = {
    Effect.ALLOW.value: Verdict.ALLOW,
    Effect.SIGN_IN.value: Verdict.SIGN_IN,
    Effect.STEP_UP.value: Verdict.STEP_UP,
    Effect.DENY.value: Verdict.DENY,
}


class Freshness(Protocol):
    """How old the data are that principals are judged by."""

    def is_fresh(self, limit_seconds: float | None = None) -> bool:
        """Whether they were proven fresh within the limit."""
        ...


class Evaluator:
    """Decides by the present snapshot. Concurrency: belongs to one event loop; ``snapshot`` is replaced whole."""

    def __init__(
        self, snapshot: Snapshot, principals: Principals, freshness: Freshness, clock: Clock, metrics: AuthorizeMetrics
    ) -> None:
        self.snapshot = snapshot
        self._principals = principals
        self._freshness = freshness
        self._certificates = ClientCertificates(clock.now)
        self._clock = clock
        self._metrics = metrics

    def decide(self, request: CheckedRequest, learned: Learned = NOTHING) -> Outcome:
        """What becomes of ``request``. May raise; whoever calls it refuses then.

        Raises:
            PendingError: see ``Principals.of``.
        """
        snapshot = self.snapshot
        if request.route_id in _ANSWERED_BY_ENVOY and request.digest == INTERNAL_DIGEST:
            # Envoy itself answers 404 or 503 behind this; there is no upstream to reach.
            return Outcome(verdict=Verdict.ALLOW, reasons=(request.route_id.removeprefix("@"),))
        if request.route_id in _OWN_PAGES and request.digest == INTERNAL_DIGEST:
            return self._own_page(request, snapshot, learned)
        route = snapshot.routes.get(request.route_id)
        forms = () if route is None or self._is_gone(route) else route.forms_for(request.digest)
        if not forms:
            self._metrics.unknown_digest.inc()
            return Outcome(verdict=Verdict.UNAVAILABLE, reasons=("configuration-unknown",))
        if len(forms) == 1:
            return self._route(request, forms[0], snapshot, learned)
        return strictest([self._route(request, form, snapshot, learned) for form in forms])

    async def find_out(self, pending: PendingError, learned: Learned) -> Learned:
        """See ``Principals.find_out``."""
        return await self._principals.find_out(pending, learned)

    def _own_page(self, request: CheckedRequest, snapshot: Snapshot, learned: Learned) -> Outcome:
        """Our own pages are for everybody; what they do with a cookie is still nobody else's to start."""
        if request.method not in ORDINARY_METHODS:
            return _refused_by_method(request, None)
        found = self._principals.of(request, snapshot.settings, learned)
        principal = found if isinstance(found, Principal) else None
        if _is_by_cookie(found) and is_forbidden(request, self._own_origins(request), ()):
            return _about(found, verdict=Verdict.FOREIGN_ORIGIN, reasons=("foreign-origin",))
        if principal is not None and not self._freshness.is_fresh():
            principal = None  # who somebody was a while ago is not who they are
        return _about(principal, verdict=Verdict.ALLOW, reasons=("own-page",))

    def _route(
        self,
        request: CheckedRequest,
        route: CompiledRoute,
        snapshot: Snapshot,
        learned: Learned,
    ) -> Outcome:
        if not route.route.takes(request.method):
            return _refused_by_method(request, route)
        forged = snapshot.told_headers.intersection(request.headers)
        if forged and not request.gateway and not forged <= own_headers(route.route):
            # A connection that is older than the route that sets it, and so is the list of what is deleted from its requests.
            return Outcome(verdict=Verdict.MISDIRECTED, reasons=("header-not-deleted",), route=route)
        refused = self._refused_as_written(request, route)
        if refused is not None:
            return Outcome(verdict=Verdict.BAD_REQUEST, reasons=(refused,), route=route)
        staleness = snapshot.settings.staleness
        limit = staleness.sensitive if route.route.sensitive else staleness.default
        if not self._freshness.is_fresh(limit):
            return Outcome(verdict=Verdict.UNAVAILABLE, reasons=(DATA_STALE,), route=route)
        certificate = self._certificates.of(request, route.route, snapshot.settings)
        if isinstance(certificate, Misdirected):
            return Outcome(verdict=Verdict.MISDIRECTED, reasons=("certificate-not-asked",), route=route)
        is_looked_for = route.route.client_certificate is not CertificateUse.IGNORED
        request.with_certificate(certificate, is_looked_for=is_looked_for)
        facts = request.facts()
        if facts is None:
            return Outcome(verdict=Verdict.BAD_REQUEST, reasons=("path-not-utf-8",), route=route)
        if snapshot.is_anothers(route.route, facts.raw_path, facts.path):
            return Outcome(verdict=Verdict.BAD_REQUEST, reasons=(PATH_OF_ANOTHER,), route=route)
        if preflight_origin(request, route.route) is not None:
            return Outcome(verdict=Verdict.PREFLIGHT, reasons=("preflight",), route=route)
        found = self._principals.of(
            request, snapshot.settings, learned, self._others(request, route.route, certificate)
        )
        if isinstance(found, Conflicting):
            return Outcome(verdict=Verdict.BAD_REQUEST, reasons=("credentials-conflict",), route=route)
        if isinstance(found, Unaccepted | Unknown):
            # Where everybody may, a bad credential counts as none; elsewhere a cookie beside it must not cover it up.
            as_nobody = self.judge(None, facts, route)
            if as_nobody.verdict is Verdict.ALLOW:
                return as_nobody
            if isinstance(found, Unknown):
                # A sign-in would end here again.
                return Outcome(verdict=Verdict.UNAVAILABLE, reasons=("session-unknown",), route=route)
            return Outcome(verdict=Verdict.UNACCEPTED, reasons=("credential-not-accepted",), route=route)
        if _is_by_cookie(found) and is_forbidden(request, (route.route.origin,), route.route.allowed_origins):
            return _about(found, verdict=Verdict.FOREIGN_ORIGIN, reasons=("foreign-origin",), route=route)
        return self.judge(found, facts, route)

    def _others(
        self, request: CheckedRequest, route: Route, certificate: VerifiedCertificate | None
    ) -> tuple[Principal | None, ...]:
        """Who is spoken for by something else than a cookie or a token of ours, on this route."""
        found = self._principals.of_external(request, route, self.snapshot.settings) if route.token_issuers else ()
        if certificate is not None and route.client_certificate is CertificateUse.PRINCIPAL:
            return (*found, self._certificates.principal(certificate))
        return found

    def judge(self, found: Principal | Rejected | None, facts: RequestFacts, route: CompiledRoute) -> Outcome:
        """What the policy of ``route`` says about somebody."""
        principal = found if isinstance(found, Principal) else None
        inputs = Facts(
            principal=principal.facts if principal is not None else None, request=facts, now=self._clock.now()
        )
        decision = route.policy.decide(inputs)
        if isinstance(found, Rejected) and decision.effect is not Effect.ALLOW:
            decision = Decision(effect=Effect.DENY, reasons=(found.reason,))
        return _about(
            found,
            verdict=_VERDICTS[decision.effect.value],
            reasons=decision.reasons,
            rule=decision.rule,
            route=route,
            decision=decision,
        )

    def _is_gone(self, route: CompiledRoute) -> bool:
        return route.removed_at is not None and self._clock.monotonic() - route.removed_at >= REMOVED_SECONDS

    def _own_origins(self, request: CheckedRequest) -> frozenset[str]:
        """The origins of the host whose own page was asked for, with every port that it is served on."""
        settings = self.snapshot.settings
        if request.host == settings.authenticate_host:
            return frozenset({settings.authenticate_origin})
        return frozenset(item.route.origin for item in settings.routes if item.route.host == request.host)

    @staticmethod
    def _refused_as_written(request: CheckedRequest, route: CompiledRoute) -> str | None:
        if request.method == TUNNEL_METHOD and not request.path:
            return None
        return ambiguity(request.path, allow_parameters=route.route.path_parameters)


def strictest(outcomes: Sequence[Outcome]) -> Outcome:
    """The strictest of several outcomes of one request; of equals the last, which is about what Envoy has."""
    return min(reversed(outcomes), key=lambda outcome: _MILD.index(outcome.verdict) if outcome.verdict in _MILD else -1)


def _refused_by_method(request: CheckedRequest, route: CompiledRoute | None) -> Outcome:
    """Before policy, which may name paths alone: what an upstream makes of an unusual method, nobody here knows."""
    if not is_method(request.method):
        return Outcome(verdict=Verdict.BAD_REQUEST, reasons=("method-malformed",), route=route)
    return Outcome(verdict=Verdict.METHOD_NOT_ALLOWED, reasons=("method-not-allowed",), route=route)


def _is_by_cookie(found: Found) -> bool:
    """Whether a browser may have sent the credential without its user's doing."""
    return isinstance(found, Rejected | Unknown) or (
        isinstance(found, Principal) and found.credential is not Credential.TOKEN
    )


def _about(
    found: Found,
    *,
    verdict: Verdict,
    reasons: tuple[str, ...],
    rule: str | None = None,
    route: CompiledRoute | None = None,
    decision: Decision | None = None,
) -> Outcome:
    principal = found if isinstance(found, Principal) else None
    rejected = found if isinstance(found, Rejected) else None
    user_id = principal.user.id if principal else rejected.user_id if rejected else None
    session_id = principal.session.id if principal else rejected.session_id if rejected else None
    return Outcome(
        verdict=verdict,
        reasons=reasons,
        rule=rule,
        route=route,
        principal=principal,
        user_id=user_id,
        session_id=session_id,
        decision=decision,
    )
