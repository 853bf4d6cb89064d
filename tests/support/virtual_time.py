"""An event loop whose time passes only when nothing else is left to do: seconds of waiting take none."""

import asyncio
import selectors
from collections.abc import Mapping
from typing import Any

_DEADLOCK_SECONDS = 10.0


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """For what has its peers in the same loop; what others do meanwhile, threads or processes, has no time for it."""

    def __init__(self) -> None:
        self._passed = 0.0
        super().__init__(_Impatient(self))

    def time(self) -> float:
        """See ``asyncio.AbstractEventLoop.time``."""
        return 1000.0 + self._passed

    def pass_by(self, seconds: float) -> None:
        """Let time pass."""
        self._passed += seconds


class _Impatient(selectors.BaseSelector):
    """Never waits where the loop only waits for its clock."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._inner = selectors.DefaultSelector()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = self._inner.select(0)
        if not events and timeout is None:
            events = self._inner.select(_DEADLOCK_SECONDS)
            assert events, "everything waits, and nothing will ever happen"
        elif not events and timeout is not None and timeout > 0:
            self._loop.pass_by(timeout)
        return events

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._inner.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._inner.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._inner.modify(fileobj, events, data)

    def close(self) -> None:
        self._inner.close()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._inner.get_map()
