"""When a session is looked after next. Pure; jitter comes in as a number between 0 and 1."""

from dataclasses import dataclass

from doorward_authenticate.session_life.tokens import ProviderTokens

SHORTEST_SECONDS = 30.0
"""Never sooner than this after the last time."""
LEAD_SECONDS = 60.0
"""An access token is renewed this long before it ends, or at nine tenths of a shorter life."""
_LAST_SECONDS = 5.0
_FIRST_RETRY_SECONDS = 30.0
_LONGEST_RETRY_SECONDS = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """How often identity providers are asked."""

    ask_every_seconds: float
    idle_seconds: float | None


def access_ends_soon(tokens: ProviderTokens, now: float) -> bool:
    """Whether the access token is not worth using any more; one that cannot be renewed is used to its end."""
    lead = LEAD_SECONDS if tokens.refresh_token is not None else _LAST_SECONDS
    return tokens.access_expires_at is not None and tokens.access_expires_at - lead <= now


def next_due(tokens: ProviderTokens, rhythm: Rhythm, now: float, jitter: float) -> float:
    """After a success: at the usual interval, or earlier when the access token ends before that.

    Jitter only ever brings it forward: sessions that began together must not stay together, and none may be late.
    """
    wait = rhythm.ask_every_seconds
    if tokens.access_expires_at is not None:
        life = tokens.access_expires_at - now
        wait = min(wait, max(life - LEAD_SECONDS, life * 0.9))
    return now + max(SHORTEST_SECONDS, wait * (1 - 0.2 * jitter))


def next_retry(failures: int, now: float, jitter: float) -> float:
    """After ``failures`` attempts in a row that found the identity provider away."""
    wait = min(_FIRST_RETRY_SECONDS * float(1 << min(max(failures - 1, 0), 10)), _LONGEST_RETRY_SECONDS)
    return now + wait * (1 + 0.5 * jitter)
