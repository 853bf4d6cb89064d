"""Every page of ours, as the planes answer it, with values as long and as odd as they come."""

import asyncio
import re
from collections.abc import Iterator
from http import HTTPStatus
from importlib import resources
from typing import NamedTuple

import httpx
from starlette.applications import Starlette
from starlette.requests import Request

from doorward.demo.identity_provider import Client, IdentityProvider
from doorward.demo.upstreams import admin_app, public_app
from doorward.web.pages import Pages
from doorward.web.refusal_page import content_security_policy
from doorward_authorize.pages import page
from doorward_proxy.resources.local_replies import local_replies

AUTHENTICATE, PROXY = "doorward_authenticate", "doorward_proxy.endpoints"
_FAILED, _AWAY = HTTPStatus.BAD_REQUEST, HTTPStatus.SERVICE_UNAVAILABLE
_WHO = {"name": "Alice <Ä>", "email": "alice@example.com", "subject": "a" * 64, "groups": ("admins", "eng")}
_AGAIN = {"host": "wiki.example.com:8443", "provider": "Example", "again": "/again", "sign_out": "/out"}
_RENDERED: dict[str, dict[str, list[dict[str, object]]]] = {
    AUTHENTICATE: {
        "choose.html": [
            {"host": "wiki.example.com", "links": [("Example", "/one"), ("Another one", "/two")]},
            {"host": "wiki.example.com", "links": []},
        ],
        "failed.html": [{"status": _FAILED}],
        "home.html": [
            {"signed_in": True, "who": "Alice", "sign_out": "/out"},
            {"signed_in": False, "who": None, "sign_out": "/out"},
        ],
        "not_found.html": [{"status": HTTPStatus.NOT_FOUND, "title": "Not Found"}],
        "not_signed_out.html": [{"status": _AWAY}],
        "not_stronger.html": [{"status": HTTPStatus.FORBIDDEN, **_AGAIN}],
        "other_person.html": [{"status": HTTPStatus.FORBIDDEN, **_AGAIN}],
        "provider_refused.html": [{"status": HTTPStatus.FORBIDDEN}],
        "provider_unavailable.html": [{"status": HTTPStatus.BAD_GATEWAY}],
        "refused.html": [{"status": _FAILED}],
        "sign_out.html": [{"action": "/out", "token": "t"}],
        "signed_out.html": [{"ended": True}, {"ended": False}],
        "unavailable.html": [{"status": _AWAY}],
    },
    PROXY: {
        "foreign.html": [{"status": HTTPStatus.FORBIDDEN, "action": "/out"}],
        "not_signed_in.html": [{"status": _FAILED, "target": "/"}],
        "not_signed_out.html": [{"status": _AWAY, "action": "/out"}],
        "refused.html": [{"status": HTTPStatus.NOT_FOUND, "title": "Not Found"}],
        "sign_out.html": [{"who": _WHO, "action": "/out"}, {"who": None, "action": "/out"}],
        "signed_out.html": [{"ended": True}, {"ended": False}],
        "unavailable.html": [{"status": _AWAY, "target": "/"}],
        "whoami.html": [{"who": _WHO, "sign_out": "/out"}, {"who": None, "sign_out": "/out"}],
    },
}
_LINKS = {"Public": "https://public.localhost/", "Verify": "https://verify.localhost/"}


class Shown(NamedTuple):
    """A page as a browser gets it."""

    name: str
    """For whoever reads the failure."""
    text: str
    policy: str
    """Its content security policy."""


def unlisted() -> set[tuple[str, str]]:
    """Templates that are in a package and not here, or here and in no package."""
    there = {
        (package, item.name)
        for package in _RENDERED
        for item in (resources.files(package) / "templates").iterdir()
        if item.name.endswith(".html")
    }
    return there ^ {(package, name) for package, templates in _RENDERED.items() for name in templates}


def all_pages() -> list[Shown]:
    return [*_of_planes(), *_of_authorize(), *_of_envoy(), *asyncio.run(_of_the_demo())]


def _of_planes() -> Iterator[Shown]:
    request = Request({"type": "http", "headers": [(b"x-request-id", b"0" * 36)]})
    for package, templates in _RENDERED.items():
        pages = Pages(package)
        for template, cases in templates.items():
            for number, case in enumerate(cases):
                values = dict(case)
                status = values.pop("status", HTTPStatus.OK)
                assert isinstance(status, HTTPStatus)
                response = pages.page(request, template, status, **values)
                policy = response.headers["content-security-policy"]
                yield Shown(f"{package}/{template} {number}", bytes(response.body).decode(), policy)


def _of_authorize() -> Iterator[Shown]:
    remedies = ("groups has admins (saw eng)", "email is root@example.com")
    for name, who, told in (
        ("nobody", None, ()),
        ("one way", "bob@example.com", remedies[:1]),
        ("ways", "b", remedies),
    ):
        text = page("You may not open this page", ("The rules do not let you in.", "Ask IT."), "d-1-1", who, told)
        yield Shown(f"authorize, {name}", text, content_security_policy())


def _of_envoy() -> Iterator[Shown]:
    """What the proxy plane gives Envoy to say where nobody else does."""
    for number, mapper in enumerate(local_replies().mappers):
        form = mapper.body_format_override
        if not form.content_type.startswith("text/html"):
            continue
        text = _as_envoy_writes(form.text_format_source.inline_string)
        headers = {item.header.key: _as_envoy_writes(item.header.value) for item in mapper.headers_to_add}
        yield Shown(f"envoy {number}", text, headers["content-security-policy"])


def _as_envoy_writes(template: str) -> str:
    """A text in Envoy's format language, where the only command is the request's id."""
    written = template.replace("%REQ(X-REQUEST-ID)%", "0" * 36)
    assert "%" not in re.sub("%%", "", written), "a command that is not known here"
    return written.replace("%%", "%")


async def _of_the_demo() -> list[Shown]:
    client = Client(id="c", secret="s", redirect_uris=("https://a.localhost/cb",))  # nobody's secret
    wanted = {
        "client_id": "c", "redirect_uri": "https://a.localhost/cb", "response_type": "code", "scope": "openid",
        "code_challenge_method": "S256", "code_challenge": "x" * 43, "acr_values": "demo-strong",
    }  # fmt: skip
    provider = IdentityProvider("http://localhost", client, [], None).app()
    return [
        await _answered("demo, wrong password", provider, "POST", "/authorize", wanted),
        await _answered("demo, public", public_app(_LINKS), "GET", "/", {}),
        await _answered("demo, admin", admin_app(_LINKS), "GET", "/", {}),
    ]


async def _answered(name: str, app: Starlette, method: str, path: str, query: dict[str, str]) -> Shown:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.request(method, path, params=query)
    assert answer.headers["content-type"].startswith("text/html"), (name, answer.text)
    return Shown(name, answer.text, answer.headers["content-security-policy"])
