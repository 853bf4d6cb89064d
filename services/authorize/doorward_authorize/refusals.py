"""A refusal in the words of whoever asked: a browser, a program, gRPC, a Kubernetes client.

The words are safe constants; what went wrong is in the decision, which its id finds. Only the person's own facts are
shown, and what would have to change only where the route says so.
"""

import json
from dataclasses import dataclass

from doorward.config.settings import Settings
from doorward.policy import Facts, explain_policy
from doorward.route.internal import DECISION_ID_HEADER
from doorward.route.methods import ORDINARY_METHODS
from doorward.web.refusal_page import SECURITY_HEADERS, UNAVAILABLE_TEXT, UNAVAILABLE_TITLE, content_security_policy
from doorward.web.retry_after import RETRY_AFTER, RETRY_AFTER_SECONDS
from doorward_authorize.check_request import CheckedRequest
from doorward_authorize.outcome import Outcome, Verdict
from doorward_authorize.pages import page


@dataclass(frozen=True, slots=True, kw_only=True)
class _Words:
    status: int
    grpc_status: int
    """https://grpc.io/docs/guides/status-codes"""
    reason: str
    """A Kubernetes client's word for it (``metav1.StatusReason``)."""
    title: str
    text: str


_WORDS: dict[Verdict, _Words] = {
    Verdict.SIGN_IN: _Words(
        status=401,
        grpc_status=16,
        reason="Unauthorized",
        title="Sign in first",
        text="This page is for people who are signed in.",
    ),
    Verdict.STEP_UP: _Words(
        status=401,
        grpc_status=16,
        reason="Unauthorized",
        title="Sign in again",
        text="This page needs a fresher or stronger sign-in.",
    ),
    Verdict.DENY: _Words(
        status=403,
        grpc_status=7,
        reason="Forbidden",
        title="You may not open this page",
        text="The rules for this page do not let you in.",
    ),
    Verdict.FOREIGN_ORIGIN: _Words(
        status=403,
        grpc_status=7,
        reason="Forbidden",
        title="Request refused",
        text="The request came from a page of another site.",
    ),
    Verdict.BAD_REQUEST: _Words(
        status=400,
        grpc_status=3,
        reason="BadRequest",
        title="Request refused",
        text="The request can be read in more than one way.",
    ),
    Verdict.METHOD_NOT_ALLOWED: _Words(
        status=405,
        grpc_status=12,
        reason="MethodNotAllowed",
        title="Method refused",
        text="This address does not take requests of this kind.",
    ),
    Verdict.MISDIRECTED: _Words(
        status=421,
        grpc_status=14,
        reason="MisdirectedRequest",
        title="Connect again",
        text="This address needs a connection of its own.",
    ),
    Verdict.UNACCEPTED: _Words(
        status=401,
        grpc_status=16,
        reason="Unauthorized",
        title="Token refused",
        text="The token that was presented is not valid here.",
    ),
    Verdict.UNAVAILABLE: _Words(
        status=503,
        grpc_status=14,
        reason="ServiceUnavailable",
        title=UNAVAILABLE_TITLE,
        text=UNAVAILABLE_TEXT,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What the client gets."""

    http_status: int
    status: int
    """The same, but for gRPC, where HTTP says 200: what it comes to."""
    headers: list[tuple[str, str]]
    body: str = ""


def refused(request: CheckedRequest, outcome: Outcome, settings: Settings, decision_id: str, now: float) -> Refusal:
    """The refusal of ``request``."""
    words = _WORDS[outcome.verdict]
    headers = [*SECURITY_HEADERS, (DECISION_ID_HEADER, decision_id)]
    if words.status == 401:
        headers.append(("www-authenticate", f'Doorward sign-in="{settings.authenticate_origin}"'))
    if words.status == 405:
        taken = outcome.route.route.methods if outcome.route is not None else ORDINARY_METHODS
        headers.append(("allow", ", ".join(taken)))
    step_up = _step_up(outcome, settings)
    if step_up:
        headers.append(("www-authenticate", _challenge(step_up)))
    headers += _readable_by_a_listed_origin(request, outcome)
    if request.is_grpc:
        return _grpc(request, words, headers, decision_id)
    if words.status == 503:
        headers.append(RETRY_AFTER)
    if request.is_kubernetes:
        headers.append(("content-type", "application/json"))
        body = json.dumps(_kubernetes_status(words, decision_id)) + "\n"
        return Refusal(http_status=words.status, status=words.status, headers=headers, body=body)
    remedies = _remedies(request, outcome, now)
    explanation = outcome.route.route.explanation if outcome.route is not None else None
    if outcome.verdict is not Verdict.DENY:
        explanation = None
    if request.prefers_html and not request.is_upgrade:
        headers += [
            ("content-type", "text/html; charset=utf-8"),
            ("content-security-policy", content_security_policy()),
        ]
        shown = (words.text, explanation) if explanation else (words.text,)
        body = page(words.title, shown, decision_id, _who(outcome), remedies)
        return Refusal(http_status=words.status, status=words.status, headers=headers, body=body)
    told: dict[str, object] = {
        "error": outcome.verdict.value,
        "message": words.text,
        "reasons": list(outcome.reasons),
        "decision_id": decision_id,
    }
    if explanation:
        told["explanation"] = explanation
    if remedies:
        told["remedies"] = list(remedies)
    if words.status == 401:
        told["sign_in"] = settings.authenticate_origin
    if step_up:
        told["step_up"] = step_up
    headers.append(("content-type", "application/json"))
    return Refusal(http_status=words.status, status=words.status, headers=headers, body=json.dumps(told) + "\n")


def _step_up(outcome: Outcome, settings: Settings) -> dict[str, object]:
    """What a stronger sign-in must bring, as an identity provider is asked for it."""
    wanted = outcome.decision.step_up if outcome.decision is not None else None
    if outcome.verdict is not Verdict.STEP_UP or wanted is None or outcome.principal is None:
        return {}
    provider = settings.identity_provider(outcome.principal.session.identity_provider_id)
    classes = wanted.context_classes
    if provider is not None:
        classes = provider.acr_values(wanted.methods, classes)
    told: dict[str, object] = {}
    if wanted.max_age_seconds is not None:
        told["max_age"] = int(wanted.max_age_seconds)
    if classes:
        told["acr_values"] = list(classes)
    if wanted.methods:
        told["methods"] = list(wanted.methods)
    return told


def _challenge(step_up: dict[str, object]) -> str:
    """RFC 9470, section 3. Words of context classes are printable ASCII; a quote or backslash is escaped (RFC 9110, section 5.6.4)."""
    parts = ['Bearer error="insufficient_user_authentication"']
    parts.append('error_description="A fresher or stronger sign-in is needed"')
    classes = step_up.get("acr_values")
    if isinstance(classes, list):
        text = " ".join(classes).replace("\\", "\\\\").replace('"', '\\"')
        parts.append(f'acr_values="{text}"')
    if "max_age" in step_up:
        parts.append(f'max_age="{step_up["max_age"]}"')
    return ", ".join(parts)


def _grpc(request: CheckedRequest, words: _Words, headers: list[tuple[str, str]], decision_id: str) -> Refusal:
    """GRPC and gRPC-Web: the outcome travels in ``grpc-status``; HTTP 200 keeps clients from overriding it."""
    content_type = request.headers["content-type"][0].split(";", 1)[0]
    headers += [
        ("content-type", content_type if content_type.isascii() else "application/grpc"),
        ("grpc-status", str(words.grpc_status)),
        ("grpc-message", f"{words.title} (decision {decision_id})"),
    ]
    return Refusal(http_status=200, status=words.status, headers=headers)


def _kubernetes_status(words: _Words, decision_id: str) -> dict[str, object]:
    """A ``Status`` object, so that `kubectl` prints the message instead of complaining about the answer."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        **({"details": {"retryAfterSeconds": RETRY_AFTER_SECONDS}} if words.status == 503 else {}),
        "status": "Failure",
        "message": f"{words.text} (decision {decision_id})",
        "reason": words.reason,
        "code": words.status,
    }


def _readable_by_a_listed_origin(request: CheckedRequest, outcome: Outcome) -> list[tuple[str, str]]:
    """What lets a script of a listed origin read why it was refused (Fetch, section 3.2)."""
    origin = request.header("origin")
    if origin is None or outcome.route is None or origin not in outcome.route.route.allowed_origins:
        return []
    return [
        ("access-control-allow-origin", origin),
        ("access-control-allow-credentials", "true"),
        (
            "access-control-expose-headers",
            f"grpc-message, grpc-status, retry-after, www-authenticate, {DECISION_ID_HEADER}",
        ),
        ("vary", "origin"),
    ]


def _remedies(request: CheckedRequest, outcome: Outcome, now: float) -> tuple[str, ...]:
    """What would have to change for this person to be let in; nothing unless the route says that it may be told."""
    if outcome.verdict is not Verdict.DENY or outcome.route is None or not outcome.route.route.show_remedy:
        return ()
    facts = request.facts()
    if facts is None or outcome.decision is None:
        return ()
    principal = outcome.principal.facts if outcome.principal is not None else None
    inputs = Facts(principal=principal, request=facts, now=now)
    found = explain_policy(outcome.route.policy.policy, inputs).remedies
    return tuple("; ".join(change.render() for change in remedy.changes) for remedy in found if remedy.changes)


def _who(outcome: Outcome) -> str | None:
    if outcome.principal is None:
        return None
    return outcome.principal.facts.email or outcome.principal.user.name or outcome.principal.user.id
