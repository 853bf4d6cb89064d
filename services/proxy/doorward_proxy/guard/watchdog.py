"""Ends the process when its event loop stands still: a guard that cannot cut must not hold streams open.

Envoy takes the loss of the guard for the end of every call, and resets the streams.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable

BEAT_SECONDS = 0.2
STILL_SECONDS = 4.0
"""Longer than any pause that the machine's load explains, and within the default staleness limit."""
EXIT_STATUS = 70


class Watchdog:
    """A thread that expects ``run`` to beat."""

    def __init__(
        self, still_seconds: float = STILL_SECONDS, end: Callable[[], None] = lambda: os._exit(EXIT_STATUS)
    ) -> None:
        self._still = still_seconds
        self._end = end
        self._beaten = time.monotonic()
        self._done = threading.Event()

    async def run(self) -> None:
        """Beat until cancelled."""
        self._beaten = time.monotonic()
        thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        thread.start()
        try:
            while True:
                await asyncio.sleep(BEAT_SECONDS)
                self._beaten = time.monotonic()
        finally:
            self._done.set()

    def _watch(self) -> None:
        try:
            while not self._done.wait(BEAT_SECONDS):
                if time.monotonic() - self._beaten >= self._still:
                    return
        finally:
            # However the watch has ended: what nobody watches must not go on.
            if not self._done.is_set():
                self._end()
