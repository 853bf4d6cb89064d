"""What one client knows about one type of resource: the state of the delta discovery protocol, without I/O.

    request ──► take() ──► Accepted | Refused | Interest
    next_response(resources) ──► Response | None

Every response waits for its answer before the next one of its type, so that a refusal always names what was refused.
(xDS protocol, "Incremental xDS".)
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from doorward.envoy_api.envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
)
from doorward.envoy_api.envoy.service.discovery.v3.discovery_pb2 import Resource as DiscoveredResource
from doorward_proxy.xds.snapshot import Resource

WILDCARD = "*"


@dataclass(frozen=True, slots=True)
class Accepted:
    """The client has taken over what was sent (ACK)."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The client refuses what was sent, wholly or in part (NACK)."""

    names: tuple[str, ...]
    """What was sent; which of it is at fault stands in the text at best."""
    message: str


@dataclass(frozen=True, slots=True)
class Interest:
    """The client asks for more, or for less."""


@dataclass(slots=True)
class _Sent:
    nonce: str
    versions: dict[str, str]
    removed: frozenset[str]


@dataclass(slots=True)
class Subscription:
    """One type on one stream."""

    type_url: str
    _wildcard: bool = False
    _names: set[str] = field(default_factory=set)
    _held: dict[str, str] = field(default_factory=dict)
    """Versions that the client holds, by name."""
    _refused: dict[str, str] = field(default_factory=dict)
    """Versions that it has refused: not sent again before ``retry``."""
    _unanswered: set[str] = field(default_factory=set)
    """Names that it asked for and has heard nothing of; it waits until it does."""
    _outstanding: _Sent | None = None
    _opened: bool = False
    _count: int = 0
    _compared: tuple[Mapping[str, Resource], list[Resource], set[str]] | None = None
    """What ``_difference`` has found, until anything changes: ten thousand names are compared once for each step."""

    @property
    def opened(self) -> bool:
        """Whether the client has asked for anything of this type."""
        return self._opened

    @property
    def waiting(self) -> bool:
        """Whether a response is on its way that has not been answered."""
        return self._outstanding is not None

    def take(self, request: DeltaDiscoveryRequest) -> Accepted | Refused | Interest:
        """Apply a request of this type."""
        first = not self._opened
        self._opened = True
        self._compared = None
        if first:
            self._held.update(request.initial_resource_versions)
            # A first request that names nothing asks for everything (the form that Envoy uses).
            self._wildcard = not request.resource_names_subscribe
        for name in request.resource_names_subscribe:
            if name == WILDCARD:
                self._wildcard = True
            else:
                self._names.add(name)
                self._unanswered.add(name)
        for name in request.resource_names_unsubscribe:
            if name == WILDCARD:
                self._wildcard = False
            self._names.discard(name)
            self._unanswered.discard(name)
            self._held.pop(name, None)
        sent = self._outstanding
        if sent is None or request.response_nonce != sent.nonce:
            return Interest()
        self._outstanding = None
        if not request.HasField("error_detail"):
            return Accepted()
        for name, version in sent.versions.items():
            # Part of it may have been taken over all the same: what the client holds is no longer known.
            self._held.pop(name, None)
            self._refused[name] = version
        return Refused((*sent.versions, *sorted(sent.removed)), request.error_detail.message)

    def retry(self) -> None:
        """Allow refused versions to be sent once more: there is a new snapshot."""
        self._refused.clear()
        self._compared = None

    def is_current(self, resources: Mapping[str, Resource], *, removals: bool = True) -> bool:
        """Whether there is nothing to send."""
        changed, removed = self._difference(resources)
        return not changed and not (removed and removals) and not self._outstanding and not self._refused

    def next_response(
        self, resources: Mapping[str, Resource], system_version: str, *, removals: bool
    ) -> DeltaDiscoveryResponse | None:
        """The response that brings the client up to ``resources``, or ``None`` when it is, or must answer first.

        With ``removals`` off, what is gone stays with the client for now: something may still refer to it.
        """
        if not self._opened or self._outstanding is not None:
            return None
        changed, removed = self._difference(resources)
        missing = {name for name in self._unanswered if name not in resources}
        gone = (removed if removals else set()) | missing
        if not changed and not gone:
            return None
        self._count += 1
        self._compared = None
        nonce = str(self._count)
        self._outstanding = _Sent(nonce, {item.name: item.version for item in changed}, frozenset(gone))
        for item in changed:
            self._held[item.name] = item.version
        for name in gone:
            self._held.pop(name, None)
        self._unanswered -= {item.name for item in changed} | gone
        return DeltaDiscoveryResponse(
            system_version_info=system_version,
            type_url=self.type_url,
            nonce=nonce,
            resources=[
                DiscoveredResource(name=item.name, version=item.version, resource=item.body) for item in changed
            ],
            removed_resources=sorted(gone),
        )

    def _difference(self, resources: Mapping[str, Resource]) -> tuple[list[Resource], set[str]]:
        """What must be sent, and the names that must be taken back."""
        if self._compared is not None and self._compared[0] is resources:
            return self._compared[1:]
        held, unanswered = self._held, self._unanswered
        differing = [name for name, item in resources.items() if held.get(name) != item.version or name in unanswered]
        changed = [
            resources[name]
            for name in sorted(differing)
            if (self._wildcard or name in self._names) and self._refused.get(name) != resources[name].version
        ]
        removed = {name for name in held if name not in resources}
        self._compared = (resources, changed, removed)
        return changed, removed
