"""The sign-in host's HTTP routes, and nothing else."""

from http import HTTPStatus
from pathlib import Path

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from doorward.config.endpoints import Address
from doorward.route.internal import CALLBACK_PATH, SIGN_IN_PATH, SIGN_OUT_PATH
from doorward.rpc.asgi_server import AsgiServer
from doorward.rpc.credentials import PlaneIdentity
from doorward.rpc.planes import Plane
from doorward.web.pages import Pages
from doorward_authenticate.sign_in import SignInPages

_SHUTDOWN_SECONDS = 2.0

_log = structlog.stdlib.get_logger(__name__)


def sign_in_app(handlers: SignInPages, pages: Pages) -> Starlette:
    """The application."""

    async def not_here(request: Request, error: Exception) -> Response:
        status = HTTPStatus(error.status_code) if isinstance(error, HTTPException) else HTTPStatus.NOT_FOUND
        response = pages.page(request, "not_found.html", status, title=status.phrase)
        if isinstance(error, HTTPException):
            response.headers.update(error.headers or {})
        return response

    async def failed(request: Request, error: Exception) -> Response:
        # Nobody outside learns what; the log does.
        _log.error("a page failed", path=request.url.path, error=str(error), exc_info=error)
        return pages.page(request, "failed.html", HTTPStatus.INTERNAL_SERVER_ERROR)

    return Starlette(
        routes=[
            Route("/", handlers.home, methods=["GET"]),
            Route(SIGN_IN_PATH, handlers.begin, methods=["GET"]),
            Route(f"{SIGN_IN_PATH}/{{provider}}", handlers.begin, methods=["GET"]),
            Route(f"{CALLBACK_PATH}/{{provider}}", handlers.finish, methods=["GET"]),
            Route(SIGN_OUT_PATH, handlers.ask_sign_out, methods=["GET"]),
            Route(SIGN_OUT_PATH, handlers.sign_out, methods=["POST"]),
        ],
        exception_handlers={HTTPException: not_here, Exception: failed},
    )


def sign_in_server(app: ASGIApp, place: Path | Address, identity: PlaneIdentity | None) -> AsgiServer:
    """The server of ``app``, for the proxies' Envoys."""
    return AsgiServer(
        app,
        place,
        [Plane.PROXY],
        identity,
        max_request_body_size=64 * 1024,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
