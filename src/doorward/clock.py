"""Time as a parameter: nothing below ``main.py`` asks the operating system for the hour itself."""

import time
from typing import Protocol


class Clock(Protocol):
    """Where a component gets the time from. Safe to share between tasks and threads."""

    def now(self) -> float:
        """Seconds since the Unix epoch, by the wall clock; may jump when the machine's clock is set."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back; the origin means nothing."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> float:
        """Seconds since the Unix epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds on the machine's monotonic clock."""
        return time.monotonic()
