"""Other gateways: each may ask about its own routes, and its word about clients counts only where the configuration says so.

    not in the configuration any more      refused
    a route that it may not ask about      refused, in the same words whether there is such a route or not
    another host than the route's          refused: a session's cookie is for one host, and would count at another
    an address or a certificate of a client that it is not believed about      unknown, so nobody gets in by it

Whatever is refused is counted and logged. Rights are looked up at each question, so that a change counts for connections that are open.
"""

from collections.abc import Callable

import structlog

from doorward.clock import Clock
from doorward.config.settings import GatewaySettings
from doorward.errors import PermissionDeniedError
from doorward.route.internal import CLIENT_ADDRESS_HEADER
from doorward.rpc.planes import Gateway
from doorward_authorize.check_request import CheckedRequest
from doorward_authorize.metrics import AuthorizeMetrics
from doorward_authorize.outcome import Outcome, Verdict
from doorward_authorize.snapshot import Snapshot

NOT_KNOWN = "gateway-unknown"
NOT_LISTED = "gateway-route-not-listed"
OTHER_HOST = "gateway-host"
NO_EXPLANATIONS = "gateway-explain"
_LOG_SECONDS = 1.0
"""A gateway that is set up wrongly is refused at each request; one line a second says as much."""

_log = structlog.stdlib.get_logger(__name__)


class Gateways:
    """What each may ask. Concurrency: belongs to one event loop."""

    def __init__(self, snapshot: Callable[[], Snapshot], metrics: AuthorizeMetrics, clock: Clock) -> None:
        self._snapshot = snapshot
        self._metrics = metrics
        self._clock = clock
        self._logged_at = float("-inf")

    def known(self, gateway: Gateway) -> GatewaySettings:
        """What ``gateway`` may do.

        Raises:
            PermissionDeniedError: nothing.
        """
        rights = self._snapshot().settings.gateway(gateway.name)
        if rights is None:
            self._refuse(gateway.name, NOT_KNOWN, "")
            raise PermissionDeniedError("the configuration knows no such gateway")
        return rights

    def require_route(self, rights: GatewaySettings | None, route_id: str) -> None:
        """Nothing, where an operator asks (``rights`` is ``None``), or a gateway about a route of its own.

        Raises:
            PermissionDeniedError: a gateway asks about another one, or about none.
        """
        if rights is not None and route_id not in rights.routes:
            self._refuse(rights.name, NOT_LISTED, route_id)
            raise PermissionDeniedError("this gateway may not ask about that route")

    def require_explanations(self, rights: GatewaySettings | None) -> None:
        """Nothing, where the caller may know what is known of people.

        Raises:
            PermissionDeniedError: it may not.
        """
        if rights is not None and not rights.may_explain:
            self._refuse(rights.name, NO_EXPLANATIONS, "")
            raise PermissionDeniedError("this gateway may not ask for explanations (`may_explain`)")

    def refused(self, request: CheckedRequest, gateway: Gateway) -> Outcome | None:
        """Why a gateway's check is refused, if it is. What it is not believed about is taken out of ``request``."""
        request.gateway = gateway.name
        snapshot = self._snapshot()
        rights = snapshot.settings.gateway(gateway.name)
        if rights is None or not rights.trust_client_address:
            request.client_address = None
            request.headers.pop(CLIENT_ADDRESS_HEADER, None)
        if rights is None or not rights.trust_client_certificate:
            request.peer = request.tls_session = b""
            request.is_certificate_unknown = True
        if rights is None:
            return self._outcome(request, NOT_KNOWN)
        if request.route_id not in rights.routes:
            return self._outcome(request, NOT_LISTED)
        route = snapshot.routes.get(request.route_id)
        if route is not None and request.host != route.route.host:
            return self._outcome(request, OTHER_HOST)
        return None

    def _outcome(self, request: CheckedRequest, reason: str) -> Outcome:
        self._refuse(request.gateway, reason, request.route_id)
        return Outcome(verdict=Verdict.UNAVAILABLE, reasons=(reason,))

    def _refuse(self, name: str, reason: str, route_id: str) -> None:
        self._metrics.gateway_refusals.labels(reason).inc()
        now = self._clock.monotonic()
        if now - self._logged_at >= _LOG_SECONDS:
            self._logged_at = now
            _log.warning("refused what a gateway asked", gateway=name, reason=reason, route=route_id[:200])
