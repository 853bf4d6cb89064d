"""What becomes of a checked request: a closed set, decided here and worded elsewhere."""

from dataclasses import dataclass
from enum import StrEnum

from doorward.policy import Decision
from doorward_authorize.principal import Principal
from doorward_authorize.snapshot import CompiledRoute

CHECK_FAILED = "check-failed"
"""The reason where deciding itself failed, or there was nothing that could be read."""
OVERLOADED = "overloaded"
"""The reason where there was no time to decide."""
DATA_STALE = "data-stale"
"""The reason of an authorizer that cannot decide because its data are too old; another one may."""
NOT_RECORDED = "not-recorded"
"""The reason where the answer may not come before its record, and the record did not come in time."""


class Verdict(StrEnum):
    """The kinds of answer."""

    ALLOW = "allow"
    SIGN_IN = "sign-in"
    STEP_UP = "step-up"
    DENY = "deny"
    FOREIGN_ORIGIN = "foreign-origin"
    BAD_REQUEST = "bad-request"
    METHOD_NOT_ALLOWED = "method-not-allowed"
    """A method that the route does not take; no policy was asked."""
    MISDIRECTED = "misdirected"
    """The connection was not asked for what this host asks of its clients."""
    UNACCEPTED = "unaccepted"
    """A credential was presented that is nobody's."""
    UNAVAILABLE = "unavailable"
    """Nobody can be let in now, whoever asks."""
    CUT = "cut"
    """An open stream whose access has ended; no answer, but a decision."""
    PREFLIGHT = "preflight"
    """A preflight that a route's list answers."""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """A verdict with what the answer and the record need. Not frozen, because one is made for each check; never changed."""

    verdict: Verdict
    reasons: tuple[str, ...] = ()
    rule: str | None = None
    route: CompiledRoute | None = None
    """``None`` for our own pages and for what is not an operator's route."""
    principal: Principal | None = None
    user_id: str | None = None
    session_id: str | None = None
    decision: Decision | None = None
    """What the policy said, where one was asked."""
