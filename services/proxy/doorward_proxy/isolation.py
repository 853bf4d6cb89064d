"""Which hosts Envoy refuses.

Envoy refuses a whole route configuration for one bad route and does not reliably say which. Each candidate is therefore
validated alone; halves first, so that one bad host among thousands costs a dozen questions.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

from doorward.config.settings import Settings
from doorward_proxy.xds.snapshot import Snapshot


class Validator(Protocol):
    """Somebody who knows what Envoy accepts."""

    async def refusal(self, snapshot: Snapshot) -> str | None:
        """Why Envoy would refuse ``snapshot``, or ``None``."""
        ...


class Isolation:
    """Finds guilty hosts by asking a validator."""

    def __init__(self, build: Callable[[Settings], Snapshot], validator: Validator) -> None:
        self._build = build
        self._validator = validator

    async def guilty_hosts(self, settings: Settings) -> dict[str, str]:
        """Each host that is refused even when it is the only one, with the reason.

        Empty when no single host is to blame: then it is not the operator's routes that are wrong.
        """
        if await self._refusal(settings, ()) is not None:
            return {}
        broken = {host for host, _ in settings.broken_hosts}
        return await self._search(settings, sorted({item.route.host for item in settings.routes} - broken))

    async def _search(self, settings: Settings, hosts: Sequence[str]) -> dict[str, str]:
        reason = await self._refusal(settings, hosts) if hosts else None
        if reason is None:
            return {}
        if len(hosts) == 1:
            return {hosts[0]: reason}
        middle = len(hosts) // 2
        return {**await self._search(settings, hosts[:middle]), **await self._search(settings, hosts[middle:])}

    async def _refusal(self, settings: Settings, hosts: Sequence[str]) -> str | None:
        """Why Envoy would refuse ``settings`` if ``hosts`` were all that is routed."""
        kept = set(hosts)
        only = dataclasses.replace(
            settings, routes=tuple(item for item in settings.routes if item.route.host in kept), broken_hosts=()
        )
        return await self._validator.refusal(self._build(only))
