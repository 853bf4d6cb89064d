"""Messages that would come many times a second while something is broken."""

from typing import Any, Protocol

from doorward.clock import Clock

SECONDS = 10.0


class Log(Protocol):
    """What is logged to."""

    def error(self, event: str, **fields: Any) -> Any:
        """Log an error."""
        ...

    def warning(self, event: str, **fields: Any) -> Any:
        """Log a warning."""
        ...


class Seldom:
    """Logs the first message of each text, and then at most one in ``SECONDS``, with how many were left out.

    The texts are constants of the caller, so that there are few; what varies goes into the fields.
    """

    def __init__(self, log: Log, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._left_out: dict[str, int] = {}
        self._logged_at: dict[str, float] = {}

    def error(self, event: str, **fields: Any) -> None:
        """Log an error, unless one of this text was logged just now."""
        if self._is_due(event):
            self._log.error(event, **fields, **self._count(event))

    def warning(self, event: str, **fields: Any) -> None:
        """Log a warning, unless one of this text was logged just now."""
        if self._is_due(event):
            self._log.warning(event, **fields, **self._count(event))

    def _is_due(self, event: str) -> bool:
        now = self._clock.monotonic()
        logged_at = self._logged_at.get(event)
        if logged_at is not None and now - logged_at < SECONDS:
            self._left_out[event] = self._left_out.get(event, 0) + 1
            return False
        self._logged_at[event] = now
        return True

    def _count(self, event: str) -> dict[str, int]:
        left_out = self._left_out.pop(event, 0)
        return {"left_out": left_out} if left_out else {}
