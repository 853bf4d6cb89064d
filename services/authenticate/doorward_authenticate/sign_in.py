"""The sign-in host's pages: begin, finish and end a sign-in.

GET  /.doorward/sign_in?…              from a protected host: straight on with a live session, else to an identity provider
GET  /.doorward/sign_in/<provider>?…   the same, with the identity provider chosen, or a step-up tried once more
GET  /.doorward/callback/<provider>?…  back from the identity provider
GET  /.doorward/sign_out               asks;  POST ends the session
GET  /                                 who is signed in
"""

import hmac
import json
import urllib.parse
from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus

import structlog
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from doorward.clock import Clock
from doorward.config.settings import Settings
from doorward.errors import DoorwardError, InvalidTokenError
from doorward.identity.cookies import SIGN_IN_COOKIE, parse_cookies, single_cookie
from doorward.identity.user import user_id
from doorward.keys.flow import SIGN_IN, SignInRequest, SignInSigner, WantedStepUp
from doorward.keys.handle import HandleSealer, SessionHandle
from doorward.keys.sealed import Sealer, from_text, to_text
from doorward.route.internal import CALLBACK_PATH, SIGN_IN_PATH, SIGN_OUT_PATH
from doorward.web.pages import Pages, delete_cookie, private, set_cookie
from doorward.web.same_origin import is_same_origin
from doorward_authenticate.codes import Codes
from doorward_authenticate.errors import (
    NotStrongerError,
    OtherPersonError,
    ProviderRefusedError,
    ProviderUnavailableError,
    SignInError,
    TokenRejectedError,
)
from doorward_authenticate.identity_providers.claims import authentication_from
from doorward_authenticate.identity_providers.relying_party import RelyingParty, SignedInAt
from doorward_authenticate.pending import (
    LIFETIME_SECONDS,
    PendingSealer,
    PendingSignIn,
    cookie_name_for,
    new_pending,
    oldest_beyond_limit,
)
from doorward_authenticate.sessions import LiveSession, SessionWriter
from doorward_authenticate.step_up import (
    STEPPED_COOKIE,
    authorization_parameters,
    check_claims,
    is_satisfied,
    stepped_seconds,
)

_FORM_CONTEXT = b"sign-out form\0"
_PARAMETER_LIMIT = 4096

_log = structlog.stdlib.get_logger(__name__)


class SignInPages:
    """The handlers. ``settings`` and ``parties`` are replaced together when the configuration changes."""

    def __init__(
        self,
        *,
        settings: Settings,
        parties: Mapping[str, RelyingParty],
        pages: Pages,
        signer: SignInSigner,
        pending: PendingSealer,
        handles: HandleSealer,
        forms: Sealer,
        sessions: SessionWriter,
        codes: Codes,
        clock: Clock,
    ) -> None:
        self.settings = settings
        self.parties = parties
        self._pages = pages
        self._signer = signer
        self._pending = pending
        self._handles = handles
        self._forms = forms
        self._sessions = sessions
        self._codes = codes
        self._clock = clock

    async def begin(self, request: Request) -> Response:
        """A browser that a protected host has sent here."""
        try:
            wanted = self._signer.verify(request.url.query, self._clock.now())
        except InvalidTokenError as error:
            return self._refused(request, "sign-in request refused", error)
        if wanted.authority not in self.settings.routes_in_brief.authorities:
            return self._refused(request, "sign-in request for an unknown host", InvalidTokenError(wanted.authority))
        try:
            live = await self._live(request)
        except DoorwardError as error:
            return self._unavailable(request, error)
        if wanted.step_up is not None:
            return await self._step_up(request, wanted, wanted.step_up, live)
        if live is not None:
            return await self._back(request, live, wanted)
        return await self._sign_in(request, wanted)

    async def _sign_in(self, request: Request, wanted: SignInRequest) -> Response:
        chosen = request.path_params.get("provider")
        if chosen is None and len(self.parties) != 1:
            links = [
                (party.settings.name, f"{SIGN_IN_PATH}/{party.settings.id}?{request.url.query}")
                for party in self.parties.values()
            ]
            return self._pages.page(request, "choose.html", links=links, host=wanted.authority)
        party = self.parties.get(chosen) if chosen is not None else next(iter(self.parties.values()))
        if party is None:
            return self._refused(request, "unknown identity provider", InvalidTokenError("no such identity provider"))
        return await self._to_provider(request, party, wanted)

    async def _step_up(
        self, request: Request, wanted: SignInRequest, step_up: WantedStepUp, live: LiveSession | None
    ) -> Response:
        """See ``doorward_authenticate.step_up``."""
        try:
            asked = await self._sessions.live(step_up.session_id)
        except DoorwardError as error:
            return self._unavailable(request, error)
        if asked is None:
            # It has ended meanwhile: an ordinary sign-in, after which the host will say what it thinks of the new one.
            plain = replace(wanted, purpose=SIGN_IN, step_up=None)
            return await self._back(request, live, plain) if live is not None else await self._sign_in(request, plain)
        party = self.parties.get(asked.session.identity_provider_id)
        if party is None:
            return self._refused(
                request, "step-up at an unknown identity provider", InvalidTokenError("not configured")
            )
        if (
            live is not None
            and live.session.id != asked.session.id
            and live.session.user_id == asked.session.user_id
            and is_satisfied(step_up, live.session, self._clock.now())
        ):
            return await self._back(request, live, wanted)
        chosen = request.path_params.get("provider") is not None
        stepped = (_cookie(request, STEPPED_COOKIE) or "").encode()
        if not chosen and hmac.compare_digest(stepped, asked.session.id.encode()):
            return self._try_again(request, NotStrongerError("a step-up did not satisfy the policy"), wanted, party)
        more = authorization_parameters(step_up, party.settings, insist=chosen)
        return await self._to_provider(request, party, wanted, more)

    async def finish(self, request: Request) -> Response:
        """A browser back from an identity provider."""
        query = request.query_params
        state, code = _single(query, "state"), _single(query, "code")
        repeated = len(query) != len(query.multi_items())
        name = cookie_name_for(state) if state is not None else None
        value = _cookie(request, name) if name is not None else None
        if state is None or name is None or value is None:
            return self._refused(request, "a callback without its sign-in", InvalidTokenError("no such sign-in here"))
        party = self.parties.get(request.path_params["provider"])
        try:
            pending = self._pending.open(name, value, state, self._clock.now())
            if party is None or pending.provider_id != party.settings.id:
                raise TokenRejectedError("the answer came to another identity provider's address")
            if repeated:
                # RFC 6749, section 3.1. An issuer that stands twice must not count as one that is not named.
                raise TokenRejectedError("the answer names a parameter twice")
            error = _single(query, "error")
            if error is not None:
                _require_issuer(query, party)
                raise ProviderRefusedError(f"it answered `{error[:64]}`")
            if code is None:
                raise TokenRejectedError("the answer brings no code")
            since = await self._sessions.moment()
            signed_in = await party.finish(
                code=code,
                response_issuer=_single(query, "iss"),
                nonce=pending.nonce,
                code_verifier=pending.code_verifier,
            )
            replaced = {id_ for id_ in (self._session_id(request),) if id_ is not None}
            replaced |= await self._confirmed(party, signed_in, pending.request)
            live = await self._sessions.begin(party, signed_in, replaced, since)
        except (OtherPersonError, NotStrongerError) as failure:
            response = self._try_again(request, failure, pending.request, party)
        except (SignInError, InvalidTokenError) as failure:
            response = self._failed(request, failure)
        except DoorwardError as failure:
            response = self._unavailable(request, failure)
        else:
            _log.info("signed in", user_id=live.session.user_id, identity_provider=live.session.identity_provider_id)
            response = await self._signed_in(request, live, pending)
        delete_cookie(response, name)
        return response

    async def home(self, request: Request) -> Response:
        """Who is signed in here."""
        try:
            live = await self._live(request)
        except DoorwardError as error:
            return self._unavailable(request, error)
        return self._pages.page(
            request,
            "home.html",
            signed_in=live is not None,
            who=_shown_name(live.session.claims_json) if live is not None else None,
            sign_out=SIGN_OUT_PATH,
        )

    async def ask_sign_out(self, request: Request) -> Response:
        """Ask before signing out."""
        session_id = self._session_id(request)
        if session_id is None:
            return self._pages.page(request, "signed_out.html", ended=False)
        token = to_text(self._forms.seal(session_id.encode(), _FORM_CONTEXT))
        return self._pages.page(request, "sign_out.html", action=SIGN_OUT_PATH, token=token)

    async def sign_out(self, request: Request) -> Response:
        """End the session; the form's token says that the page before was ours and about this session."""
        if not is_same_origin(request):
            return self._refused(request, "a sign-out of another site", InvalidTokenError("not this host's own page"))
        session_id = self._session_id(request)
        if session_id is not None:
            try:
                self._check_form(await _form_token(request), session_id)
            except InvalidTokenError as error:
                return self._refused(request, "a sign-out without its form", error)
            try:
                await self._sessions.end(session_id)
            except DoorwardError as error:
                return self._unavailable(request, error, template="not_signed_out.html")
        response = self._pages.page(request, "signed_out.html", ended=session_id is not None)
        delete_cookie(response, SIGN_IN_COOKIE)
        return response

    async def _confirmed(
        self, party: RelyingParty, signed_in: SignedInAt, wanted: SignInRequest | None
    ) -> frozenset[str]:
        """The session that a step-up confirms, and none for an ordinary sign-in.

        Raises:
            SignInError: somebody else has signed in, not as was asked for, or there is no such session any more.
        """
        if wanted is None or wanted.step_up is None:
            return frozenset()
        asked = await self._sessions.live(wanted.step_up.session_id)
        if asked is None:
            raise TokenRejectedError("the session that was to be confirmed has ended")
        if asked.session.user_id != user_id(party.settings.issuer, str(signed_in.claims["sub"])):
            raise OtherPersonError("somebody else has signed in to confirm a session")
        check_claims(wanted.step_up, authentication_from(signed_in.claims), self._clock.now())
        return frozenset({asked.session.id})

    async def _to_provider(
        self, request: Request, party: RelyingParty, wanted: SignInRequest, more: Mapping[str, str] | None = None
    ) -> Response:
        pending = new_pending(party.settings.id, wanted, self._clock.now())
        try:
            url = await party.authorization_url(
                state=pending.state, nonce=pending.nonce, code_verifier=pending.code_verifier, more=more or {}
            )
        except SignInError as error:
            return self._failed(request, error)
        response = private(RedirectResponse(url, HTTPStatus.FOUND))
        set_cookie(response, pending.cookie_name, self._pending.seal(pending), LIFETIME_SECONDS)
        for name in oldest_beyond_limit(_cookie_names(request)):
            delete_cookie(response, name)
        return response

    async def _signed_in(self, request: Request, live: LiveSession, pending: PendingSignIn) -> Response:
        if pending.request is None:
            response = private(RedirectResponse("/", HTTPStatus.FOUND))
        else:
            response = await self._back(request, live, pending.request)
        handle = SessionHandle(
            session_id=live.session.id,
            audience=self.settings.authenticate_host,
            expires_at=int(live.session.expires_at),
            epoch=live.version.epoch,
            number=live.version.number,
        )
        life = max(0, int(live.session.expires_at - self._clock.now()))
        set_cookie(response, SIGN_IN_COOKIE, self._handles.mint(handle), life)
        if pending.request is not None and pending.request.step_up is not None:
            set_cookie(response, STEPPED_COOKIE, live.session.id, stepped_seconds(pending.request.step_up))
        return response

    async def _back(self, request: Request, live: LiveSession, wanted: SignInRequest) -> Response:
        """To the protected host, with a code. The host was signed by authorize and is a configured one."""
        try:
            code = await self._codes.mint(live, wanted)
        except DoorwardError as error:
            return self._unavailable(request, error)
        query = urllib.parse.urlencode({"code": code, "cookie": wanted.flow_name})
        return private(RedirectResponse(f"https://{wanted.authority}{CALLBACK_PATH}?{query}", HTTPStatus.FOUND))

    async def _live(self, request: Request) -> LiveSession | None:
        """The browser's session on the sign-in host, while it lives and its identity provider is still accepted."""
        session_id = self._session_id(request)
        live = None if session_id is None else await self._sessions.live(session_id)
        if live is None or live.session.identity_provider_id not in self.parties:
            return None
        return live

    def _session_id(self, request: Request) -> str | None:
        text = _cookie(request, SIGN_IN_COOKIE)
        if text is None:
            return None
        try:
            return self._handles.open(text, self.settings.authenticate_host, self._clock.now()).session_id
        except InvalidTokenError:
            return None

    def _check_form(self, token: str, session_id: str) -> None:
        named = self._forms.open(from_text(token, _PARAMETER_LIMIT), _FORM_CONTEXT)
        if not hmac.compare_digest(named, session_id.encode()):
            raise InvalidTokenError("the form is about another session")

    def _refused(self, request: Request, event: str, error: Exception) -> Response:
        _log.warning(event, request_id=_request_id(request), reason=str(error))
        return self._pages.page(request, "refused.html", HTTPStatus.BAD_REQUEST)

    def _failed(self, request: Request, error: Exception) -> Response:
        _log.warning("a sign-in failed", request_id=_request_id(request), kind=type(error).__name__, reason=str(error))
        match error:
            case ProviderUnavailableError():
                return self._pages.page(request, "provider_unavailable.html", HTTPStatus.BAD_GATEWAY)
            case ProviderRefusedError():
                return self._pages.page(request, "provider_refused.html", HTTPStatus.FORBIDDEN)
            case _:
                return self._pages.page(request, "failed.html", HTTPStatus.BAD_REQUEST)

    def _try_again(
        self, request: Request, error: SignInError, wanted: SignInRequest | None, party: RelyingParty | None
    ) -> Response:
        """A step-up that came to nothing, with a button: the way round again is a person's to choose."""
        if wanted is None or party is None:
            return self._failed(request, error)
        _log.warning("a step-up failed", request_id=_request_id(request), kind=type(error).__name__, reason=str(error))
        template = "other_person.html" if isinstance(error, OtherPersonError) else "not_stronger.html"
        again = f"{SIGN_IN_PATH}/{party.settings.id}?{self._signer.sign(wanted)}"
        values = {"host": wanted.authority, "provider": party.settings.name, "again": again, "sign_out": SIGN_OUT_PATH}
        return self._pages.page(request, template, HTTPStatus.FORBIDDEN, **values)

    def _unavailable(self, request: Request, error: Exception, template: str = "unavailable.html") -> Response:
        _log.error("sessions are not available", request_id=_request_id(request), reason=str(error))
        return self._pages.page(request, template, HTTPStatus.SERVICE_UNAVAILABLE)


def _shown_name(claims_json: bytes) -> str | None:
    """What a person may be called on a page that only they see; nothing is decided by it."""
    claims = json.loads(claims_json or b"{}")
    for name in ("email", "name", "preferred_username"):
        if isinstance(claims.get(name), str) and claims[name]:
            return str(claims[name])
    return None


def _single(query: Mapping[str, str], name: str) -> str | None:
    """A query parameter that stands there exactly once and is not absurdly long."""
    values = query.getlist(name) if hasattr(query, "getlist") else []
    return values[0] if len(values) == 1 and len(values[0]) <= _PARAMETER_LIMIT else None


def _require_issuer(query: Mapping[str, str], party: RelyingParty) -> None:
    """RFC 9207: an error of another issuer is not this one's word."""
    issuer = _single(query, "iss")
    if issuer is not None and issuer != party.settings.issuer:
        raise TokenRejectedError("the answer names another issuer")


def _cookie(request: Request, name: str) -> str | None:
    return single_cookie(parse_cookies(_cookie_lines(request)), name)


def _cookie_names(request: Request) -> list[str]:
    return [name.decode("ascii", "replace") for name, _ in parse_cookies(_cookie_lines(request))]


def _cookie_lines(request: Request) -> list[bytes]:
    return [value for key, value in request.headers.raw if key == b"cookie"]


async def _form_token(request: Request) -> str:
    async with request.form(max_files=0, max_fields=4, max_part_size=_PARAMETER_LIMIT) as form:
        token = form.get("token")
        return token if isinstance(token, str) else ""


def _request_id(request: Request) -> str:
    return request.headers.get("x-request-id", "")
