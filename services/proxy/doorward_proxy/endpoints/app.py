"""The pages as one ASGI application, and the server that Envoy reaches it at."""

from http import HTTPStatus
from pathlib import Path

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from doorward.clock import Clock
from doorward.keys.assertion import PUBLISHED_SECONDS, PublishedKeys
from doorward.keys.flow import FlowSealer
from doorward.route.internal import CALLBACK_PATH, JWKS_PATH, SIGN_OUT_PATH, WHOAMI_PATH
from doorward.rpc.asgi_server import AsgiServer
from doorward.rpc.planes import Plane
from doorward.web.pages import Pages, json_answer
from doorward_proxy.endpoints.callback import Callback
from doorward_proxy.endpoints.requests import signed_in, wants_json
from doorward_proxy.endpoints.sessions import Sessions
from doorward_proxy.endpoints.sign_out import SignOut
from doorward_proxy.metrics import ProxyMetrics

_SHUTDOWN_SECONDS = 2.0

_log = structlog.stdlib.get_logger(__name__)


def pages_app(
    *, sessions: Sessions, flows: FlowSealer, published: PublishedKeys, clock: Clock, metrics: ProxyMetrics
) -> Starlette:
    """The application; ``published`` are the public keys as they are at any moment."""
    pages = Pages("doorward_proxy.endpoints")
    sign_out = SignOut(sessions, pages)

    async def whoami(request: Request) -> Response:
        who = signed_in(request)
        if not wants_json(request):
            return pages.page(request, "whoami.html", who=who, sign_out=SIGN_OUT_PATH)
        if who is None:
            return json_answer({"signed_in": False})
        groups = list(who.groups) if who.groups is not None else None
        return json_answer(
            {"signed_in": True, "user": who.subject, "email": who.email, "name": who.name, "groups": groups}
        )

    async def key_set(_: Request) -> Response:
        return Response(
            published.text,
            media_type="application/jwk-set+json",
            headers={"cache-control": f"public, max-age={PUBLISHED_SECONDS}", "x-content-type-options": "nosniff"},
        )

    async def refused(request: Request, error: Exception) -> Response:
        status = HTTPStatus(error.status_code) if isinstance(error, HTTPException) else HTTPStatus.NOT_FOUND
        response = pages.page(request, "refused.html", status, title=status.phrase)
        if isinstance(error, HTTPException):
            response.headers.update(error.headers or {})
        return response

    async def failed(request: Request, error: Exception) -> Response:
        # Nobody outside learns what; the log does.
        _log.error("a page failed", path=request.url.path, error=str(error), exc_info=error)
        return pages.page(request, "refused.html", HTTPStatus.INTERNAL_SERVER_ERROR, title="Something went wrong")

    return Starlette(
        routes=[
            Route(CALLBACK_PATH, Callback(sessions, flows, pages, clock, metrics).answer, methods=["GET"]),
            Route(WHOAMI_PATH, whoami, methods=["GET"]),
            Route(SIGN_OUT_PATH, sign_out.ask, methods=["GET"]),
            Route(SIGN_OUT_PATH, sign_out.end, methods=["POST"]),
            Route(JWKS_PATH, key_set, methods=["GET"]),
        ],
        exception_handlers={HTTPException: refused, Exception: failed},
    )


def pages_server(app: Starlette, socket: Path) -> AsgiServer:
    """The server of ``app`` on a Unix socket; the folder's mode keeps others away."""
    return AsgiServer(app, socket, [Plane.PROXY], timeout_graceful_shutdown=_SHUTDOWN_SECONDS)
