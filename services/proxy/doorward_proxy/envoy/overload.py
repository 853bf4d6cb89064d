"""What Envoy does when its memory or its connections run out: give back, then refuse, and never die of it.

    90 % of the heap   gives freed memory back to the system
    93 %               closes connections after their present request
    95 %               accepts no more connections; they wait in the kernel
    98 %               answers 503 to requests, before anybody is asked

What is open goes on. A connection beyond the limit is closed as soon as it is there. The admin interface obeys neither, or nobody could look.
"""

from doorward.envoy_api.envoy.config.overload.v3.overload_pb2 import (
    OverloadAction,
    OverloadManager,
    ResourceMonitor,
    ThresholdTrigger,
    Trigger,
)
from doorward.envoy_api.envoy.extensions.resource_monitors.downstream_connections.v3.downstream_connections_pb2 import (
    DownstreamConnectionsConfig,
)
from doorward.envoy_api.envoy.extensions.resource_monitors.fixed_heap.v3.fixed_heap_pb2 import FixedHeapConfig
from doorward_proxy.resources.messages import packed, seconds

HEAP = "envoy.resource_monitors.fixed_heap"
CONNECTIONS = "envoy.resource_monitors.global_downstream_max_connections"
STEPS = (
    ("envoy.overload_actions.shrink_heap", 0.90),
    ("envoy.overload_actions.disable_http_keepalive", 0.93),
    ("envoy.overload_actions.stop_accepting_connections", 0.95),
    ("envoy.overload_actions.stop_accepting_requests", 0.98),
)
"""Actions, each with the part of the heap at which it begins."""
_LOOK_SECONDS = 0.25


def overload_manager(*, max_heap_bytes: int, max_connections: int) -> OverloadManager:
    """Limits of one Envoy."""
    heap = FixedHeapConfig(max_heap_size_bytes=max_heap_bytes)
    connections = DownstreamConnectionsConfig(max_active_downstream_connections=max_connections)
    return OverloadManager(
        refresh_interval=seconds(_LOOK_SECONDS),
        resource_monitors=[
            ResourceMonitor(name=HEAP, typed_config=packed(heap)),
            ResourceMonitor(name=CONNECTIONS, typed_config=packed(connections)),
        ],
        actions=[
            OverloadAction(name=name, triggers=[Trigger(name=HEAP, threshold=ThresholdTrigger(value=part))])
            for name, part in STEPS
        ],
    )


def one_form(manager: OverloadManager) -> OverloadManager | None:
    """The manager with the limits of ``manager`` and everything else as it must be; ``None`` when a limit is missing."""
    configs = {monitor.name: monitor.typed_config for monitor in manager.resource_monitors}
    heap, connections = FixedHeapConfig(), DownstreamConnectionsConfig()
    for name, config in ((HEAP, heap), (CONNECTIONS, connections)):
        if name not in configs or not configs[name].Unpack(config):
            return None
    if heap.max_heap_size_bytes <= 0 or connections.max_active_downstream_connections <= 0:
        return None
    return overload_manager(
        max_heap_bytes=heap.max_heap_size_bytes, max_connections=connections.max_active_downstream_connections
    )
