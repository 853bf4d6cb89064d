"""The machine's clock, that a test may set."""

import time


class JumpingClock:
    """Obeys ``doorward.clock.Clock``. The monotonic reading cannot be set, as on a machine."""

    def __init__(self) -> None:
        self.offset = 0.0

    def now(self) -> float:
        return time.time() + self.offset

    def monotonic(self) -> float:
        return time.monotonic()
