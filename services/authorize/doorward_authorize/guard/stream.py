"""A stream that a guard holds, what is said about it, and to whom."""

from dataclasses import dataclass
from typing import Protocol

from doorward_authorize.guard.description import Description


@dataclass(frozen=True, slots=True)
class StreamVerdict:
    """What is said about one stream."""

    number: int
    allowed: bool
    limit_seconds: float = 0.0
    """How old the newest proof may be."""
    reason: str = ""
    unavailable: bool = False
    """Whether nobody was refused: the same may be asked again soon."""


class Watching(Protocol):
    """A guard's call: where verdicts go."""

    def say(self, verdict: StreamVerdict) -> None:
        """Queue one verdict; never waits."""
        ...

    def fail(self) -> None:
        """End the call: this authorizer cannot vouch for anything now."""
        ...


@dataclass(eq=False, slots=True)
class WatchedStream:
    """A stream that was let go on."""

    link: Watching
    number: int
    description: Description
    limit_seconds: float = 0.0
    directory_user_id: str = ""
    """The directory entry that it was decided by, when there is one."""
    further: frozenset[tuple[str, str]] = frozenset()
    """The records that it was decided by besides those of session and user, by type and id."""
    began: float = 0.0
    is_open: bool = False
    """When it was named, on the wall clock, and whether it was told since that it may go on."""
    due: int | None = None
    """Tenth of a second on the wall clock at which it is decided again though nothing has changed."""
