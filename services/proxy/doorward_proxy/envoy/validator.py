"""Asks the binary itself whether it would accept a snapshot.

What Envoy refuses is not written down anywhere but in Envoy. ``--mode validate`` reads a configuration the way a
running Envoy would, without opening a listener. It costs a fraction of a second, so it is asked after a refusal, not
before each publication.
"""

import asyncio
import contextlib
import itertools
from pathlib import Path

from google.protobuf.any_pb2 import Any as AnyMessage

from doorward.envoy_api.envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from doorward.envoy_api.envoy.config.core.v3.base_pb2 import Node
from doorward.envoy_api.envoy.config.listener.v3.listener_pb2 import Listener
from doorward.envoy_api.envoy.config.route.v3.route_pb2 import RouteConfiguration
from doorward.envoy_api.envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from doorward_proxy.envoy.bootstrap import as_json
from doorward_proxy.envoy.process import write_private
from doorward_proxy.resources.messages import packed
from doorward_proxy.xds.snapshot import Snapshot

_TIMEOUT_SECONDS = 20.0
_REASON_LIMIT = 500


class EnvoyValidator:
    """Validates snapshots with one binary; scratch files lie in ``folder`` and hold no key."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self._binary = binary
        self._folder = folder
        self._numbers = itertools.count(1)

    async def refusal(self, snapshot: Snapshot) -> str | None:
        """Why Envoy would refuse ``snapshot``, or ``None`` when it would take it."""
        path = self._folder / f"validate-{next(self._numbers)}.json"
        write_private(path, as_json(static_bootstrap(snapshot)))
        try:
            return await self._validate(path)
        finally:
            path.unlink(missing_ok=True)

    async def _validate(self, path: Path) -> str | None:
        process = await asyncio.create_subprocess_exec(
            str(self._binary),
            *("--mode", "validate", "--config-path", str(path), "--log-level", "error", "--disable-hot-restart"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), _TIMEOUT_SECONDS)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            return "envoy did not come to an answer"
        if process.returncode == 0:
            return None
        return output.decode(errors="replace").strip()[-_REASON_LIMIT:] or "envoy gives no reason"


def static_bootstrap(snapshot: Snapshot) -> Bootstrap:
    """``snapshot`` as a static configuration, without certificates: a key has no business in a scratch file."""
    listeners = [_static_listener(listener, snapshot) for listener in snapshot.listeners]
    return Bootstrap(
        node=Node(id="validation", cluster="doorward"),
        static_resources=Bootstrap.StaticResources(clusters=snapshot.clusters, listeners=listeners),
    )


def _static_listener(listener: Listener, snapshot: Snapshot) -> Listener:
    static = Listener()
    static.CopyFrom(listener)
    for chain in static.filter_chains:
        chain.ClearField("transport_socket")
        for item in chain.filters:
            item.typed_config.CopyFrom(_with_routes(item.typed_config, snapshot))
    return static


def _with_routes(config: AnyMessage, snapshot: Snapshot) -> AnyMessage:
    manager = HttpConnectionManager()
    if not config.Unpack(manager):
        return config
    if manager.HasField("scoped_routes"):
        # What is looked for is a bad host; how it travels makes no difference to that.
        hosts = [host for scope in snapshot.scopes for host in scope.route_configuration.virtual_hosts]
        manager.route_config.CopyFrom(RouteConfiguration(name="scopes", virtual_hosts=hosts))
        return packed(manager)
    wanted = manager.rds.route_config_name
    for routes in snapshot.routes:
        if routes.name == wanted:
            manager.route_config.CopyFrom(routes)
    return packed(manager)
