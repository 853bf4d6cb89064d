"""One client on the aggregated stream: in which order its types are brought up to date. No I/O.

Make before break: clusters and secrets, then listeners, then routes, each answered before the next is sent; what
nothing refers to any more goes last, and late: a request chooses its cluster before it is checked. Envoy holds back its answer for clusters until new ones are warm.
"""

from dataclasses import dataclass

from doorward.envoy_api.envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
)
from doorward_proxy.xds.snapshot import (
    CLUSTER_TYPE,
    LISTENER_TYPE,
    ROUTE_TYPE,
    SCOPE_TYPE,
    SECRET_TYPE,
    TYPES,
    Snapshot,
)
from doorward_proxy.xds.subscription import Refused, Subscription

_STAGES = ((SECRET_TYPE, CLUSTER_TYPE), (LISTENER_TYPE,), (ROUTE_TYPE, SCOPE_TYPE))


@dataclass(frozen=True, slots=True)
class Refusal:
    """A client's refusal of part of a snapshot."""

    type_url: str
    names: tuple[str, ...]
    message: str
    generation: str
    """Generation of the snapshot that was refused."""
    version: str
    """Its version: generations repeat when a host is isolated, versions do not."""


class ClientStream:
    """Everything about one client.

    Concurrency: belongs to one task.
    """

    def __init__(self) -> None:
        self._subscriptions = {type_url: Subscription(type_url) for type_url in TYPES}
        self._snapshot: Snapshot | None = None
        self._system_version = ""
        self._impatient = False
        self._removing = False

    def move_to(self, snapshot: Snapshot) -> None:
        """Bring the client to ``snapshot`` from now on."""
        if snapshot is not self._snapshot:
            self._snapshot = snapshot
            self._system_version = snapshot.version
            self._impatient = False
            self._removing = False
            for subscription in self._subscriptions.values():
                subscription.retry()

    def take(self, request: DeltaDiscoveryRequest) -> Refusal | None:
        """Apply a request; the refusal, if it is one. Requests for types that we do not serve are ignored."""
        subscription = self._subscriptions.get(request.type_url)
        if subscription is None:
            return None
        match subscription.take(request):
            case Refused(names=names, message=message):
                generation = self._snapshot.generation if self._snapshot else ""
                return Refusal(request.type_url, names, message, generation, self._system_version)
            case _:
                return None

    def skip_wait(self) -> None:
        """Stop holding later stages back: an answer takes too long (a name that does not resolve, for one)."""
        self._impatient = True

    def remove_clusters(self) -> None:
        """Take back the clusters that nothing refers to any more: requests that had chosen one have had their time."""
        self._removing = True

    @property
    def holds_removed(self) -> bool:
        """Whether the client is current but for clusters that are to be taken back."""
        snapshot = self._snapshot
        return (
            snapshot is not None
            and self.current
            and not self._subscriptions[CLUSTER_TYPE].is_current(snapshot.resources[CLUSTER_TYPE])
        )

    @property
    def waiting(self) -> bool:
        """Whether an answer is missing that holds something back."""
        return any(subscription.waiting for subscription in self._subscriptions.values())

    @property
    def current(self) -> bool:
        """Whether the client has taken over the whole snapshot; it may still hold clusters that are gone."""
        snapshot = self._snapshot
        return snapshot is not None and all(
            (subscription.opened or not snapshot.resources[type_url])
            and subscription.is_current(snapshot.resources[type_url], removals=type_url != CLUSTER_TYPE)
            for type_url, subscription in self._subscriptions.items()
        )

    def responses(self) -> list[DeltaDiscoveryResponse]:
        """What can be sent now."""
        snapshot = self._snapshot
        if snapshot is None:
            return []
        found = []
        for stage in _STAGES:
            held_up = False
            for type_url in stage:
                subscription = self._subscriptions[type_url]
                response = subscription.next_response(
                    snapshot.resources[type_url], self._system_version, removals=type_url != CLUSTER_TYPE
                )
                if response is not None:
                    found.append(response)
                # A client that has not asked for a type cannot be waited for: it asks once it needs it.
                held_up = held_up or subscription.waiting
            if held_up and not self._impatient:
                return found
        if self._removing and self.holds_removed:
            response = self._subscriptions[CLUSTER_TYPE].next_response(
                snapshot.resources[CLUSTER_TYPE], self._system_version, removals=True
            )
            found += [response] if response is not None else []
        return found
