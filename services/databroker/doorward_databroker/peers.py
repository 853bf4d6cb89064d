"""Which authorizers may still decide by what they hold, on this databroker and on the others.

An authorizer's lease counts from a stamp of its own, which reached us after it was made: whatever it was granted has run out once
``limit`` has passed since its newest ping arrived. A lease is granted only after a heartbeat that names its holder was stored, so
whoever reads the heartbeats after a tombstone was stored sees every authorizer that may not know of it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from doorward.clock import Clock
from doorward.records.record import NO_VERSION, RecordVersion
from doorward_databroker.processes import ProcessTable
from doorward_databroker.store.port import Beat
from doorward_databroker.watch import WatchHub
from doorward_databroker.watcher import Watcher

SESSION = "Session"

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Heard:
    """Another databroker's newest report, when it was first seen, and what it says."""

    report: bytes
    since: float
    watchers: Mapping[str, RecordVersion]
    mended_epoch: int | None
    """``None`` from a version that does not say."""


class Peers:
    """What each databroker's heartbeat says about its watchers."""

    def __init__(self, hub: WatchHub, clock: Clock, databroker_id: str, staleness_limit_seconds: float) -> None:
        self.id = databroker_id
        self._hub = hub
        self._clock = clock
        self._limit = staleness_limit_seconds
        self._count = 0
        self.processes = ProcessTable(clock)
        """Every process of the deployment."""
        self._gone: dict[str, tuple[RecordVersion, float]] = {}
        """Watchers whose stream ended: how far they had come, and until when a lease of theirs can last."""
        self._others: dict[str, _Heard] = {}
        hub.others_behind = self.unmended

    def watcher_gone(self, watcher: Watcher) -> None:
        """Remember a watcher whose stream ended: it decides by its copy until its lease has run out."""
        now = self._clock.monotonic()
        self._gone = {name: entry for name, entry in self._gone.items() if entry[1] > now}
        if watcher.stamped_at is not None and SESSION in watcher.types:
            self._gone[watcher.id] = (watcher.acknowledged, watcher.stamped_at + self._limit)

    def report(self) -> bytes:
        """What the next heartbeat says; never the same twice, so that silence can be told from no change."""
        self._count += 1
        behind = {name: [version.epoch, version.number] for name, version in self._own().items()}
        said = {
            "count": self._count,
            "watchers": behind,
            "mended_epoch": self._hub.mended_epoch,
            "processes": self.processes.shared(),
        }
        return json.dumps(said).encode()

    def hear(self, beat: Beat) -> None:
        """Take in what the others have said."""
        now = self._clock.monotonic()
        # A store that has lost history may have lost a heartbeat too; what was granted by then has not ended with it.
        heard = {name: known for name, known in self._others.items() if known.since + self._limit > now}
        for name, report in beat.peers.items():
            if name == self.id:
                continue
            known = self._others.get(name)
            if known is not None and known.report == report:
                heard[name] = known
                continue
            heard[name] = _Heard(report, now, _watchers(name, report), _mended_epoch(report))
            self._merge_processes(name, report)
        self._others = heard

    def _merge_processes(self, name: str, report: bytes) -> None:
        try:
            self.processes.merge(json.loads(report).get("processes", {}))
        except (ValueError, TypeError, AttributeError):
            _log.error("a databroker's word on processes cannot be read", databroker=name)

    def behind(self, version: RecordVersion) -> set[str]:
        """Names of the authorizers that may still decide by data from before ``version``."""
        now = self._clock.monotonic()
        reached: dict[str, RecordVersion] = {}
        seen = [self._own()] + [heard.watchers for heard in self._others.values() if heard.since + self._limit > now]
        for watchers in seen:
            for name, acknowledged in watchers.items():
                # One that has moved to another databroker is as far as it has come there.
                reached[name] = max(acknowledged, reached.get(name, NO_VERSION))
        return {name for name, acknowledged in reached.items() if acknowledged < version}

    def unmended(self, epoch: int) -> list[str]:
        """Databrokers heard of lately that have not put back yet what they knew before ``epoch``."""
        now = self._clock.monotonic()
        return [
            name
            for name, heard in self._others.items()
            if heard.since + self._limit > now and heard.mended_epoch is not None and heard.mended_epoch < epoch
        ]

    @property
    def databrokers(self) -> list[str]:
        """Ids of the databrokers heard of lately, this one included."""
        return sorted({self.id, *self._others})

    def _own(self) -> dict[str, RecordVersion]:
        now = self._clock.monotonic()
        found = {name: version for name, (version, until) in self._gone.items() if until > now}
        for watcher in self._hub.watchers:
            if SESSION in watcher.types and watcher.stamped_at is not None and watcher.stamped_at + self._limit > now:
                found[watcher.id] = max(watcher.acknowledged, found.get(watcher.id, NO_VERSION))
        return found


def _watchers(name: str, report: bytes) -> Mapping[str, RecordVersion]:
    try:
        entries = json.loads(report)["watchers"]
        return {watcher: RecordVersion(int(entry[0]), int(entry[1])) for watcher, entry in entries.items()}
    except (ValueError, TypeError, KeyError, AttributeError, IndexError):
        # It may hold anybody; until it says something readable, a revoke waits for it.
        _log.error("a databroker's heartbeat cannot be read", databroker=name)
        return {f"databroker {name}": NO_VERSION}


def _mended_epoch(report: bytes) -> int | None:
    try:
        value = json.loads(report)["mended_epoch"]
    except (ValueError, TypeError, KeyError):
        return None
    return value if isinstance(value, int) else None
