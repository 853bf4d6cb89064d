"""The browser returns from sign-in with a one-time code.

    GET /.doorward/callback?code=…&cookie=<name of the flow cookie>

The flow cookie proves that this browser began the flow, and remembers where it was going. After a failure the flow
starts again by itself once (the protected address is asked for again, and authorize sends the browser to sign in);
after the second there is a page with a button, so that a lasting fault does not become a loop.
"""

from http import HTTPStatus

import structlog
from starlette.requests import Request
from starlette.responses import Response

from doorward.clock import Clock
from doorward.errors import InvalidTokenError, UnavailableError
from doorward.identity.cookies import SESSION_COOKIE
from doorward.keys.flow import Flow, FlowSealer, is_flow_cookie
from doorward.web.pages import Pages, delete_cookie, redirect, set_cookie
from doorward_proxy.endpoints.requests import cookie, request_host
from doorward_proxy.endpoints.sessions import Redeemed, Sessions
from doorward_proxy.metrics import ProxyMetrics

AGAIN_COOKIE = "__Host-doorward-again"
"""Says that the flow has been started again already; lives a minute."""
AGAIN_SECONDS = 60
_CODE_LIMIT = 4096

_log = structlog.stdlib.get_logger(__name__)


class Callback:
    """Exchanges the code for a session cookie."""

    def __init__(
        self, sessions: Sessions, flows: FlowSealer, pages: Pages, clock: Clock, metrics: ProxyMetrics
    ) -> None:
        self._sessions = sessions
        self._flows = flows
        self._pages = pages
        self._clock = clock
        self._metrics = metrics

    async def answer(self, request: Request) -> Response:
        """Answer ``GET /.doorward/callback``."""
        code, name = _single(request, "code"), _single(request, "cookie")
        host = request_host(request)
        flow: Flow | None = None
        try:
            flow = self._flow(request, name, host)
            redeemed = await self._sessions.redeem(_plausible(code), host, flow.secret)
        except InvalidTokenError as error:
            return self._failed(request, flow, name, "invalid", error)
        except UnavailableError as error:
            return self._unavailable(request, flow, name, error)
        return self._signed_in(flow, redeemed)

    def _flow(self, request: Request, name: str | None, host: str) -> Flow:
        if name is None or not is_flow_cookie(name):
            raise InvalidTokenError("the callback names no flow")
        value = cookie(request, name)
        if value is None:
            raise InvalidTokenError("this browser did not begin the flow, or took too long")
        return self._flows.open(name, value, host, self._clock.now())

    def _signed_in(self, flow: Flow, redeemed: Redeemed) -> Response:
        response = redirect(flow.return_path)
        life = max(0, int(redeemed.expires_at - self._clock.now()))
        set_cookie(response, SESSION_COOKIE, redeemed.handle, life)
        delete_cookie(response, flow.name)
        delete_cookie(response, AGAIN_COOKIE)
        return response

    def _failed(
        self, request: Request, flow: Flow | None, name: str | None, reason: str, error: InvalidTokenError
    ) -> Response:
        self._metrics.code_failures.labels(reason=reason).inc()
        again = cookie(request, AGAIN_COOKIE) is None
        _log.warning("a one-time code was not redeemed", host=request_host(request), reason=str(error), again=again)
        target = flow.return_path if flow is not None else "/"
        if again:
            response = redirect(target)
            set_cookie(response, AGAIN_COOKIE, "1", AGAIN_SECONDS)
        else:
            response = self._pages.page(request, "not_signed_in.html", HTTPStatus.BAD_REQUEST, target=target)
            delete_cookie(response, AGAIN_COOKIE)
        if name is not None and is_flow_cookie(name):
            delete_cookie(response, name)
        return response

    def _unavailable(self, request: Request, flow: Flow | None, name: str | None, error: UnavailableError) -> Response:
        self._metrics.code_failures.labels(reason="unavailable").inc()
        _log.error("a one-time code could not be redeemed", host=request_host(request), error=str(error))
        target = flow.return_path if flow is not None else "/"
        response = self._pages.page(request, "unavailable.html", HTTPStatus.SERVICE_UNAVAILABLE, target=target)
        if name is not None and is_flow_cookie(name):
            delete_cookie(response, name)  # the attempt may have spent the code: this flow is over
        return response


def _plausible(code: str | None) -> str:
    if not code or len(code) > _CODE_LIMIT:
        raise InvalidTokenError("the callback brings no code")
    return code


def _single(request: Request, name: str) -> str | None:
    """The value of a query parameter that stands there exactly once."""
    values = request.query_params.getlist(name)
    return values[0] if len(values) == 1 else None
