"""Envoy's admin interface, over its Unix socket."""

import urllib.parse
from pathlib import Path

from doorward.errors import UnavailableError
from doorward_proxy.local_http import LocalHttp


class EnvoyAdmin:
    """The few admin calls that a supervisor needs."""

    def __init__(self, socket: Path) -> None:
        self._http = LocalHttp(socket, "envoy's admin interface")

    async def is_live(self) -> bool:
        """Whether Envoy serves: it has its first configuration and its workers run."""
        try:
            return (await self._http.call("GET", "/ready")).strip() == "LIVE"
        except UnavailableError:
            return False

    async def start_drain(self) -> None:
        """Stop accepting, and ask the clients of open connections to go elsewhere.

        Raises:
            UnavailableError: Envoy does not answer.
        """
        # Graceful alone would go on accepting; skipping the exit keeps Envoy itself running until we end it.
        await self._http.call("POST", "/drain_listeners?graceful&skip_exit")

    async def open_connections(self) -> int:
        """Connections of clients to the public listener that are still open.

        Raises:
            UnavailableError: Envoy does not answer, or says something else.
        """
        text = await self._http.call("GET", "/stats?filter=^http.public.downstream_cx_active$")
        return sum(_value(line) for line in text.splitlines() if line)

    async def healthy_members(self, cluster: str) -> int:
        """How many endpoints of ``cluster`` Envoy takes for healthy.

        Raises:
            UnavailableError: Envoy does not answer, or says something else.
        """
        text = await self._http.call("GET", f"/stats?filter=^cluster.{cluster}.membership_healthy$")
        return sum(_value(line) for line in text.splitlines() if line)

    async def figures(self, kind: str, pattern: str) -> dict[str, int]:
        """`Counters` or `Gauges` whose names match ``pattern`` and that were ever counted.

        Raises:
            UnavailableError: Envoy does not answer, or says something else.
        """
        query = urllib.parse.urlencode({"type": kind, "filter": pattern})
        text = await self._http.call("GET", f"/stats?usedonly&{query}")
        return {line.partition(": ")[0]: _value(line) for line in text.splitlines() if line}


def _value(line: str) -> int:
    _, _, number = line.partition(": ")
    try:
        return int(number)
    except ValueError:
        raise UnavailableError("envoy's admin interface answers with something else") from None
