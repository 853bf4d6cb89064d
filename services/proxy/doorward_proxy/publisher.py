"""The order of a change: build, gate, authorize first, then Envoy; and what to do when Envoy refuses.

    settings ─► build ─► gate ─► authorize and authenticate have it (≤ 2 s) ─► discovery service
                                                                                          │ refusal
                 publish the rest with the guilty hosts on 503 ◄── isolate ◄──────────────┘

Concurrency: one task runs ``run``; ``submit`` and ``on_refusal`` may be called from anywhere on the loop.
"""

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Protocol

import structlog

from doorward.clock import Clock
from doorward.config.settings import Settings
from doorward.errors import UnavailableError
from doorward_proxy.gate import Gate, GateClosedError
from doorward_proxy.isolation import Isolation
from doorward_proxy.metrics import ProxyMetrics
from doorward_proxy.xds.snapshot import Snapshot
from doorward_proxy.xds.stream import Refusal

AUTHORIZE_SECONDS = 2.0
_POLL_SECONDS = 0.02

_log = structlog.stdlib.get_logger(__name__)


class Deciders(Protocol):
    """Who must know a configuration before Envoy does."""

    async def behind(self, generation: str) -> list[str]:
        """Names of the live ones that do not run ``generation`` yet.

        Raises:
            UnavailableError: nothing is known about them.
        """
        ...


class Discovery(Protocol):
    """Where snapshots are served."""

    def publish(self, snapshot: Snapshot) -> None:
        """Serve this one from now on."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class PublisherStatus:
    """What is published, and what is not."""

    generation: str | None
    """Of the published settings; ``None`` before the first."""
    isolated: tuple[tuple[str, str], ...]
    """Hosts on 503 because Envoy refuses them, each with its reason."""
    fault: str | None
    """Why the newest settings are not published, or not wholly accepted."""


class Publisher:
    """Brings settings to Envoy."""

    def __init__(
        self,
        *,
        build: Callable[[Settings], Snapshot],
        discovery: Discovery,
        deciders: Deciders,
        isolation: Isolation,
        clock: Clock,
        metrics: ProxyMetrics,
    ) -> None:
        self._build = build
        self._discovery = discovery
        self._deciders = deciders
        self._isolation = isolation
        self._gate = Gate()
        self._clock = clock
        self._metrics = metrics
        self._next_settings: Settings | None = None
        self._newest: Settings | None = None
        self._next_refusal: Refusal | None = None
        self._wake = asyncio.Event()
        self._settings: Settings | None = None
        self._snapshot: Snapshot | None = None
        self._waiting_since: float | None = None
        """When the first of the settings came that wait to be published."""
        self.status = PublisherStatus(None, (), None)

    def submit(self, settings: Settings) -> None:
        """Publish ``settings`` next; what waits to be published is superseded."""
        self._next_settings = self._newest = settings
        self._wake.set()

    def publish_again(self) -> None:
        """Publish the newest settings once more: what they are built with has changed."""
        if self._next_settings is None and self._newest is not None:
            self.submit(self._newest)

    def on_refusal(self, refusal: Refusal) -> None:
        """Envoy refuses part of what is published. Several refusals of one snapshot are looked into once."""
        self._next_refusal = refusal
        self._wake.set()

    async def run(self) -> None:
        """Publish what is submitted until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            settings, self._next_settings = self._next_settings, None
            refusal, self._next_refusal = self._next_refusal, None
            try:
                if settings is not None:
                    await self._publish(settings)
                elif refusal is not None:
                    await self._isolate(refusal)
            except Exception as error:
                # What Envoy has stays in force; the next change gets its chance.
                self._fault(f"{type(error).__name__}: {error}")
                _log.error("the configuration could not be published", error=str(error), exc_info=True)

    async def _publish(self, settings: Settings) -> None:
        if self._waiting_since is None:
            self._waiting_since = self._clock.monotonic()
        snapshot = self._admitted(settings)
        if await self._await_deciders(settings.generation, self._waiting_since + AUTHORIZE_SECONDS):
            self._hand_over(settings, snapshot, ())

    def _admitted(self, settings: Settings) -> Snapshot:
        """The snapshot for ``settings``.

        Raises:
            GateClosedError: it is not what may be published.
        """
        snapshot = self._build(settings)
        try:
            self._gate.admit(snapshot)
        except GateClosedError as error:
            self._metrics.gate_closed.inc()
            _log.critical("the gate refuses the configuration", violations=error.violations)
            raise
        return snapshot

    def _hand_over(self, settings: Settings, snapshot: Snapshot, isolated: tuple[tuple[str, str], ...]) -> None:
        self._settings, self._snapshot, self._waiting_since = settings, snapshot, None
        self._discovery.publish(snapshot)
        self._metrics.published.inc()
        self._metrics.isolated.set(len(isolated))
        self.status = PublisherStatus(settings.generation, isolated, None)
        _log.info("published", generation=settings.generation, version=snapshot.version, isolated=len(isolated))

    async def _await_deciders(self, generation: str, deadline: float) -> bool:
        """Return true once everybody who decides runs ``generation``, or at ``deadline`` with a warning.

        Authorize denies what it does not know, so being early costs refusals, never a leak. False when newer settings wait: nobody
        who runs those already would say so of these again. The deadline is that of the first change that waits, so that changes
        without end are published all the same.
        """
        missing = ["nobody is known"]
        while self._clock.monotonic() < deadline:
            try:
                async with asyncio.timeout(AUTHORIZE_SECONDS):
                    missing = await self._deciders.behind(generation)
            except (UnavailableError, TimeoutError) as error:
                missing = [str(error)]
            if not missing:
                return True
            if self._superseded():
                return False
            await asyncio.sleep(_POLL_SECONDS)
        self._metrics.unsynchronised.inc()
        _log.warning("publishing before everybody who decides has it", generation=generation, missing=missing)
        return True

    async def _isolate(self, refusal: Refusal) -> None:
        """Find the hosts that Envoy refuses, and publish the rest with those on 503."""
        settings, snapshot = self._settings, self._snapshot
        if settings is None or snapshot is None or refusal.version != snapshot.version or self._superseded():
            return
        self._fault(refusal.message)
        already = dict(self.status.isolated)
        guilty = await self._isolation.guilty_hosts(settings)
        if self._superseded():
            return
        if not guilty or guilty.keys() <= already.keys():
            _log.critical("envoy refuses its configuration, and no single host explains it", reason=refusal.message)
            return
        found = {**already, **guilty}
        rest = dataclasses.replace(
            settings, broken_hosts=tuple(sorted({**dict(settings.broken_hosts), **found}.items()))
        )
        for host, reason in guilty.items():
            _log.error("envoy refuses this host; it answers 503", host=host, reason=reason)
        self._hand_over(rest, self._admitted(rest), tuple(sorted(found.items())))
        self._fault(refusal.message)

    def _superseded(self) -> bool:
        """Whether newer settings wait: nothing older is worth any more work."""
        return self._next_settings is not None

    def _fault(self, reason: str) -> None:
        self.status = dataclasses.replace(self.status, fault=reason)
