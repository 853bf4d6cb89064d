"""Three sample applications behind the demo: ``verify``, ``admin`` and ``public``.

    python -m doorward.demo.upstreams --verify-port N --admin-port N --public-port N --issuer URL --ca-file FILE
        --verify-url URL --admin-url URL --public-url URL

``verify`` does what an application should do: it fetches the public keys and verifies the assertion that it received.
"""

import argparse
import asyncio
import html
import json
import signal
import ssl
import time
import urllib.parse
from pathlib import Path
from typing import TypeAlias

import h2corn
import httpx
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from doorward.web.style import style, style_source

ASSERTION_HEADER = "x-doorward-jwt-assertion"
Links: TypeAlias = dict[str, str]
"""What a page links to: text and address."""
_KEYS_SECONDS = 300.0


class Verifier:
    """Verifies assertions with the keys that Doorward publishes."""

    def __init__(self, jwks_url: str, issuer: str, ca_file: Path) -> None:
        self._url = urllib.parse.urlsplit(jwks_url)
        self._issuer = issuer
        self._ca_file = ca_file
        self._keys: tuple[float, KeySet] | None = None

    async def verify(self, text: str | None, audience: str) -> dict[str, object]:
        """``valid``, ``claims`` and ``error`` for an assertion."""
        if text is None:
            return {"valid": False, "claims": None, "error": "no assertion was received"}
        try:
            token = jwt.decode(text, await self._key_set(), algorithms=["ES256"])
            registry = jwt.JWTClaimsRegistry(
                iss={"essential": True, "value": self._issuer},
                aud={"essential": True, "value": audience},
                exp={"essential": True},
                sub={"essential": True},
            )
            registry.validate(token.claims)
        except (JoseError, ValueError, httpx.HTTPError, OSError) as error:
            return {"valid": False, "claims": None, "error": f"{type(error).__name__}: {error}"}
        return {"valid": True, "claims": token.claims, "error": None}

    async def _key_set(self) -> KeySet:
        if self._keys is not None and time.monotonic() - self._keys[0] < _KEYS_SECONDS:
            return self._keys[1]
        # `*.localhost` resolves in browsers only: connect to the address, and name the host in TLS and HTTP.
        context = ssl.create_default_context(cafile=str(self._ca_file))
        async with httpx.AsyncClient(verify=context, trust_env=False) as client:
            response = await client.get(
                f"https://127.0.0.1:{self._url.port or 443}{self._url.path}",
                headers={"host": self._url.netloc},
                extensions={"sni_hostname": self._url.hostname},
            )
        response.raise_for_status()
        self._keys = (time.monotonic(), KeySet.import_key_set(response.json()))
        return self._keys[1]


def verify_app(verifier: Verifier, audience: str, links: Links) -> Starlette:
    """Shows what an upstream received."""

    async def report(request: Request) -> dict[str, object]:
        return {
            "method": request.method,
            "path": request.scope["raw_path"].decode("latin-1"),
            "query": request.url.query,
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers.raw],
            "assertion": await verifier.verify(request.headers.get(ASSERTION_HEADER), audience),
        }

    async def as_json(request: Request) -> Response:
        return JSONResponse(await report(request))

    async def as_page(request: Request) -> Response:
        assertion = await verifier.verify(request.headers.get(ASSERTION_HEADER), audience)
        claims = assertion["claims"]
        known = claims if isinstance(claims, dict) else {}
        who = html.escape(str(known.get("email", "nobody")))
        groups = html.escape(", ".join(known.get("groups", [])) or "none")
        verdict = (
            '<span class="good">genuine</span>: its signature, issuer, audience and time are right'
            if claims
            else f'<span class="bad">not valid</span>: {html.escape(str(assertion["error"]))}'
        )
        rows = "".join(
            f'<tr><th scope="row">{html.escape(name.decode("latin-1"))}</th>'
            f"<td>{html.escape(value.decode('latin-1'))}</td></tr>"
            for name, value in request.headers.raw
        )
        return _page(
            "What the application received",
            f'<dl><dt>You are</dt><dd><strong id="who">{who}</strong></dd>'
            f'<dt>Groups</dt><dd id="groups">{groups}</dd>'
            f'<dt>Assertion</dt><dd id="verdict">{verdict}</dd></dl>'
            f"<h2>What the assertion says</h2><pre>{html.escape(json.dumps(claims, indent=2))}</pre>"
            f"<h2>Request headers</h2><table><tbody>{rows}</tbody></table>",
            {**links, "Who am I?": "/.doorward/whoami", "Sign out": "/.doorward/sign_out"},
            wide=True,
        )

    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    return Starlette(routes=[Route("/json", as_json, methods=methods), Route("/{path:path}", as_page, methods=methods)])


def admin_app(links: Links) -> Starlette:
    """A page for a few."""

    async def answer(request: Request) -> Response:
        who = html.escape(request.headers.get("x-user-email", "unknown"))
        return _page(
            "Administration",
            f"<p>Only members of the group <code>admins</code> see this. You are <strong>{who}</strong>.</p>",
            {**links, "Who am I?": "/.doorward/whoami", "Sign out": "/.doorward/sign_out"},
        )

    return Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "HEAD", "POST"])])


def public_app(links: Links) -> Starlette:
    """A page for everyone."""

    async def answer(_: Request) -> Response:
        return _page(
            "Hello", "<p>This page is open to everyone, by policy. The others want to know you first.</p>", links
        )

    return Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "HEAD", "POST"])])


def _page(title: str, body: str, links: Links, *, wide: bool = False) -> Response:
    items = "".join(f'<li><a href="{html.escape(url)}">{html.escape(text)}</a></li>' for text, url in links.items())
    return HTMLResponse(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{style()}</style></head><body><main{' class=wide' if wide else ''}>"
        f'<h1>{title}</h1>{body}<nav><ul class="links">{items}</ul></nav></main></body></html>',
        headers={"content-security-policy": f"default-src 'none'; style-src {style_source()}"},
    )


async def serve_all(apps: dict[int, Starlette]) -> None:
    """Serve each application on its loopback port until SIGTERM or SIGINT, after printing a ready line."""
    servers = [
        h2corn.Server(
            app,
            h2corn.Config(bind=(f"127.0.0.1:{port}",), access_log=False, lifespan="off", timeout_graceful_shutdown=0.5),
        )
        for port, app in apps.items()
    ]

    def stop() -> None:
        for server in servers:
            server.shutdown()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    tasks = [asyncio.create_task(server.serve()) for server in servers]
    for server in servers:
        await server.wait_started()
    print(json.dumps({"ready": True, "ports": list(apps)}), flush=True)  # noqa: T201  # the process's one message to its parent
    await asyncio.gather(*tasks)


def main() -> None:
    """Entry point of the process."""
    parser = argparse.ArgumentParser(description="The demo's sample applications, on loopback.")
    for name in ("verify", "admin", "public"):
        parser.add_argument(f"--{name}-port", type=int, required=True)
        parser.add_argument(f"--{name}-url", required=True)
    parser.add_argument("--issuer", required=True)
    parser.add_argument("--ca-file", type=Path, required=True)
    options = parser.parse_args()
    links = {
        "Verify (anyone signed in)": options.verify_url,
        "Admin (group admins)": options.admin_url,
        "Public (everyone)": options.public_url,
    }
    audience = urllib.parse.urlsplit(options.verify_url).hostname or ""
    verifier = Verifier(f"{options.verify_url}/.well-known/doorward/jwks.json", options.issuer, options.ca_file)
    asyncio.run(
        serve_all(
            {
                options.verify_port: verify_app(verifier, audience, links),
                options.admin_port: admin_app(links),
                options.public_port: public_app(links),
            }
        )
    )


if __name__ == "__main__":
    main()
