"""What the guard counts, told at the proxy plane's `/metrics`: the guard has a private socket, and a scraper one address for each plane."""

import asyncio
from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from doorward.errors import UnavailableError
from doorward_proxy.local_http import LocalHttp

EVERY_SECONDS = 10.0
_OURS = "doorward_guard_"
_UP = "doorward_guard_up"


class GuardFigures(Collector):
    """Reads them from time to time, and shows what was read last. Concurrency: belongs to one event loop."""

    def __init__(self, http: LocalHttp) -> None:
        self._http = http
        self._families: list[Metric] = []

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            await self.read()
            await asyncio.sleep(EVERY_SECONDS)

    async def read(self) -> None:
        """Read once. A guard that is away is not shown with what it counted before."""
        try:
            families = list(text_string_to_metric_families(await self._http.call("GET", "/metrics")))
        except (UnavailableError, ValueError):
            families = []
        # Of its process and of its collections there are figures of ours under the same names.
        self._families = [family for family in families if family.name.startswith(_OURS)]

    def collect(self) -> Iterable[Metric]:
        """What was read last."""
        yield GaugeMetricFamily(_UP, "Whether the guard tells its figures.", value=1.0 if self._families else 0.0)
        yield from self._families
