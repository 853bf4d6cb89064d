"""A development-only OpenID provider: authorization code with PKCE (S256, enforced), refresh with rotation, userinfo, logout.

    python -m doorward.demo.identity_provider --port N --data DIR --client-id ID --client-secret-file FILE --redirect-uri URI

It takes `max_age`, `prompt` and `acr_values`, of which `mfa` asks for a code that is printed on the page. It listens on 127.0.0.1 and ::1 as ``http://localhost:N``. ``--faults`` opens ``POST /_faults`` for tests, which makes
it misbehave, ``GET /_asked``, which counts how often keys were asked for, and ``GET /_issued``, which tells all tokens.
"""

import argparse
import asyncio
import base64
import contextlib
import hashlib
import hmac
import html
import json
import secrets
import signal
import socket
import time
import urllib.parse
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import h2corn
from joserfc.jwk import ECKey, Key, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from doorward.demo.faults import FOREIGN_KEYS_PATH, Faults
from doorward.demo.users import DEMO_USERS, DemoUser
from doorward.web.style import style, style_source

_LIFE_SECONDS = 300
_CODE_SECONDS = 60
_COOKIE = "demo-identity-provider"
ONE_TIME_CODE = "123456"
"""Published like the passwords: it opens nothing but a demo."""
_STRONG = "mfa"


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A registered relying party."""

    id: str
    secret: str
    redirect_uris: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a code or refresh token stands for."""

    user: DemoUser
    client_id: str
    redirect_uri: str
    nonce: str
    scope: str
    challenge: str
    login: "Login"
    expires_at: float


@dataclass(frozen=True, slots=True)
class Login:
    """Somebody who has shown a password, and perhaps a code, in this browser."""

    user: DemoUser
    at: int
    is_strong: bool


class IdentityProvider:
    """The provider's state and handlers."""

    def __init__(self, issuer: str, client: Client, keys: list[Key], faults: Faults | None) -> None:
        self._issuer = issuer
        self._client = client
        self._keys = keys
        self._codes: dict[str, Grant] = {}
        self._refresh: dict[str, Grant] = {}
        self._access: dict[str, tuple[DemoUser, float]] = {}
        self._signed_in: dict[str, Login] = {}
        self._faults_open = faults is not None
        self._faults = faults or Faults()
        self._asked: Counter[str] = Counter()
        self._issued: list[dict[str, str]] = []
        """Every answer with tokens, while faults are open: tests look for them where they must not be."""

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/.well-known/openid-configuration", self._metadata),
            Route("/jwks", self._jwks),
            Route("/authorize", self._authorize, methods=["GET", "POST"]),
            Route("/token", self._token, methods=["POST"]),
            Route("/userinfo", self._userinfo),
            Route("/logout", self._logout, methods=["GET", "POST"]),
        ]
        if self._faults_open:
            routes.append(Route("/_faults", self._set_faults, methods=["POST"]))
            routes.append(Route("/_asked", self._what_was_asked))
            routes.append(Route("/_issued", self._what_was_issued))
            routes.append(Route(FOREIGN_KEYS_PATH, self._jwks))
        return Starlette(routes=routes)

    async def _set_faults(self, request: Request) -> Response:
        self._faults = Faults(**await request.json())
        return JSONResponse({})

    async def _what_was_asked(self, _: Request) -> Response:
        return JSONResponse(self._asked)

    async def _what_was_issued(self, _: Request) -> Response:
        return JSONResponse(self._issued)

    async def _metadata(self, _: Request) -> Response:
        return JSONResponse(
            {
                "issuer": self._faults.metadata_issuer or self._issuer,
                "authorization_endpoint": f"{self._issuer}/authorize",
                "token_endpoint": f"{self._issuer}/token",
                "userinfo_endpoint": f"{self._issuer}/userinfo",
                "jwks_uri": f"{self._issuer}/jwks",
                "end_session_endpoint": f"{self._issuer}/logout",
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256", "ES256"],
                "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
                "code_challenge_methods_supported": ["S256"],
                "acr_values_supported": ["demo", _STRONG],
                "scopes_supported": ["openid", "email", "profile", "groups", "offline_access"],
                "authorization_response_iss_parameter_supported": True,
            }
        )

    async def _jwks(self, request: Request) -> Response:
        self._asked[request.url.path] += 1
        if self._faults.garbage_keys:
            return Response("{", media_type="application/json")
        return JSONResponse({"keys": [{**key.as_dict(private=False), "use": "sig"} for key in self._keys]})

    async def _authorize(self, request: Request) -> Response:
        query = request.query_params
        redirect_uri = query.get("redirect_uri", "")
        if query.get("client_id") != self._client.id or redirect_uri not in self._client.redirect_uris:
            # Never redirect to what is not registered (RFC 6749, section 4.1.2.1).
            return _page("Unknown application", "<p>The application or its address is not registered here.</p>", 400)
        if self._faults.authorization_error:
            return self._answer(redirect_uri, query.get("state"), error=self._faults.authorization_error)
        if query.get("response_type") != "code":
            return self._answer(redirect_uri, query.get("state"), error="unsupported_response_type")
        if query.get("code_challenge_method") != "S256" or len(query.get("code_challenge", "")) != 43:
            return self._answer(redirect_uri, query.get("state"), error="invalid_request")
        if "openid" not in query.get("scope", "").split():
            return self._answer(redirect_uri, query.get("state"), error="invalid_scope")
        known = self._signed_in.get(request.cookies.get(_COOKIE, ""))
        wants_strong = _STRONG in query.get("acr_values", "").split()
        if request.method == "POST":
            form = await request.form()
            user = _user(str(form.get("email", "")), str(form.get("password", "")))
            has_code = hmac.compare_digest(str(form.get("code", "")).encode(), ONE_TIME_CODE.encode())
            if user is None or (wants_strong and not has_code):
                return self._login_page(request, wrong=True)
            handle = secrets.token_urlsafe(24)
            known = self._signed_in[handle] = Login(user, int(time.time()), has_code)
            response = self._grant(request, known)
            response.set_cookie(_COOKIE, handle, httponly=True, samesite="lax")
            return response
        max_age = query.get("max_age", "")
        too_old = known is not None and max_age.isdigit() and time.time() - known.at > int(max_age)
        too_weak = known is not None and wants_strong and not known.is_strong
        if known is None or too_old or too_weak or "login" in query.get("prompt", "").split():
            if "none" in query.get("prompt", "").split():
                return self._answer(redirect_uri, query.get("state"), error="login_required")
            return self._login_page(request, wrong=False)
        return self._grant(request, known)

    def _grant(self, request: Request, login: Login) -> Response:
        query = request.query_params
        code = secrets.token_urlsafe(24)
        self._codes[code] = Grant(
            user=login.user,
            client_id=query["client_id"],
            redirect_uri=query["redirect_uri"],
            nonce=query.get("nonce", ""),
            scope=query.get("scope", ""),
            challenge=query["code_challenge"],
            login=login,
            expires_at=time.time() + _CODE_SECONDS,
        )
        return self._answer(query["redirect_uri"], query.get("state"), code=code)

    def _answer(self, redirect_uri: str, state: str | None, **parameters: str) -> Response:
        values = dict(parameters)
        if state is not None:
            values["state"] = state
        if not self._faults.no_response_issuer:
            values["iss"] = self._faults.response_issuer or self._issuer
        return RedirectResponse(f"{redirect_uri}?{urllib.parse.urlencode(values)}", 303)

    async def _token(self, request: Request) -> Response:
        form = {name: str(value) for name, value in (await request.form()).items()}
        if self._faults.token_body:
            return Response(self._faults.token_body, self._faults.token_status or 200, media_type="application/json")
        if self._faults.token_status:
            return JSONResponse({"error": "server_error"}, self._faults.token_status)
        if not self._authenticated(request, form):
            return JSONResponse({"error": "invalid_client"}, 401, {"www-authenticate": "Basic"})
        if form.get("grant_type") == "refresh_token":
            grant = self._refresh.pop(form.get("refresh_token", ""), None)
            if grant is None:
                return JSONResponse({"error": "invalid_grant"}, 400)
            return self._tokens(grant, nonce=False)
        if form.get("grant_type") != "authorization_code":
            return JSONResponse({"error": "unsupported_grant_type"}, 400)
        # Taken out first: a code is good for one attempt (RFC 6749, section 4.1.2).
        grant = self._codes.pop(form.get("code", ""), None)
        verifier = form.get("code_verifier", "")
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        if (
            grant is None
            or time.time() >= grant.expires_at
            or grant.redirect_uri != form.get("redirect_uri")
            or not 43 <= len(verifier) <= 128
            or not hmac.compare_digest(challenge, grant.challenge)
        ):
            return JSONResponse({"error": "invalid_grant"}, 400)
        return self._tokens(grant, nonce=True)

    def _authenticated(self, request: Request, form: dict[str, str]) -> bool:
        header = request.headers.get("authorization", "")
        if header.lower().startswith("basic "):
            try:
                client_id, _, secret = base64.b64decode(header[6:]).decode().partition(":")
            except ValueError:
                return False
        else:
            client_id, secret = form.get("client_id", ""), form.get("client_secret", "")
        return client_id == self._client.id and hmac.compare_digest(secret.encode(), self._client.secret.encode())

    def _tokens(self, grant: Grant, *, nonce: bool) -> Response:
        now = int(time.time())
        access = secrets.token_urlsafe(24)
        self._access[access] = (grant.user, now + _LIFE_SECONDS)
        half = hashlib.sha256(access.encode()).digest()[:16]
        claims: dict[str, object] = {
            "iss": self._issuer,
            "sub": grant.user.subject,
            "aud": grant.client_id,
            "iat": now,
            "exp": now + _LIFE_SECONDS,
            "auth_time": grant.login.at,
            "amr": ["pwd", "otp", "mfa"] if grant.login.is_strong else ["pwd"],
            "acr": _STRONG if grant.login.is_strong else "demo",
            "at_hash": base64.urlsafe_b64encode(half).rstrip(b"=").decode(),
            **_person(grant.user, grant.scope),
        }
        if nonce and grant.nonce:
            claims["nonce"] = grant.nonce
        answer = {
            "access_token": access,
            "token_type": "Bearer",
            "expires_in": _LIFE_SECONDS,
            "id_token": self._faults.sign(claims, self._keys),
            "scope": grant.scope,
        }
        if "offline_access" in grant.scope.split():
            refresh = secrets.token_urlsafe(24)
            self._refresh[refresh] = grant
            answer["refresh_token"] = refresh
        if self._faults_open:
            kinds = ("access_token", "id_token", "refresh_token")
            self._issued.append({kind: str(answer[kind]) for kind in kinds if kind in answer})
        return JSONResponse(answer, headers={"cache-control": "no-store"})

    async def _userinfo(self, request: Request) -> Response:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        user, expires_at = self._access.get(token, (None, 0.0))
        if user is None or time.time() >= expires_at:
            return JSONResponse({"error": "invalid_token"}, 401, {"www-authenticate": "Bearer"})
        subject = self._faults.userinfo_subject or user.subject
        return JSONResponse({"sub": subject, **_person(user, "email profile groups")})

    async def _logout(self, request: Request) -> Response:
        self._signed_in.pop(request.cookies.get(_COOKIE, ""), None)
        response = _page("Signed out", "<p>You are signed out of the demo identity provider.</p>", 200)
        response.delete_cookie(_COOKIE)
        return response

    def _login_page(self, request: Request, *, wrong: bool) -> Response:
        people = "".join(
            f"<tr><td><code>{html.escape(user.email)}</code></td><td><code>{html.escape(user.password)}</code></td>"
            f"<td>{html.escape(', '.join(user.groups) or 'none')}</td></tr>"
            for user in DEMO_USERS
        )
        message = (
            '<p class="bad" role="alert">That e-mail address and password do not belong together.</p>' if wrong else ""
        )
        action = html.escape(f"/authorize?{request.url.query}")
        code = (
            f'<label for="code">Code (here always {ONE_TIME_CODE})</label>'
            '<input id="code" name="code" inputmode="numeric" autocomplete="one-time-code" required>'
            if _STRONG in request.query_params.get("acr_values", "").split()
            else ""
        )
        return _page(
            "Demo identity provider",
            f'{message}<form method="post" action="{action}">'
            '<label for="email">E-mail</label><input id="email" name="email" type="email" autocomplete="username" required autofocus>'
            '<label for="password">Password</label><input id="password" name="password" type="password" autocomplete="current-password" required>'
            f'{code}<button type="submit">Sign in</button></form><h2>Demo users</h2>'
            f"<table><thead><tr><th>E-mail</th><th>Password</th><th>Groups</th></tr></thead><tbody>{people}</tbody></table>",
            200,
        )


def _page(title: str, body: str, status: int) -> Response:
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{style()}</style></head><body><main><h1>{title}</h1>{body}</main></body></html>"
    )
    # No form-action: the answer to the form redirects to the relying party, wherever that is.
    policy = f"default-src 'none'; style-src {style_source()}; base-uri 'none'; frame-ancestors 'none'"
    headers = {"content-security-policy": policy, "cache-control": "no-store", "referrer-policy": "no-referrer"}
    return HTMLResponse(text, status, headers)


def _user(email: str, password: str) -> DemoUser | None:
    for user in DEMO_USERS:
        if user.email == email and hmac.compare_digest(user.password.encode(), password.encode()):
            return user
    return None


def _person(user: DemoUser, scope: str) -> dict[str, object]:
    wanted = scope.split()
    claims: dict[str, object] = {}
    if "email" in wanted:
        claims |= {"email": user.email, "email_verified": True}
    if "profile" in wanted:
        claims["name"] = user.name
    if "groups" in wanted:
        claims["groups"] = list(user.groups)
    return claims


def load_keys(folder: Path) -> list[Key]:
    """The provider's signing keys, made on first use and kept in ``folder``."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "keys.json"
    if not path.exists():
        fresh: list[Key] = [
            RSAKey.generate_key(2048, {"alg": "RS256", "kid": "rsa"}),
            ECKey.generate_key("P-256", {"alg": "ES256", "kid": "ec"}),
        ]
        path.touch(mode=0o600)
        path.write_text(json.dumps([key.as_dict(private=True) for key in fresh]))
    rsa, ec = json.loads(path.read_text())
    return [RSAKey.import_key(rsa), ECKey.import_key(ec)]


async def serve(app: Starlette, port: int) -> None:
    """Serve ``app`` on loopback until SIGTERM or SIGINT, after printing a ready line."""
    binds = [f"127.0.0.1:{port}"]
    if _has_ipv6():
        binds.append(f"[::1]:{port}")
    config = h2corn.Config(bind=tuple(binds), access_log=False, lifespan="off", timeout_graceful_shutdown=0.5)
    server = h2corn.Server(app, config)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.shutdown)
    task = asyncio.create_task(server.serve())
    await server.wait_started()
    print(json.dumps({"ready": True, "port": port}), flush=True)  # noqa: T201  # the process's one message to its parent
    await task


def _has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


def main() -> None:
    """Entry point of the process."""
    parser = argparse.ArgumentParser(description="Development-only OpenID provider on loopback.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--client-id", required=True)
    parser.add_argument("--client-secret-file", type=Path, required=True)
    parser.add_argument("--redirect-uri", action="append", required=True)
    parser.add_argument("--faults", action="store_true", help="open POST /_faults, for tests")
    options = parser.parse_args()
    client = Client(
        id=options.client_id,
        secret=options.client_secret_file.read_text().strip(),
        redirect_uris=tuple(options.redirect_uri),
    )
    provider = IdentityProvider(
        f"http://localhost:{options.port}", client, load_keys(options.data), Faults() if options.faults else None
    )
    asyncio.run(serve(provider.app(), options.port))


if __name__ == "__main__":
    main()
