"""The pages' common frame: templates, headers, cookies to set and to delete."""

from collections.abc import Sequence
from http import HTTPStatus
from importlib import resources

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from doorward.identity.cookies import SESSION_COOKIE
from doorward.web.retry_after import RETRY_AFTER
from doorward.web.style import style, style_source

REQUEST_ID_HEADER = "x-request-id"

_COOKIE_ATTRIBUTES = "Path=/; Secure; HttpOnly; SameSite=Lax"


class Pages:
    """Renders the pages. All values are escaped by the template engine."""

    def __init__(self, package: str, form_targets: Sequence[str] = ()) -> None:
        """Pages from the templates of ``package``; ``form_targets`` are origins that a form may lead to."""
        own, shared = resources.files(package) / "templates", resources.files("doorward.web")
        self._environment = jinja2.Environment(
            loader=jinja2.FunctionLoader(lambda name: ((shared if name == "frame.html" else own) / name).read_text()),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
        )
        targets = " ".join(("'self'", *form_targets))
        self._policy = (
            f"default-src 'none'; style-src {style_source()}; form-action {targets}; "
            "frame-ancestors 'none'; base-uri 'none'"
        )

    def page(self, request: Request, template: str, status: HTTPStatus = HTTPStatus.OK, **values: object) -> Response:
        """A page from ``template``, with the request's id for whoever is asked about it."""
        text = self._environment.get_template(template).render(
            style=style(),
            refused=status >= HTTPStatus.BAD_REQUEST,
            request_id=request.headers.get(REQUEST_ID_HEADER, ""),
            **values,
        )
        response = HTMLResponse(text, status)
        response.headers["content-security-policy"] = self._policy
        if status is HTTPStatus.SERVICE_UNAVAILABLE:
            response.headers.append(*RETRY_AFTER)
        return private(response)


def private(response: Response) -> Response:
    """``response`` with the headers that all answers of ours carry."""
    response.headers["cache-control"] = "no-store"
    response.headers["referrer-policy"] = "no-referrer"
    response.headers["x-content-type-options"] = "nosniff"
    return response


def json_answer(content: object, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """A JSON answer that nobody stores."""
    return private(JSONResponse(content, status))


def redirect(path: str) -> Response:
    """303 to a path on the same host: the browser goes there with GET, whatever it came with."""
    return private(RedirectResponse(path, HTTPStatus.SEE_OTHER))


def set_cookie(response: Response, name: str, value: str, max_age_seconds: int) -> None:
    """Set a cookie for this host alone."""
    response.headers.append("set-cookie", f"{name}={value}; {_COOKIE_ATTRIBUTES}; Max-Age={max_age_seconds}")


def delete_cookie(response: Response, name: str) -> None:
    """Delete a cookie of this host."""
    response.headers.append("set-cookie", f"{name}=; {_COOKIE_ATTRIBUTES}; Max-Age=0")


def delete_session_cookie(response: Response) -> None:
    """Delete the session handle."""
    delete_cookie(response, SESSION_COOKIE)
