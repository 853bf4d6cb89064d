"""The worker: reads each directory when it is time, or when somebody asks, while it holds its lease."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from doorward.clock import Clock
from doorward.config.directory_settings import DirectorySettings
from doorward.errors import ConflictError, DataCorruptedError, DoorwardError, NotFoundError
from doorward.identity.directory import STATE_TYPE, DirectoryState
from doorward.records.client import RecordClient
from doorward.records.lease import hold_lease
from doorward_databroker.directory.port import Phase, Progress, Source
from doorward_databroker.directory.synchroniser import Outcome, Records, synchronise

LEASE_SECONDS = 30.0
_FIRST_RETRY_SECONDS = 15.0
_LOOK_SECONDS = 1.0

_log = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True)
class Status:
    """How one directory is, for whoever asks."""

    settings: DirectorySettings
    progress: Progress = field(default_factory=Progress)
    state: DirectoryState = field(default_factory=DirectoryState)
    problem: str = ""
    run: int = 0
    """Number of the run that is going on, or was the last."""
    finished_run: int = 0
    outcome: Outcome | None = None
    seconds: float = 0.0
    failures: int = 0


class DirectoryMetrics:
    """What operators watch."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("directory",)
        self.age = Gauge(
            "doorward_directory_age_seconds", "Since a directory was last read completely.", labels, registry=registry
        )
        self.people = Gauge("doorward_directory_users", "Entries in a directory.", labels, registry=registry)
        self.groups = Gauge("doorward_directory_groups", "Groups in a directory.", labels, registry=registry)
        self.failures = Counter(
            "doorward_directory_failures", "Runs that wrote nothing or not all.", labels, registry=registry
        )


class Worker:
    """Reads directories. Concurrency: one task for each; a directory is read by one replica at a time."""

    def __init__(
        self,
        client: RecordClient,
        make_source: Callable[[DirectorySettings], Source],
        clock: Clock,
        holder: str,
        metrics: DirectoryMetrics,
    ) -> None:
        self._client = client
        self._records: Records = client
        self._make_source = make_source
        self._clock = clock
        self._holder = holder
        self._metrics = metrics
        self._asked: dict[str, asyncio.Event] = {}
        self._accept: set[str] = set()
        self.statuses: dict[str, Status] = {}

    def ask(self, directory_id: str, *, accept_removals: bool) -> int:
        """Have a directory read now; the number of the run.

        Raises:
            NotFoundError: there is no such directory, or it is one that pushes.
        """
        status = self.statuses.get(directory_id)
        if status is None or status.settings.pushes:
            raise NotFoundError(f"no directory `{directory_id[:64]}` is read by this worker")
        if accept_removals:
            self._accept.add(directory_id)
        running = status.run > status.finished_run
        self._asked[directory_id].set()
        return status.run if running and not accept_removals else status.run + 1

    async def run(self, directories: list[DirectorySettings]) -> None:
        """Read ``directories`` until cancelled."""
        self.statuses.clear()
        self._asked.clear()
        for settings in directories:
            self.statuses[settings.id] = Status(settings)
            self._asked[settings.id] = asyncio.Event()
            # Shown from the start: to Prometheus a growth from nothing is none.
            self._metrics.failures.labels(settings.id)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_age())
            for settings in directories:
                if not settings.pushes:
                    group.create_task(self._keep(self.statuses[settings.id]))

    async def _keep(self, status: Status) -> None:
        source = self._make_source(status.settings)
        asked = self._asked[status.settings.id]
        wait = 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await asked.wait()
            forced = asked.is_set()
            asked.clear()
            await self.run_once(status, source, forced=forced)
            every = status.settings.every_seconds
            wait = (
                every if not status.failures else min(every, _FIRST_RETRY_SECONDS * 2.0 ** min(status.failures - 1, 10))
            )

    async def run_once(self, status: Status, source: Source, *, forced: bool) -> None:
        """Read one directory, unless another replica does or has just done so. Never raises what a directory can cause."""
        settings = status.settings
        accept = settings.id in self._accept
        self._accept.discard(settings.id)
        status.run += 1
        began = time.monotonic()
        try:
            async with hold_lease(self._client, f"directory/{settings.id}", self._holder, LEASE_SECONDS) as lease:
                await self._load_state(status)
                done_at = status.state.synchronised_at
                if not forced and done_at is not None and self._clock.now() - done_at < settings.every_seconds * 0.9:
                    status.failures = 0
                    return
                status.outcome = await synchronise(
                    settings,
                    source,
                    self._records,
                    self._clock,
                    status.progress,
                    lease.fence,
                    accept_removals=accept,
                )
                await self._load_state(status)
            status.problem, status.failures = "", 0
            _log.info(
                "a directory was read",
                directory=settings.id,
                users=status.outcome.users,
                groups=status.outcome.groups,
                written=status.outcome.written,
            )
        except ConflictError:
            status.progress.enter(Phase.ELSEWHERE)
            status.problem = "another replica holds its lease"
            return
        except DoorwardError as error:
            self._failed(status, str(error))
        except Exception as error:
            # A shape that nobody foresaw: nothing was written, and the other directories go on.
            _log.error("reading a directory failed", directory=settings.id, error=str(error), exc_info=True)
            self._failed(status, f"unexpected: {type(error).__name__}")
        finally:
            status.seconds = time.monotonic() - began
            status.finished_run = status.run
            if status.progress.phase is not Phase.ELSEWHERE:
                status.progress.enter(Phase.WAITING)

    def _failed(self, status: Status, reason: str) -> None:
        status.problem = reason
        status.failures += 1
        self._metrics.failures.labels(status.settings.id).inc()
        _log.warning("a directory was not read", directory=status.settings.id, reason=reason)

    async def _load_state(self, status: Status) -> None:
        try:
            record = await self._records.get(STATE_TYPE, status.settings.id)
            status.state = DirectoryState.from_bytes(record.data)
        except NotFoundError:
            return
        except DataCorruptedError:
            status.state = DirectoryState()  # as if it had never been read: the next reading writes it anew

    async def _watch_age(self) -> None:
        """Export how old each directory's word is; one that pushes says so with every change."""
        while True:
            for status in self.statuses.values():
                if status.settings.pushes:
                    try:
                        await self._load_state(status)
                    except DoorwardError as error:
                        status.problem = str(error)
                self._export(status)
            await asyncio.sleep(_LOOK_SECONDS)

    def _export(self, status: Status) -> None:
        name = status.settings.id
        if status.state.synchronised_at is not None:
            self._metrics.age.labels(name).set(self._clock.now() - status.state.synchronised_at)
        self._metrics.people.labels(name).set(status.state.users)
        self._metrics.groups.labels(name).set(status.state.groups)
