"""End this session: GET asks, POST does it.

If the end cannot be stored, the page says so and the cookie stays: nothing claims a success that is none.
"""

from http import HTTPStatus

import structlog
from starlette.requests import Request
from starlette.responses import Response

from doorward.errors import InvalidTokenError, UnavailableError
from doorward.route.internal import SIGN_OUT_PATH
from doorward.web.pages import Pages, delete_session_cookie
from doorward.web.same_origin import is_same_origin
from doorward_proxy.endpoints.requests import request_host, session_handle, signed_in
from doorward_proxy.endpoints.sessions import Sessions

_log = structlog.stdlib.get_logger(__name__)


class SignOut:
    """Asks, and ends sessions."""

    def __init__(self, sessions: Sessions, pages: Pages) -> None:
        self._sessions = sessions
        self._pages = pages

    async def ask(self, request: Request) -> Response:
        """Answer ``GET /.doorward/sign_out``."""
        if session_handle(request) is None:
            return self._pages.page(request, "signed_out.html", ended=False)
        return self._pages.page(request, "sign_out.html", who=signed_in(request), action=SIGN_OUT_PATH)

    async def end(self, request: Request) -> Response:
        """Answer ``POST /.doorward/sign_out``."""
        if not is_same_origin(request):
            return self._pages.page(request, "foreign.html", HTTPStatus.FORBIDDEN, action=SIGN_OUT_PATH)
        handle = session_handle(request)
        ended = False
        if handle is not None:
            try:
                await self._sessions.end(handle, request_host(request))
                ended = True
            except InvalidTokenError:
                pass  # there is no such session: the cookie is worth nothing, and may go
            except UnavailableError as error:
                _log.error("a session could not be ended", host=request_host(request), error=str(error))
                return self._pages.page(
                    request, "not_signed_out.html", HTTPStatus.SERVICE_UNAVAILABLE, action=SIGN_OUT_PATH
                )
        response = self._pages.page(request, "signed_out.html", ended=ended)
        delete_session_cookie(response)
        return response
