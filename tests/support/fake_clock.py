"""A clock that stands still until a test moves it."""


class FakeClock:
    """Obeys ``doorward.clock.Clock``; both readings move together."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now = now
        self._monotonic = 1000.0

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        self._now += seconds
        self._monotonic += seconds

    def jump(self, now: float) -> None:
        """Somebody sets the wall clock."""
        self._now = now
