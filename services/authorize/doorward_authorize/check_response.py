"""Outcome → CheckResponse: the answer in the form that the caller understands."""

import json

from doorward.clock import Clock
from doorward.config.settings import Settings
from doorward.envoy_api.envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from doorward.envoy_api.envoy.service.auth.v3.external_auth_pb2 import (
    CheckResponse,
    DeniedHttpResponse,
    OkHttpResponse,
)
from doorward.envoy_api.envoy.type.v3.http_status_pb2 import HttpStatus
from doorward.identity.cookies import without_ours
from doorward.keys.flow import WantedStepUp
from doorward.route.internal import (
    ASSERTION_HEADER,
    CLIENT_ADDRESS_HEADER,
    DECISION_ID_HEADER,
    TOKEN_HEADER,
)
from doorward.route.route import Route
from doorward.web.refusal_page import SECURITY_HEADERS
from doorward.web.retry_after import RETRY_AFTER
from doorward_authorize.assertion import AssertionSigner
from doorward_authorize.certificate import VerifiedCertificate
from doorward_authorize.check_request import CheckedRequest
from doorward_authorize.cross_origin import PREFLIGHT_SECONDS
from doorward_authorize.external_tokens import presented_externally
from doorward_authorize.guard.description import described
from doorward_authorize.identity_headers import identity_headers
from doorward_authorize.kubernetes import TokenFiles, impersonation
from doorward_authorize.outcome import Outcome, Verdict
from doorward_authorize.principal import Principal
from doorward_authorize.refusals import refused
from doorward_authorize.service_accounts import is_in_authorization
from doorward_authorize.sign_in_redirect import SignInRedirect
from doorward_authorize.upstream_tokens import ProviderTokens, UpstreamTokens

_OVERWRITE = HeaderValueOption.HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
_APPEND = HeaderValueOption.HeaderAppendAction.APPEND_IF_EXISTS_OR_ADD
_OK = 0
READY_LIMIT_BYTES = 32 * 1024 * 1024
_ENTRY_BYTES = 600
"""What a remembered answer costs besides its bytes."""
_COOKIE_BYTES = 130
"""What a cookie in a key costs besides its bytes."""
Cookies = tuple[tuple[bytes, bytes], ...]
_PERMISSION_DENIED = 7


class Responder:
    """Words answers. Concurrency: belongs to one event loop."""

    def __init__(
        self,
        signer: AssertionSigner,
        redirect: SignInRedirect,
        clock: Clock,
        tokens: UpstreamTokens | None = None,
    ) -> None:
        self._clock = clock
        self._tokens = tokens if tokens is not None else UpstreamTokens(lambda *_: None, clock)
        self._token_files = TokenFiles(clock)
        self._signer = signer
        self._redirect = redirect
        self._ready: dict[
            tuple[int, int, Cookies, bool, str, bool, str | None, ProviderTokens, str | None, str | None],
            tuple[Route, Principal | None, bytes],
        ] = {}
        self._ready_bytes = 0

    def response(
        self, request: CheckedRequest, outcome: Outcome, settings: Settings, decision_id: str, traceparent: str = ""
    ) -> tuple[bytes, int]:
        """The serialized CheckResponse and the HTTP status that the client gets from it; 200 stands for "passed on".

        ``traceparent`` is for the spans of a stream that begins.
        """
        if outcome.verdict is Verdict.ALLOW:
            return self._allowed(request, outcome, settings, decision_id, traceparent), 200
        response, status = self._answered(request, outcome, settings, decision_id)
        return response.SerializeToString(), status

    def _answered(
        self, request: CheckedRequest, outcome: Outcome, settings: Settings, decision_id: str
    ) -> tuple[CheckResponse, int]:
        match outcome.verdict:
            case Verdict.PREFLIGHT:
                return self._preflight(request, outcome), 204
            case Verdict.SIGN_IN | Verdict.STEP_UP if request.is_navigation and outcome.route is not None:
                headers = self._redirect.headers(request, outcome.route.route, settings, _wanted(outcome))
                return _denied(302, [*headers, *SECURITY_HEADERS], ""), 302
            case _:
                refusal = refused(request, outcome, settings, decision_id, self._clock.now())
                return _denied(refusal.http_status, refusal.headers, refusal.body), refusal.status

    def _allowed(
        self, request: CheckedRequest, outcome: Outcome, settings: Settings, decision_id: str, traceparent: str
    ) -> bytes:
        if outcome.route is None:
            return self._own_page(request, outcome.principal, settings, decision_id).SerializeToString()
        route = outcome.route.route
        answer = self._passed(
            route,
            outcome.principal,
            request.cookies,
            "cookie" in request.headers,
            settings.authenticate_origin,
            _withholds_authorization(request, route, settings),
            request.certificate if route.request_templates else None,
        )
        if route.continuous:
            # Serialized messages put one after the other are one message with the fields of both.
            metadata = described(request, outcome, decision_id, traceparent)
            answer += CheckResponse(dynamic_metadata=metadata).SerializeToString()
        return answer

    def _own_page(
        self, request: CheckedRequest, principal: Principal | None, settings: Settings, decision_id: str
    ) -> CheckResponse:
        """Our own pages need the cookies, and are told who is signed in."""
        to_set = {DECISION_ID_HEADER: decision_id}
        if principal is not None:
            to_set[ASSERTION_HEADER] = self._signer.sign(principal, settings.authenticate_origin, request.host)
        return _ok(to_set, {CLIENT_ADDRESS_HEADER, TOKEN_HEADER, ASSERTION_HEADER})

    def _passed(
        self,
        route: Route,
        principal: Principal | None,
        cookies: Cookies,
        sent: bool,
        issuer: str,
        token_sent: bool,
        certificate: VerifiedCertificate | None,
    ) -> bytes:
        """The answer that lets a request through to an operator's upstream, made once for equal inputs.

        INVARIANT: it depends on these parameters and the present assertion, and on nothing else; the key names all of them. Whatever
        else an answer is to depend on becomes a parameter first. Routes and principals are compared as objects: both are replaced
        whole when anything about them changes, and the entry keeps them alive, so that no other object gets their id.
        """
        assertion = None
        if principal is not None and (route.pass_assertion or route.request_templates):
            assertion = self._signer.sign(principal, issuer, route.host)
        tokens: ProviderTokens = ()
        if principal is not None and route.provider_tokens:
            tokens = self._tokens.of(principal, route.provider_tokens)
        speaks_by = None if route.kubernetes_token_file is None else self._token_files.read(route.kubernetes_token_file)
        presented = None if certificate is None else certificate.facts.fingerprint
        key = (id(route), id(principal), cookies, sent, issuer, token_sent, assertion, tokens, speaks_by, presented)
        known = self._ready.get(key)
        if known is not None:
            return known[2]
        answer = self._upstream(
            route, principal, cookies, sent, issuer, tokens, speaks_by, certificate, token_sent=token_sent
        ).SerializeToString()
        # Cookies of ours are in no answer, but they are in the key, and anybody may send any number of bytes called so.
        cost = len(answer) + _ENTRY_BYTES + sum(len(name) + len(value) + _COOKIE_BYTES for name, value in cookies)
        self._ready_bytes += cost
        if self._ready_bytes > READY_LIMIT_BYTES:
            self._ready.clear()
            self._ready_bytes = cost
        self._ready[key] = (route, principal, answer)
        return answer

    def _upstream(
        self,
        route: Route,
        principal: Principal | None,
        cookies: Cookies,
        sent: bool,
        issuer: str,
        tokens: ProviderTokens,
        speaks_by: str | None,
        certificate: VerifiedCertificate | None,
        *,
        token_sent: bool,
    ) -> CheckResponse:
        to_set: dict[str, str] = {}
        to_remove = {CLIENT_ADDRESS_HEADER, TOKEN_HEADER, ASSERTION_HEADER}
        if token_sent:
            to_remove.add("authorization")
        for name, value in identity_headers(route, principal, self._signer, issuer, tokens, certificate):
            if value is None:
                to_remove.add(name)
            else:
                to_set[name] = value
        theirs = without_ours(cookies)
        if theirs:
            to_set["cookie"] = theirs.decode("latin-1")
        elif sent:
            to_remove.add("cookie")
        if speaks_by is not None:
            to_set.update(impersonation(principal, speaks_by))
        return _ok(to_set, to_remove)

    def _preflight(self, request: CheckedRequest, outcome: Outcome) -> CheckResponse:
        """An answer to a listed origin (Fetch, section 3.2.6); the upstream never sees the preflight."""
        methods = outcome.route.route.methods if outcome.route is not None else ()
        headers = [
            ("access-control-allow-origin", request.header("origin") or "null"),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-methods", ", ".join(methods)),
            ("access-control-max-age", str(PREFLIGHT_SECONDS)),
            ("vary", "origin"),
        ]
        wanted = request.header("access-control-request-headers")
        if wanted and all(" " <= character <= "~" for character in wanted):
            headers.append(("access-control-allow-headers", wanted))
        return _denied(204, headers, "")


def _wanted(outcome: Outcome) -> WantedStepUp | None:
    step_up = outcome.decision.step_up if outcome.decision is not None else None
    if outcome.verdict is not Verdict.STEP_UP or step_up is None or outcome.principal is None:
        return None
    age = step_up.max_age_seconds
    return WantedStepUp(
        session_id=outcome.principal.session.id,
        max_age_seconds=None if age is None else int(age),
        methods=step_up.methods,
        context_classes=step_up.context_classes,
    )


def _withholds_authorization(request: CheckedRequest, route: Route, settings: Settings) -> bool:
    """Whether `Authorization` holds what is meant for us and not for the application."""
    return is_in_authorization(request) or (
        not route.pass_bearer and bool(presented_externally(request, route, settings))
    )


def _ok(to_set: dict[str, str], to_remove: set[str]) -> CheckResponse:
    # INVARIANT: no header is both set and removed; Envoy would deliver none.
    response = CheckResponse(
        ok_response=OkHttpResponse(
            headers=[_header(name, value, _OVERWRITE) for name, value in to_set.items()],
            headers_to_remove=sorted(to_remove - to_set.keys()),
        )
    )
    response.status.code = _OK
    return response


def unavailable(decision_id: str) -> CheckResponse:
    """The answer when deciding itself failed: refused, with nothing said but the id; empty where there is no record to find by it."""
    named = [(DECISION_ID_HEADER, decision_id)] if decision_id else []
    headers = [*SECURITY_HEADERS, *named, RETRY_AFTER, ("content-type", "application/json")]
    body = {"error": "unavailable", **({"decision_id": decision_id} if decision_id else {})}
    return _denied(503, headers, json.dumps(body) + "\n")


def _denied(status: int, headers: list[tuple[str, str]], body: str) -> CheckResponse:
    response = CheckResponse(
        denied_response=DeniedHttpResponse(
            status=HttpStatus(code=status),  # type: ignore[arg-type]  # every HTTP status is a member of the enum
            headers=[_header(name, value, _APPEND) for name, value in headers],
            body=body,
        )
    )
    response.status.code = _PERMISSION_DENIED
    return response


def _header(name: str, value: str, action: "HeaderValueOption.HeaderAppendAction.ValueType") -> HeaderValueOption:
    if value.isascii():
        return HeaderValueOption(header=HeaderValue(key=name, value=value), append_action=action)
    # As bytes: a client's cookie may hold what is no UTF-8, and must arrive as it came.
    return HeaderValueOption(header=HeaderValue(key=name, raw_value=value.encode("latin-1")), append_action=action)
