"""What a policy says."""

from dataclasses import dataclass
from enum import StrEnum


class Effect(StrEnum):
    """What becomes of a request."""

    ALLOW = "allow"
    DENY = "deny"
    """Also whenever anything is unknown or goes wrong."""
    SIGN_IN = "sign-in"
    """Nobody is signed in, and somebody might be let in."""
    STEP_UP = "step-up"
    """Somebody is kept out only because their sign-in is too old or too weak."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepUp:
    """The sign-in that would be let in."""

    max_age_seconds: float | None = None
    """How old it may be; ``None``: any age."""
    methods: tuple[str, ...] = ()
    """Authentication methods (`amr`) of which the policy asks for one; none: any."""
    context_classes: tuple[str, ...] = ()
    """Context classes (`acr`) of which the policy asks for one; none: any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The outcome, and why.

    ``reasons`` are stable words in kebab case, sorted. ``rule`` names the rule that decided (the first one that signing
    in might satisfy, for ``SIGN_IN``), or is ``None`` when none did.
    """

    effect: Effect
    reasons: tuple[str, ...] = ()
    rule: str | None = None
    step_up: StepUp | None = None
    """With ``STEP_UP`` alone."""


POLICY_ERROR = "policy-error"
"""The reason when a rule could not be evaluated; such a request is denied."""
NO_RULE = "no-rule-allows"
"""The reason when a policy has no allow rule at all."""
UNAUTHENTICATED = "user-unauthenticated"
"""The reason of every identity criterion for somebody who is not signed in."""
