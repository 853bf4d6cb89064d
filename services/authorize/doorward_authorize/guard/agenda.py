"""When streams are decided again though nothing has changed. No clock of its own."""

import heapq
import math
from collections.abc import Iterator
from typing import TypeVar

from doorward_authorize.guard.stream import WatchedStream

_Key = TypeVar("_Key")


class Agenda:
    """Streams by the tenth of a second, on the wall clock, at which they are decided again."""

    def __init__(self) -> None:
        self._streams: dict[int, dict[WatchedStream, None]] = {}
        self._tenths: list[int] = []
        """A heap of these, each once, for as long as it lies ahead."""
        self._known_tenths: set[int] = set()

    def put(self, stream: WatchedStream, time: float) -> None:
        """``stream`` is due at ``time``, seconds since the Unix epoch, and no more at any other; never, if it is infinite."""
        tenth = math.ceil(time * 10) if math.isfinite(time) else None
        if tenth == stream.due:
            return
        self.drop(stream)
        stream.due = tenth
        if tenth is not None:
            self._streams.setdefault(tenth, {})[stream] = None
            if tenth not in self._known_tenths:
                self._known_tenths.add(tenth)
                heapq.heappush(self._tenths, tenth)

    def drop(self, stream: WatchedStream) -> None:
        """``stream`` is not due any more."""
        if stream.due is not None:
            discard(self._streams, stream.due, stream)
            stream.due = None

    def due(self, now: float) -> Iterator[WatchedStream]:
        """The streams whose time has come, each once."""
        while self._tenths and self._tenths[0] <= now * 10:
            tenth = heapq.heappop(self._tenths)
            self._known_tenths.discard(tenth)
            for stream in self._streams.pop(tenth, ()):
                stream.due = None
                yield stream


def discard(index: dict[_Key, dict[WatchedStream, None]], key: _Key, stream: WatchedStream) -> None:
    """Take ``stream`` out from under ``key``, and the key with the last of them."""
    streams = index.get(key)
    if streams is not None:
        streams.pop(stream, None)
        if not streams:
            del index[key]
