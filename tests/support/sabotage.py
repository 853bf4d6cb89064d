"""Failures at every line: a piece of code is run again and again, and each time something is raised at the next point of it."""

import collections
import linecache
import sys
from collections.abc import Callable, Iterator
from types import FrameType, ModuleType, TracebackType
from typing import Any, Self


class Sabotage:
    """While it is entered, raises ``error`` at the ``at``-th line that is run in ``modules``; 0 only counts them.

    With ``nth`` each line counts once, when it is run for that time: for code that goes round and round.
    """

    def __init__(
        self, modules: tuple[ModuleType, ...], at: int, error: BaseException, *, nth: int | None = None
    ) -> None:
        self._files = {module.__file__ for module in modules}
        self._at = at
        self._error = error
        self._nth = nth
        self._runs: collections.Counter[tuple[str, int]] = collections.Counter()
        self.lines = 0
        self.place = ""

    def __enter__(self) -> Self:
        sys.settrace(self._enter_frame)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.settrace(None)

    def _enter_frame(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        if frame.f_code.co_filename not in self._files:
            return None
        return self._line if event == "call" else None

    def _line(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any]:
        # `try:` runs nothing that could fail, and what it guards begins after it.
        if (
            event == "line"
            and not self.place
            and linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip() != "try:"
        ):
            self._runs[frame.f_code.co_filename, frame.f_lineno] += 1
            counts = self._nth in {None, self._runs[frame.f_code.co_filename, frame.f_lineno]}
            self.lines += counts
            if counts and self.lines == self._at:
                self.place = f"{frame.f_code.co_qualname}:{frame.f_lineno}"
                raise self._error
        return self._line


def every_point(
    run: Callable[[Sabotage], None],
    *modules: ModuleType,
    error: Callable[[], BaseException],
    nth: int | None = None,
) -> Iterator[str]:
    """Run once to count the points, then once for each; yields where it failed after each run."""
    counting = Sabotage(modules, 0, error(), nth=nth)
    run(counting)
    assert counting.lines > 0
    for at in range(1, counting.lines + 1):
        sabotage = Sabotage(modules, at, error(), nth=nth)
        run(sabotage)
        yield sabotage.place
