"""Step-up: a person who is signed in signs in again, fresher or stronger (RFC 9470; OpenID Connect Core, section 3.1.2.1).

asked for ─► the browser has a newer session that will do ─► back with that one
          ─► it has only just stepped up                   ─► a page with a button, so that nobody goes round in circles
          ─► to the identity provider with `max_age`, `acr_values`, `prompt`
               ─► another person, or claims that will not do ─► a page; nothing has changed
               ─► a new session, and the old one ends
"""

from doorward.config.settings import IdentityProviderSettings
from doorward.identity.session import Session
from doorward.keys.flow import WantedStepUp
from doorward_authenticate.errors import NotStrongerError
from doorward_authenticate.identity_providers.claims import Authentication

STEPPED_COOKIE = "__Host-doorward-stepped"
"""Names the session that a step-up has just made. Nothing is let in by it: it only breaks circles."""
STEPPED_SECONDS = 60


def authorization_parameters(
    wanted: WantedStepUp, provider: IdentityProviderSettings, *, insist: bool
) -> dict[str, str]:
    """What the identity provider is asked for beyond an ordinary sign-in; ``insist``: it did not do the last time."""
    parameters: dict[str, str] = {}
    if wanted.max_age_seconds is not None:
        # A little less, so that whoever just meets the limit is not sent here again a second later.
        parameters["max_age"] = str(wanted.max_age_seconds * 9 // 10)
    classes = provider.acr_values(wanted.methods, wanted.context_classes)
    if classes:
        parameters["acr_values"] = " ".join(classes)
    # Some take `max_age=0` for none at all; and without anything else only a new login gives a choice of methods.
    if insist or not parameters or parameters.get("max_age") == "0":
        parameters["prompt"] = "login"
    return parameters


def check_claims(wanted: WantedStepUp, how: Authentication, now: float) -> None:
    """Return only if the new sign-in is what was wanted.

    Raises:
        NotStrongerError: it is not, or the identity provider does not say.
    """
    if not _suffices(wanted, how.authenticated_at, how.methods, how.context_class, now):
        raise NotStrongerError(
            "the new sign-in is too old or too weak, or the identity provider does not say how it was done"
        )


def is_satisfied(wanted: WantedStepUp, session: Session, now: float) -> bool:
    """Whether a session that exists already is what was wanted."""
    return _suffices(wanted, session.authenticated_at, session.methods, session.context_class, now)


def stepped_seconds(wanted: WantedStepUp) -> int:
    """How long another step-up for the new session is a circle rather than the passing of time."""
    limit = wanted.max_age_seconds
    return STEPPED_SECONDS if limit is None else max(1, min(STEPPED_SECONDS, limit))


def _suffices(wanted: WantedStepUp, at: float | None, methods: tuple[str, ...], context_class: str, now: float) -> bool:
    if wanted.max_age_seconds is not None and (at is None or now - at >= wanted.max_age_seconds):
        return False
    if wanted.methods and not set(wanted.methods) & set(methods):
        return False
    return not wanted.context_classes or context_class in wanted.context_classes
