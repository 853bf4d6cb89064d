"""How a process that works in the background gives way to those that answer."""

import os
import threading
from pathlib import Path

_GROUP = Path("/proc/self/autogroup")
_AGAIN_SECONDS = 0.13
_TRIES = 20
_PROCESS_NICE = 5


class Priority:
    """How nice this process and its session are to others.

    Linux weighs sessions first, and then the processes of a session against each other (sched(7), "autogroup"). Among the processes
    of its parent's session niceness would count against that parent alone: who gives way needs a session of its own, and a process in
    somebody else's leaves that as it is. Within a control group, as in a container, sessions do not count, and the process's niceness does.
    """

    def __init__(self, group: Path = _GROUP) -> None:
        self._group = group
        self._leads = os.getsid(0) == os.getpid()
        self._is_nice = False
        self._nice = 0

    def lower(self) -> None:
        """Make the process nicer, once and for good: only root may take that back."""
        if not self._is_nice:
            os.nice(_PROCESS_NICE)
            self._is_nice = True

    def become(self, nice: int, done: threading.Event | None = None) -> None:
        """Make the session this nice (0 to 19). It may take a second; ``done`` ends it. What the kernel refuses is left."""
        done = done or threading.Event()
        if not self._leads or nice == self._nice:
            return
        for _ in range(_TRIES):
            try:
                with self._group.open("wb", buffering=0) as group:
                    if group.write(str(nice).encode()) is not None:
                        self._nice = nice
                        return
            except OSError:  # the kernel has no such groups, or we may not
                return
            if done.wait(_AGAIN_SECONDS):  # it allows this ten times a second to all together
                return
